"""
An instance that knows two services besides those that are shipped, and authorization servers that stand in for them.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest

from company_agents.app import App
from company_agents.integrations.clients import issuer_key
from company_agents.integrations.integrations import Integration
from company_agents.integrations.wanted import Wanted
from company_agents.sensitive import Sensitive
from tests.conftest import Tenant, provider_files, write_provider_files
from tests.oauth.server import AuthorizationServer

SECRET = "secret-of-client-1-that-nobody-sees"

# Two services that are alike, for whom an operator has servers of their own.
SERVICE = """
name = "{name}"
title = "{title}"
description = "A service of the tests."
base_url = "https://api.{name}.example"
sources = ["https://docs.{name}.example/oauth"]

[credential]
template = "Bearer {{token}}"

[probe]
path = "/api/me"
error = ["error"]
account = "login"

[oauth]
flows = ["code", "device", "client"]
issuer = "https://login.{name}.example"
client_page = "https://login.{name}.example/clients"
{more}
[oauth.refresh]
single_use = true

[[oauth.scopes]]
name = "read"
why = "read what there is"

[[oauth.scopes]]
name = "write"
why = "change what there is"
"""


SERVICES = {
    name: SERVICE.format(name=name, title=name.title(), more=more)
    for name, more in (("acme", ""), ("other", ""), ("strict", "one_consent = true\n"))
}


def write_services(home: Path) -> None:
    """Drop their files into a home."""
    write_provider_files(home, SERVICES)


@pytest.fixture(scope="module", autouse=True)
def services(app: App) -> Iterator[None]:
    """Their files, in the home."""
    with provider_files(app.settings.home, SERVICES):
        yield


@pytest.fixture
def server() -> Iterator[AuthorizationServer]:
    with AuthorizationServer() as server:
        server.consent = "approve"
        yield server


@pytest.fixture
def other_server() -> Iterator[AuthorizationServer]:
    with AuthorizationServer() as server:
        server.consent = "approve"
        yield server


@dataclass(frozen=True)
class Here:
    """A company whose client at Acme is configured, and the session of a person in it."""

    app: App
    tenant: Tenant
    server: AuthorizationServer
    session: uuid.UUID

    def wanted(self, **more: object) -> Wanted:
        given = {
            "provider": "acme",
            "issuer": self.server.url,
            "base_url": self.server.url,
            "allow_private": True,
            "name": f"acme {uuid.uuid4().hex[:8]}",
            **more,
        }
        return Wanted(**given)  # type: ignore[arg-type]

    async def asked(self, wanted: Wanted | None = None) -> dict[str, str]:
        """Begin, and go through the provider's page as a browser does: what comes back with it."""
        begun = await self.app.flows.begin(self.tenant.local, wanted or self.wanted(), session_id=self.session)
        return await consented(begun.url)

    async def finish(
        self,
        params: dict[str, str],
        *,
        session: uuid.UUID | None = None,
        provider: str = "acme",
        server: str | None = None,
    ) -> Integration:
        """What a browser brings to the redirect address of this server, or of another (its URL)."""
        return await self.app.flows.finish(
            self.tenant.local,
            session or self.session,
            provider,
            params,
            server=issuer_key(self.server.url if server is None else server),
        )

    async def connected(self, wanted: Wanted | None = None) -> Integration:
        return await self.finish(await self.asked(wanted))

    def good(self) -> list[str]:
        """The access tokens that are good at the provider."""
        return [token for token in self.server.state.by_access if self.server.is_good(token)]

    async def left(self) -> dict[str, object]:
        """What is kept of integrations and flows: names of secrets and of integrations."""
        secrets = [secret.name for secret in await self.app.store.list(self.tenant.local.scope)]
        integrations = await self.app.integrations.list(self.tenant.local)
        return {
            "secrets": [name for name in secrets if not name.startswith(("oauth_client/", "agent_token/"))],
            "integrations": [integration.name for integration in integrations.items],
        }

    async def events(self, action: str) -> list[dict[str, object]]:
        found = await self.app.events.after(self.tenant.company.id, 0)
        return [event for event in found if event["action"] == action]


async def consented(url: str) -> dict[str, str]:
    """A person's browser at the provider: the parameters that it is sent back with."""
    async with httpx2.AsyncClient(follow_redirects=False) as browser:
        answer = await browser.get(url)
    assert answer.status_code == 302, answer.text
    return dict(parse_qsl(urlsplit(answer.headers["location"]).query))


@pytest.fixture
async def here(app: App, tenant: Callable[[], Awaitable[Tenant]], server: AuthorizationServer) -> AsyncIterator[Here]:
    made = await tenant()
    server.add_client("client-1", SECRET, redirect_uris=[app.clients.redirect_uri("acme", server.url)])
    await configure(app, made, "acme", server)
    yield Here(app, made, server, uuid.uuid4())


async def configure(app: App, tenant: Tenant, provider: str, server: AuthorizationServer) -> None:
    await app.clients.configure(
        tenant.local, provider, client_id="client-1", secret=Sensitive(SECRET), issuer=server.url, allow_private=True
    )
