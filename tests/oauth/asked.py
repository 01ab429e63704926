"""
A provider as data, its client, and a consent through the front door, for tests that ask the authorization server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp

from company_agents.integrations.oauth.authorize import authorization_url, new_verifier, read_callback
from company_agents.integrations.oauth.calls import OAuthCalls
from company_agents.integrations.oauth.model import Client, Endpoints, Granted
from company_agents.integrations.provider import OAuth, Provider
from company_agents.sensitive import Sensitive
from tests.oauth.server import AuthorizationServer

REDIRECT = "http://127.0.0.1:1/oauth/callback"
SECRET = "secret-of-client-1"


def provider(**oauth: Any) -> Provider:
    """A provider with OAuth as these fields of its file say."""
    return Provider(
        name="acme",
        title="Acme",
        description="A service of the tests.",
        base_url="https://acme.example",
        oauth=OAuth(**{"flows": ("code",), "issuer": "https://auth.acme.example", **oauth}),
        sources=("https://acme.example/docs",),
    )


def endpoints(server: AuthorizationServer, **others: Any) -> Endpoints:
    known = {
        "token": f"{server.url}/token",
        "issuer": server.url,
        "authorization": f"{server.url}/authorize",
        "device": f"{server.url}/device_authorization",
        "revocation": f"{server.url}/revoke",
        "introspection": f"{server.url}/introspect",
        "registration": f"{server.url}/register",
        "allow_private": True,
    }
    return Endpoints(**{**known, **others})


def client(server: AuthorizationServer, auth: str = "post", **others: Any) -> Client:
    """The client, known to the server too."""
    words = {"post": "client_secret_post", "basic": "client_secret_basic"}
    server.add_client(auth=words.get(auth, auth), redirect_uris=[REDIRECT], public_key=others.pop("public_key", b""))
    secret = others.pop("secret", None if auth == "none" else Sensitive(SECRET))
    return Client("client-1", auth, endpoints(server, **others), secret)


async def callback(url: str) -> dict[str, str]:
    """What the authorization reply carries, where the server asks no person."""
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as browser,
        browser.get(url, allow_redirects=False) as reply,
    ):
        return dict(parse_qsl(urlsplit(reply.headers["Location"]).query))


async def consented(
    calls: OAuthCalls,
    server: AuthorizationServer,
    client: Client,
    acme: Provider | None = None,
    scopes: Sequence[str] = ("read", "write"),
) -> Granted:
    """A whole round trip: authorization request, callback, code for tokens."""
    acme = acme or provider()
    server.consent = "approve"
    verifier, challenge = new_verifier()
    url = authorization_url(
        acme, client, redirect_uri=REDIRECT, state="state-1", challenge=challenge, scopes=list(scopes)
    )
    reply = await callback(url)
    assert reply["state"] == "state-1"
    code = read_callback(reply, issuer=server.url, iss_required=True)
    return await calls.redeem(acme, client, code=code, redirect_uri=REDIRECT, verifier=verifier)
