"""
Proofs that are signed: private_key_jwt and the JWT of a GitHub App, also by a clock that is off.
"""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64decode
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc import jwk, jwt

from company_agents.errors import WrongUsage
from company_agents.integrations.oauth.assertion import app_assertion, check_key, client_assertion, clock_offset
from company_agents.integrations.oauth.calls import OAuthCalls
from company_agents.integrations.oauth.model import Client, Endpoints, Gone, NotNow, Rejected
from company_agents.integrations.oauth.quirks import github_installation_url
from company_agents.outgoing.exchange import Exchange
from company_agents.sensitive import Sensitive
from tests.oauth.asked import client, consented, endpoints, provider
from tests.oauth.server import AuthorizationServer

KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
}


def private(key: Any, form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8) -> Sensitive:
    return Sensitive(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


def public(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem


def parts(assertion: Sensitive) -> tuple[dict[str, Any], dict[str, Any]]:
    head, claims, _ = assertion.reveal_text().split(".")
    header, content = (json.loads(urlsafe_b64decode(part + "==")) for part in (head, claims))
    return header, content


@pytest.fixture
def proven(server: AuthorizationServer) -> Client:
    key = KEYS["ES256"]
    return client(server, "private_key_jwt", secret=private(key), public_key=public(key))


@pytest.mark.parametrize("algorithm", KEYS)
async def test_a_signed_proof_stands_for_a_secret(
    calls: OAuthCalls, server: AuthorizationServer, algorithm: str
) -> None:
    key = KEYS[algorithm]
    ours = client(server, "private_key_jwt", secret=private(key), public_key=public(key))
    granted = await consented(calls, server, ours)
    assert granted.refresh is not None
    again = await calls.refresh(provider(), ours, granted.refresh)
    assert await calls.introspect(provider(), ours, again.access) is True
    assert await calls.revoke(provider(), ours, again.access, "access_token") is True
    assert not server.is_good(again.access.reveal_text())
    sent = server.calls_to("/token")[0].fields
    assert "client_secret" not in sent
    assert parts(Sensitive(sent["client_assertion"]))[0]["alg"] == algorithm


def test_an_assertion_is_short_lived_for_one_audience_and_unlike_any_other() -> None:
    ours = Client("client-1", "private_key_jwt", Endpoints("https://a.example/token"), private(KEYS["ES256"]), "key-7")
    one, other = (client_assertion(ours, "https://a.example", now=1_000_000) for _ in range(2))
    header, claims = parts(one)
    assert header == {"typ": "JWT", "alg": "ES256", "kid": "key-7"}
    assert claims["jti"] != parts(other)[1]["jti"]
    assert {**claims, "jti": ""} == {
        **{"iss": "client-1", "sub": "client-1", "aud": "https://a.example", "jti": ""},
        **{"iat": 1_000_000 - 60, "exp": 1_000_000 + 180},
    }


@pytest.mark.parametrize("minutes", [-5, 5])
@pytest.mark.parametrize("issuer_known", [True, False])
async def test_a_clock_that_is_five_minutes_off_does_not_lock_out(
    exchange: Exchange, server: AuthorizationServer, proven: Client, minutes: int, issuer_known: bool
) -> None:
    ours_is_off = OAuthCalls(exchange, now=lambda: time.time() + 60 * minutes)
    known = proven if issuer_known else replace(proven, endpoints=replace(proven.endpoints, issuer=None))
    granted = await ours_is_off.client_credentials(provider(), known, ["read"])
    assert server.is_good(granted.access.reveal_text())
    assert len(server.calls_to("/token")) <= 2


async def test_a_server_whose_clock_is_years_off_is_not_followed(
    exchange: Exchange, server: AuthorizationServer, proven: Client
) -> None:
    server.clock_offset = 30 * 86_400
    ours_is_off = OAuthCalls(exchange, now=lambda: time.time() - 3600)
    with pytest.raises(Rejected, match="invalid_client"):
        await ours_is_off.client_credentials(provider(), proven, ["read"])


async def test_a_server_that_takes_its_address_only_is_shown_that(
    calls: OAuthCalls, server: AuthorizationServer, proven: Client
) -> None:
    server.state.takes_issuer_as_audience = False
    granted = await calls.client_credentials(provider(), proven, ["read"])
    assert server.is_good(granted.access.reveal_text())
    audiences = [parts(Sensitive(c.fields["client_assertion"]))[1]["aud"] for c in server.calls_to("/token")]
    assert audiences == [server.url, f"{server.url}/token"]


async def test_a_key_that_is_not_the_clients_is_rejected_after_a_few_tries(
    calls: OAuthCalls, server: AuthorizationServer
) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    ours = client(server, "private_key_jwt", secret=private(other), public_key=public(KEYS["ES256"]))
    with pytest.raises(Rejected, match="invalid_client"):
        await calls.client_credentials(provider(), ours, ["read"])
    assert len(server.calls_to("/token")) <= 3


@pytest.mark.parametrize(
    "key",
    [
        Sensitive("no key"),
        Sensitive(b"\xff\xfe"),
        Sensitive(public(KEYS["RS256"])),
        private(rsa.generate_private_key(65537, 1024)),
        private(ed25519.Ed25519PrivateKey.generate()),
        private(ec.generate_private_key(ec.SECP384R1())),
        Sensitive(
            KEYS["ES256"].private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"pass"),
            )
        ),
    ],
)
def test_a_key_that_cannot_sign_is_refused_before_it_is_kept(key: Sensitive) -> None:
    with pytest.raises(WrongUsage) as caught:
        check_key(key)
    assert "PRIVATE" not in str(caught.value)


