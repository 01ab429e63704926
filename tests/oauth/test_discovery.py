from __future__ import annotations

from typing import Any

import pytest

from company_agents.errors import WrongUsage
from company_agents.integrations.oauth.calls import OAuthCalls
from company_agents.integrations.oauth.model import NotNow, Rejected, Uncertain
from tests.oauth.asked import REDIRECT, consented, endpoints
from tests.oauth.server import AuthorizationServer

RFC_8414 = "/.well-known/oauth-authorization-server"
OPENID = "/.well-known/openid-configuration"


async def test_a_server_describes_itself(calls: OAuthCalls, server: AuthorizationServer) -> None:
    found = await calls.discover(server.url, allow_private=True)
    assert found == endpoints(server, iss_in_reply=True)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/tenant", f"{RFC_8414}/tenant"),
        ("/tenant", f"{OPENID}/tenant"),
        ("/tenant", f"/tenant{OPENID}"),
        ("/tenant", f"/tenant{RFC_8414}"),
        ("/tenant/", f"{RFC_8414}/tenant"),
        ("", OPENID),
        ("/", OPENID),
    ],
)
async def test_metadata_is_found_wherever_a_standard_puts_it(
    calls: OAuthCalls, server: AuthorizationServer, path: str, place: str
) -> None:
    issuer = server.url + path
    server.misbehave("status", on=RFC_8414, times=9, status=404)
    server.publish(place, {**server.metadata, "issuer": issuer})
    found = await calls.discover(issuer, allow_private=True)
    assert found.issuer == issuer
    assert found.token == f"{server.url}/token"


@pytest.mark.parametrize("other", ["https://other.example", "", None, 7])
async def test_metadata_of_another_issuer_is_rejected(
    calls: OAuthCalls, server: AuthorizationServer, other: Any
) -> None:
    server.metadata["issuer"] = other
    with pytest.raises(Rejected):
        await calls.discover(server.url, allow_private=True)


async def test_an_issuer_with_a_slash_too_many_is_told_its_name(calls: OAuthCalls, server: AuthorizationServer) -> None:
    with pytest.raises(Rejected) as caught:
        await calls.discover(f"{server.url}/", allow_private=True)
    assert caught.value.hint == f"it calls itself {server.url}"


@pytest.mark.parametrize(
    "address", ["http://auth.example/token", "ftp://auth.example/", "https://user@auth.example/", "token", 7, ["x"]]
)
async def test_an_endpoint_without_tls_or_of_no_use_is_rejected(
    calls: OAuthCalls, server: AuthorizationServer, address: Any
) -> None:
    server.metadata["revocation_endpoint"] = address
    if address == "http://auth.example/token":
        # A name may lead into a private network: that is judged when it is connected to.
        await calls.discover(server.url, allow_private=True)
    else:
        with pytest.raises(Rejected, match="revocation_endpoint"):
            await calls.discover(server.url, allow_private=True)


async def test_metadata_without_a_token_endpoint_is_rejected(calls: OAuthCalls, server: AuthorizationServer) -> None:
    del server.metadata["token_endpoint"]
    with pytest.raises(Rejected, match="no token endpoint"):
        await calls.discover(server.url, allow_private=True)


async def test_a_private_issuer_is_not_asked_where_that_is_not_allowed(
    calls: OAuthCalls, server: AuthorizationServer
) -> None:
    with pytest.raises(WrongUsage):
        await calls.discover(server.url, allow_private=False)
    with pytest.raises(Rejected):
        await calls.discover("https://localhost", allow_private=False)
    assert server.calls == []


@pytest.mark.parametrize("issuer", ["https://a.example/?x=1", "https://a.example/#x", "https://u:p@a.example", "a", ""])
async def test_what_is_no_issuer_is_not_asked(calls: OAuthCalls, issuer: str) -> None:
    with pytest.raises(WrongUsage):
        await calls.discover(issuer, allow_private=True)


@pytest.mark.parametrize("how", [{"kind": "lose", "times": 2}, {"kind": "status", "status": 502}, {"kind": "busy"}])
async def test_a_server_in_trouble_is_asked_again_later(
    calls: OAuthCalls, server: AuthorizationServer, how: dict[str, Any]
) -> None:
    server.misbehave(**how, on=RFC_8414)
    with pytest.raises(NotNow):
        await calls.discover(server.url, allow_private=True)
    assert (await calls.discover(server.url, allow_private=True)).issuer == server.url


async def test_a_page_in_place_of_metadata_is_none(calls: OAuthCalls, server: AuthorizationServer) -> None:
    server.misbehave("status", on=RFC_8414, status=200, body="<html>", headers={"Content-Type": "text/html"})
    with pytest.raises(Rejected, match="does not describe itself"):
        await calls.discover(server.url, allow_private=True)


async def test_a_registered_client_gets_a_consent(calls: OAuthCalls, server: AuthorizationServer) -> None:
    found = await calls.discover(server.url, allow_private=True)
    ours = await calls.register(found, redirect_uri=REDIRECT, name="Acme's agents")
    assert ours.auth == "basic" and ours.secret
    granted = await consented(calls, server, ours)
    assert server.is_good(granted.access.reveal_text())


async def test_where_a_server_makes_public_clients_only_a_public_one_is_registered(
    calls: OAuthCalls, server: AuthorizationServer
) -> None:
    server.misbehave(
        "status",
        on="/register",
        status=400,
        body='{"error": "invalid_client_metadata"}',
        headers={"Content-Type": "application/json"},
    )
    ours = await calls.register(endpoints(server), redirect_uri=REDIRECT, name="Acme")
    assert (ours.auth, ours.secret) == ("none", None)
    assert (await consented(calls, server, ours)).refresh


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": None},
        {"client_id": ""},
        {"redirect_uris": ["https://other.example/"]},
        {"token_endpoint_auth_method": "tls_client_auth"},
        {"client_secret": None},
    ],
)
async def test_a_registration_that_is_of_no_use_is_rejected(
    calls: OAuthCalls, server: AuthorizationServer, change: dict[str, Any]
) -> None:
    server.misbehave("change", on="/register", change=lambda fields: {**fields, **change})
    with pytest.raises(Rejected):
        await calls.register(endpoints(server), redirect_uri=REDIRECT, name="Acme")


async def test_a_registration_whose_reply_is_lost_is_uncertain(calls: OAuthCalls, server: AuthorizationServer) -> None:
    server.misbehave("lose", on="/register")
    with pytest.raises(Uncertain):
        await calls.register(endpoints(server), redirect_uri=REDIRECT, name="Acme")


async def test_a_server_without_registration_is_not_asked(calls: OAuthCalls, server: AuthorizationServer) -> None:
    with pytest.raises(WrongUsage):
        await calls.register(endpoints(server, registration=None), redirect_uri=REDIRECT, name="Acme")
