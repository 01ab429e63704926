"""
Providers' own ways, as their files say them: what is sent, and how replies are read.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest

from company_agents.integrations.oauth.calls import OAuthCalls
from company_agents.integrations.oauth.model import Client, Gone, Rejected
from company_agents.sensitive import Sensitive
from tests.oauth.asked import client, consented, provider
from tests.oauth.server import AuthorizationServer

SLACK = provider(
    quirk="slack",
    scope_separator=",",
    account_field="team.name",
    gone_codes=frozenset({"token_revoked", "invalid_refresh_token"}),
)
JSON = {"Content-Type": "application/json"}


async def test_slack_is_understood_though_it_nests_and_says_no_with_200(
    calls: OAuthCalls, server: AuthorizationServer
) -> None:
    server.style = "slack"
    ours = client(server)
    granted = await consented(calls, server, ours, provider(quirk="slack", account_field="team.name"))
    assert granted.account == "Acme"
    assert granted.scopes == ("read", "write")
    assert granted.refresh is not None
    again = await calls.refresh(SLACK, ours, granted.refresh)
    assert server.is_good(again.access.reveal_text())
    with pytest.raises(Gone, match=r"invalid_grant \(HTTP 200\)"):
        await calls.refresh(SLACK, ours, granted.refresh)


async def test_slack_keeps_a_persons_own_token_elsewhere(calls: OAuthCalls, server: AuthorizationServer) -> None:
    reply = {
        "ok": True,
        "team": {"id": "T1", "name": "Acme"},
        "authed_user": {
            "id": "U1",
            "access_token": "xoxe.xoxp-a-persons-token",
            "refresh_token": "xoxe-1-a-refresh-token",
            "expires_in": 43200,
            "scope": "chat:write,channels:read",
            "token_type": "user",
        },
    }
    server.misbehave("status", status=200, body=json.dumps(reply), headers=JSON)
    granted = await calls.refresh(SLACK, client(server), Sensitive("xoxe-1-old"))
    assert granted.access == Sensitive("xoxe.xoxp-a-persons-token")
    assert granted.refresh == Sensitive("xoxe-1-a-refresh-token")
    assert (granted.expires_in, granted.scopes) == (43200, ("chat:write", "channels:read"))
    assert granted.account == "Acme"


@pytest.mark.parametrize("word", ["token_revoked", "invalid_refresh_token"])
async def test_slacks_own_words_for_gone_are_known(calls: OAuthCalls, server: AuthorizationServer, word: str) -> None:
    body = json.dumps({"ok": False, "error": word})
    server.misbehave("status", status=200, body=body, headers=JSON)
    with pytest.raises(Gone, match=word):
        await calls.refresh(SLACK, client(server), Sensitive("xoxe-1-old"))


async def test_github_is_understood_though_it_answers_in_forms(calls: OAuthCalls, server: AuthorizationServer) -> None:
    server.style = "github"
    ours = client(server)
    acme = provider(gone_codes=frozenset({"bad_refresh_token"}))
    granted = await consented(calls, server, ours, acme)
    assert granted.expires_in == 3600
    assert granted.refresh is not None
    assert server.is_good((await calls.refresh(acme, ours, granted.refresh)).access.reveal_text())
    body = "error=bad_refresh_token&error_description=The+refresh+token+passed+is+incorrect+or+expired."
    server.misbehave("status", status=200, body=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    with pytest.raises(Gone, match="bad_refresh_token"):
        await calls.refresh(acme, ours, granted.refresh)


async def test_github_deletes_a_token_in_the_name_of_the_app(calls: OAuthCalls, server: AuthorizationServer) -> None:
    server.publish("/applications/client-1/token", {})
    ours = client(server, "basic", revocation=f"{server.url}/applications/{{client_id}}/token")
    assert await calls.revoke(provider(), ours, Sensitive("gho_the-token"), "access_token") is True
    call = server.calls_to("/applications/client-1/token")[0]
    assert (call.method, call.fields) == ("DELETE", {"access_token": "gho_the-token"})
    assert call.headers["authorization"] == "Basic " + b64encode(b"client-1:secret-of-client-1").decode()


async def test_a_request_goes_out_as_the_file_says(calls: OAuthCalls, server: AuthorizationServer) -> None:
    acme = provider(
        token_request="json",
        token_headers={"Acme-Version": "2025-01-01", "Authorization": "Bearer somebody else"},
        token_parameters={"audience": "https://api.acme.example", "grant_type": "password"},
        scope_parameter="user_scope",
        scope_separator=",",
    )
    await calls.client_credentials(acme, client(server), ["read", "write"])
    call = server.calls_to("/token")[0]
    assert call.headers["content-type"] == "application/json"
    assert call.headers["acme-version"] == "2025-01-01"
    assert call.headers["accept"] == "application/json"
    assert "authorization" not in call.headers
    assert call.fields == {
        "grant_type": "client_credentials",
        "audience": "https://api.acme.example",
        "user_scope": "read,write",
        "client_id": "client-1",
        "client_secret": "secret-of-client-1",
    }


async def test_json_with_basic_is_sent_too(calls: OAuthCalls, server: AuthorizationServer) -> None:
    ours = client(server, "basic")
    granted = await consented(calls, server, ours, provider(token_request="json"))
    assert server.is_good(granted.access.reveal_text())
    call = server.calls_to("/token")[0]
    assert call.headers["authorization"].startswith("Basic ")
    assert "client_secret" not in call.fields


async def test_signs_in_an_id_or_a_secret_are_encoded_before_basic(
    calls: OAuthCalls, server: AuthorizationServer
) -> None:
    ours = Client("id:with colon", "basic", client(server).endpoints, Sensitive("p%/+ä"))
    with pytest.raises(Rejected):
        await calls.client_credentials(provider(), ours, [])
    sent = server.calls_to("/token")[0].headers["authorization"]
    assert sent == "Basic " + b64encode(b"id%3Awith+colon:p%25%2F%2B%C3%A4").decode()


async def test_a_provider_without_pkce_is_not_sent_a_verifier(calls: OAuthCalls, server: AuthorizationServer) -> None:
    body = json.dumps({"access_token": "access-token-1"})
    server.misbehave("status", status=200, body=body, headers=JSON)
    redeemed = provider(pkce=False)
    await calls.redeem(redeemed, client(server), code="c", redirect_uri="https://x.example", verifier=Sensitive("v"))
    assert "code_verifier" not in server.calls_to("/token")[0].fields


@pytest.mark.parametrize(
    ("rules", "reply", "expected"),
    [
        ({}, {"access_token": "token-one"}, {"access": "token-one", "expires_in": None}),
        ({"lifetime": 900}, {"access_token": "token-one"}, {"expires_in": 900}),
        ({"lifetime": 900}, {"access_token": "token-one", "expires_in": 60}, {"expires_in": 60}),
        ({"access_field": "data.token"}, {"data": {"token": "token-two"}}, {"access": "token-two"}),
        ({"access_field": "a.0.t"}, {"a": [{"t": "token-two"}]}, {"access": "token-two"}),
        (
            {"refresh_field": "r", "expires_field": "x.life", "scope_field": "can"},
            {"access_token": "token-one", "r": "refresh-one", "x": {"life": "7.5"}, "can": ["a", "b"]},
            {"refresh": "refresh-one", "expires_in": 7.5, "scopes": ("a", "b")},
        ),
        ({}, {"access_token": "token-one", "refresh_token": None}, {"refresh": None}),
        ({}, {"access_token": "token-one", "refresh_token_expires_in": 15811200}, {"refresh_expires_in": 15811200}),
        ({}, {"access_token": "token-one", "refresh_expires_in": "1800"}, {"refresh_expires_in": 1800}),
        ({"account_field": "user.id"}, {"access_token": "token-one", "user": {"id": 7}}, {"account": "7"}),
        ({"account_field": "user.id"}, {"access_token": "token-one"}, {"account": None}),
        ({}, {"access_token": "token-one", "token_type": "BEARER"}, {"access": "token-one"}),
        ({}, {"access_token": "token-one", "error": None, "errcode": 0}, {"access": "token-one"}),
    ],
)
async def test_a_reply_is_read_as_the_file_says(
    calls: OAuthCalls, server: AuthorizationServer, rules: dict[str, Any], reply: Any, expected: dict[str, Any]
) -> None:
    server.misbehave("status", status=200, body=json.dumps(reply), headers=JSON)
    granted = await calls.client_credentials(provider(**rules), client(server), [])
    for name, value in expected.items():
        found = getattr(granted, name)
        assert (found.reveal_text() if isinstance(found, Sensitive) else found) == value


@pytest.mark.parametrize("word", ["invalid_token", "token_revoked"])
async def test_to_revoke_what_a_provider_does_not_know_is_done_already(
    calls: OAuthCalls, server: AuthorizationServer, word: str
) -> None:
    body = json.dumps({"error": word})
    server.misbehave("status", on="/revoke", status=400, body=body, headers=JSON)
    assert await calls.revoke(provider(), client(server), Sensitive("access-1"), "access_token") is True


async def test_a_provider_that_does_not_revoke_says_so(calls: OAuthCalls, server: AuthorizationServer) -> None:
    server.misbehave("status", on="/revoke", status=400, body='{"error": "unsupported_token_type"}', headers=JSON)
    with pytest.raises(Rejected, match="unsupported_token_type"):
        await calls.revoke(provider(), client(server), Sensitive("access-1"), "access_token")