@pytest.mark.parametrize("form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL])
def test_keys_are_taken_in_both_spellings_of_pem(form: serialization.PrivateFormat) -> None:
    check_key(private(KEYS["RS256"], form))
    check_key(Sensitive(b"\n  " + private(KEYS["ES256"], form).reveal() + b"\n"))


@pytest.mark.parametrize(
    ("date", "offset"),
    [
        (None, None),
        ("", None),
        ("yesterday", None),
        ("Thu, 01 Jan 1970 00:10:10 GMT", None),
        ("Thu, 01 Jan 1970 00:15:00 GMT", 300.0),
        ("Thu, 01 Jan 1970 00:05:00 GMT", -300.0),
        ("Sat, 01 Jan 2000 00:00:00 GMT", None),
    ],
)
def test_only_a_clock_that_is_off_by_minutes_or_hours_is_mended(date: str | None, offset: float | None) -> None:
    assert clock_offset(date, 600.0) == offset


# A GitHub App.

APP_KEY = KEYS["RS256"]
TOKENS = "/api/v3/app/installations/42/access_tokens"
GIVEN = {
    "token": "ghs_an-installation-token",
    "expires_at": "2100-01-01T01:00:00Z",
    "permissions": {"contents": "read", "issues": "write"},
}


@pytest.fixture
def app(server: AuthorizationServer) -> Client:
    server.publish(TOKENS, GIVEN, 201)
    return Client("Iv1.app", "post", endpoints(server), private(APP_KEY))


async def test_a_github_app_gets_a_token_for_an_installation(
    calls: OAuthCalls, server: AuthorizationServer, app: Client
) -> None:
    granted = await calls.installation(provider(quirk="github_app", access_field="elsewhere"), app, "42")
    assert granted.access == Sensitive("ghs_an-installation-token")
    assert granted.scopes == ("contents:read", "issues:write")
    assert granted.expires_in and granted.expires_in > 3600
    assert granted.refresh is None
    call = server.calls_to(TOKENS)[0]
    assert call.method == "POST" and call.headers["accept"] == "application/vnd.github+json"
    claims = jwt.decode(
        call.headers["authorization"].removeprefix("Bearer "), jwk.RSAKey.import_key(public(APP_KEY)), ["RS256"]
    ).claims
    assert claims["iss"] == "Iv1.app"
    assert claims["exp"] - claims["iat"] <= 600


async def test_a_github_app_whose_clock_is_off_tries_again_with_the_servers_time(
    exchange: Exchange, server: AuthorizationServer, app: Client
) -> None:
    server.misbehave("status", on=TOKENS, status=401, body='{"message": "bad"}')
    ours_is_off = OAuthCalls(exchange, now=lambda: time.time() + 300)
    granted = await ours_is_off.installation(provider(quirk="github_app"), app, "42")
    assert granted.access == Sensitive("ghs_an-installation-token")
    issued = [
        parts(Sensitive(call.headers["authorization"].removeprefix("Bearer ")))[1]["iat"]
        for call in server.calls_to(TOKENS)
    ]
    assert 290 <= issued[0] - issued[1] <= 310


async def test_a_refusal_by_clocks_that_agree_is_final(
    calls: OAuthCalls, server: AuthorizationServer, app: Client
) -> None:
    server.publish(TOKENS, {"message": "A JSON web token could not be decoded", "status": "401"}, 401)
    with pytest.raises(Rejected, match=r"A JSON web token could not be decoded \(HTTP 401\)"):
        await calls.installation(provider(quirk="github_app"), app, "42")
    assert len(server.calls_to(TOKENS)) == 1


async def test_an_app_that_is_no_longer_installed_is_gone(
    calls: OAuthCalls, server: AuthorizationServer, app: Client
) -> None:
    server.publish(TOKENS, {"message": "Not Found", "status": "404"}, 404)
    with pytest.raises(Gone, match="Not Found"):
        await calls.installation(provider(quirk="github_app"), app, "42")


async def test_a_lost_installation_token_is_asked_for_again_later(
    calls: OAuthCalls, server: AuthorizationServer, app: Client
) -> None:
    server.misbehave("lose", on=TOKENS)
    with pytest.raises(NotNow):
        await calls.installation(provider(quirk="github_app"), app, "42")


@pytest.mark.parametrize(
    ("token_url", "expected"),
    [
        ("https://github.com/login/oauth/access_token", "https://api.github.com/app/installations/42/access_tokens"),
        ("https://api.github.com/", "https://api.github.com/app/installations/42/access_tokens"),
        (
            "https://acme.ghe.com/login/oauth/access_token",
            "https://api.acme.ghe.com/app/installations/42/access_tokens",
        ),
        ("https://git.acme.example/login", "https://git.acme.example/api/v3/app/installations/42/access_tokens"),
        ("https://x.example/i/{installation}/t", "https://x.example/i/42/t"),
    ],
)
def test_the_api_of_each_kind_of_github_is_found(token_url: str, expected: str) -> None:
    assert github_installation_url(Client("1", "post", Endpoints(token_url)), "42") == expected


@pytest.mark.parametrize("installation", ["", "../../user", "42/x", "42?x", "ä", "x" * 65])
def test_what_is_no_installation_makes_no_address(installation: str) -> None:
    with pytest.raises(WrongUsage):
        github_installation_url(Client("1", "post", Endpoints("https://github.com/token")), installation)


def test_an_app_without_a_key_is_told_so() -> None:
    with pytest.raises(WrongUsage, match="no private key"):
        app_assertion(Client("1", "post", Endpoints("https://github.com/token")), now=0)
