"""
Two orchestrators on one database, and a provider that keeps which token each call brought.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from company_agents.app import App, open_app
from company_agents.identity.principal import Caller
from company_agents.integrations.credential import Credential
from company_agents.integrations.integrations import Integration
from company_agents.integrations.oauth.model import Consent, Endpoints
from company_agents.integrations.request import Reply
from company_agents.outgoing.destination import Destination, Placement
from company_agents.runs.model import Run
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings
from tests.api.conftest import serving
from tests.conftest import Tenant, provider_files
from tests.promises.evidence import Past, connect_past

# A provider whose new consent kills the one before it.
ONE_CONSENT = """
name = "one-consent"
title = "One Consent"
description = "a provider of the tests"
sources = ["https://one-consent.example.com/docs"]

[oauth]
authorization_url = "https://one-consent.example.com/authorize"
token_url = "https://one-consent.example.com/token"
one_consent = true
"""


@pytest.fixture(scope="session")
async def other(app: App, settings: Settings) -> AsyncIterator[App]:
    """Another orchestrator of the same instance."""
    async with open_app(settings) as opened:
        yield opened


@pytest.fixture(scope="session")
async def superuser(app: App) -> AsyncIterator[Past]:
    async with await connect_past(app, "postgres") as connection:
        yield connection


@pytest.fixture(scope="module")
def one_consent(settings: Settings) -> Iterator[str]:
    """The name of a provider whose new consent kills the one before it."""
    with provider_files(settings.home, {"one-consent": ONE_CONSENT}):
        yield "one-consent"


@dataclass
class Service:
    """A provider that takes any token, and keeps each."""

    url: str = ""
    brought: list[str] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"").decode()
        self.brought.append(given.removeprefix("Bearer "))
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"fine": true}'})


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    found = Service()
    async with serving(found) as url:
        found.url = url
        yield found


@dataclass(frozen=True)
class Desk:
    """A company with an agent and an integration that it may use."""

    app: App
    tenant: Tenant
    service: Service
    integration: Integration

    @property
    def local(self) -> Caller:
        return self.tenant.local

    @property
    def agent(self) -> Caller:
        return self.tenant.agent

    async def open(self, app: App | None = None) -> tuple[Run, str]:
        run, token = await (app or self.app).runs.open(self.agent)
        return run, token.reveal_text()

    async def rotate(self, token: str, app: App | None = None) -> Integration:
        return await (app or self.app).integrations.rotate(self.local, self.integration.id, Sensitive(token))

    async def versions(self) -> dict[int, tuple[str, int]]:
        """State of each version, and how many runs hold it."""
        found = await self.app.integrations.versions.list(self.local.scope, self.integration.id)
        return {version.version: (version.state, version.runs) for version in found}

    async def secrets(self) -> set[str]:
        """The versions whose secret is still there."""
        names = [secret.name for secret in await self.app.store.list(self.local.scope)]
        return {name.rpartition("/")[2] for name in names if name.startswith(f"integration/{self.integration.id}/")}


async def use(app: App, token: str, integration: UUID) -> Reply:
    """One call with a token, the whole way: looked at, allowed, sent."""
    return await app.requests.request(await app.identity.worker(token), str(integration), "GET", "/things")


MakeDesk = Callable[..., Awaitable[Desk]]


@pytest.fixture
def desk(app: App, tenant: Callable[[], Awaitable[Tenant]], service: Service) -> MakeDesk:
    async def make(*, allowed: bool = True) -> Desk:
        found = await tenant()
        integration = await app.integrations.connect(
            found.local,
            "generic",
            Sensitive("first-token"),
            base_url=service.url,
            allow_private_network=True,
            allow=[found.agent.agent_id()] if allowed else [],
        )
        return Desk(app, found, service, integration)

    return make


def consent(service: Service, token: str) -> Credential:
    """A consent for this service; it does not expire while a test looks at it."""
    ends = datetime.now(UTC) + timedelta(hours=8)
    endpoints = Endpoints("https://one-consent.example.com/token")
    given = Consent("code", "client", endpoints, Sensitive(f"refresh-of-{token}"), ends)
    place = Placement("header", "Authorization", "Bearer {token}")
    destination = Destination.at(service.url, place, allow_private=True, extra_hosts=())
    return Credential(destination, Sensitive(token), given)


@pytest.fixture
def consented(app: App, tenant: Callable[[], Awaitable[Tenant]], service: Service) -> MakeDesk:
    """The same, with a consent in the place of a token."""

    async def make(provider: str = "generic") -> Desk:
        found = await tenant()
        integration = await app.integrations.establish(
            found.local,
            app.integrations.providers.get(provider),
            consent(service, "first-token"),
            allow=[found.agent.agent_id()],
        )
        return Desk(app, found, service, integration)

    return make


@dataclass
class Revoker:
    """Revokes at a provider: answers what it is told to, and keeps what it was asked."""

    answer: bool | BaseException = True
    asked: list[tuple[int, str]] = field(default_factory=list)

    async def __call__(self, scope: Any, integration_id: UUID, version: int, credential: Credential) -> bool:
        self.asked.append((version, credential.token.reveal_text()))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture
def revoker(app: App) -> Any:
    versions = app.integrations.versions
    before = versions.revoke
    found = versions.revoke = Revoker()
    yield found
    versions.revoke = before
