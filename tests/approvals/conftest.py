"""
A company whose agent has to have its refunds approved, on two orchestrators, and the provider that makes them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from company_agents.app import App, open_app
from company_agents.errors import ApprovalNeeded
from company_agents.identity.principal import Caller
from company_agents.integrations.approvals import Approval
from company_agents.integrations.integrations import Integration
from company_agents.integrations.request import Reply
from company_agents.integrations.rules import Rules
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings
from tests.conftest import Tenant
from tests.outgoing.servers import Recorded, Server, reply, serve
from tests.promises.evidence import Past, connect_past, recorded, sql

TOKEN = "a-token-of-the-provider-that-nobody-sees"
ASKS = Rules.read(ask=["POST /v1/refunds"])
REFUND = {"charge": "ch_17", "amount": 500}


@pytest.fixture(scope="session")
async def other(app: App, settings: Settings) -> AsyncIterator[App]:
    """Another orchestrator of the same instance."""
    async with open_app(settings) as opened:
        yield opened


@pytest.fixture(scope="session")
async def superuser(app: App) -> AsyncIterator[Past]:
    async with await connect_past(app, "postgres") as connection:
        yield connection


@dataclass
class Service:
    """The provider: what it was asked, and what it answers next; then it says that all is well."""

    server: Server
    answers: list[Any] = field(default_factory=list)

    def answer(self, recorded: Recorded) -> Any:
        following = self.answers.pop(0) if self.answers else None
        if following is None:
            return reply(b'{"id": "re_1", "status": "succeeded"}', content_type="application/json")
        return following(recorded) if callable(following) else following

    @property
    def refunds(self) -> list[Recorded]:
        return [each for each in self.server.requests if each.line.startswith("POST")]


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    found = Service(Server())
    async with serve(found.answer) as found.server:
        yield found


@dataclass(frozen=True)
class Desk:
    """A company, its agent, and the integration with which refunds are made."""

    app: App
    tenant: Tenant
    service: Service
    integration: Integration
    superuser: Past

    @property
    def local(self) -> Caller:
        return self.tenant.local

    @property
    def agent(self) -> Caller:
        return self.tenant.agent

    async def request(self, app: App | None = None, caller: Caller | None = None, **more: Any) -> Reply:
        given: dict[str, Any] = {"method": "POST", "path": "/v1/refunds", "body": REFUND, **more}
        return await (app or self.app).requests.request(caller or self.agent, str(self.integration.id), **given)

    async def ask(self, app: App | None = None, caller: Caller | None = None, **more: Any) -> UUID:
        """Make the request for the first time: the id of its approval."""
        with pytest.raises(ApprovalNeeded) as needed:
            await self.request(app, caller, **more)
        assert (needed.value.reason, needed.value.http_status) == ("approval_needed", 403)
        return UUID(needed.value.facts["approval"])

    async def approve(self, approval_id: UUID, app: App | None = None, note: str = "") -> Approval:
        """Approve it, and wait until it was sent."""
        at = app or self.app
        await at.approvals.approve(self.local, approval_id, note)
        await at.sending.settled(approval_id)
        return await at.approvals.get(self.local, approval_id)

    async def get(self, approval_id: UUID) -> Approval:
        return await self.app.approvals.get(self.local, approval_id)

    async def row(self, approval_id: UUID) -> dict[str, Any]:
        (row,) = await sql(self.superuser, "SELECT * FROM approvals WHERE id = %(i)s", i=approval_id)
        return row

    async def change(self, approval_id: UUID, what: str) -> None:
        """Change a row past us, as time would."""
        await sql(self.superuser, "ALTER TABLE approvals DISABLE TRIGGER approval_moves")
        try:
            await sql(self.superuser, f"UPDATE approvals SET {what} WHERE id = %(i)s", i=approval_id)
        finally:
            await sql(self.superuser, "ALTER TABLE approvals ENABLE TRIGGER approval_moves")

    async def events(self, action: str, approval_id: UUID) -> list[dict[str, Any]]:
        return await recorded(self.app, self.tenant.company.id, action, approval=approval_id)

    async def secrets(self) -> set[str]:
        """What is kept of approvals, by its name."""
        names = {secret.name for secret in await self.app.store.list(self.local.scope)}
        return {name for name in names if name.startswith("approval/")}


MakeDesk = Callable[..., Awaitable[Desk]]


@pytest.fixture
def desk(app: App, tenant: Callable[[], Awaitable[Tenant]], service: Service, superuser: Past) -> MakeDesk:
    async def make(rules: Rules = ASKS) -> Desk:
        found = await tenant()
        integration = await app.integrations.connect(
            found.local,
            "generic",
            Sensitive(TOKEN),
            base_url=service.server.url,
            allow_private_network=True,
            allow=[found.agent.agent_id()],
            rules=rules,
        )
        return Desk(app, found, service, integration, superuser)

    return make


@pytest.fixture
async def here(desk: MakeDesk) -> Desk:
    return await desk()
