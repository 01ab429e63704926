from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from company_agents.app import App
from company_agents.integrations.integrations import Integration
from company_agents.sensitive import Sensitive
from tests.conftest import Tenant
from tests.mcp.served import Served, served
from tests.mcp.slack import TOKEN, Slack, slack_stand_in


@pytest.fixture(scope="session")
async def door(app: App) -> AsyncIterator[Served]:
    async with served(app) as opened:
        yield opened


@pytest.fixture
async def slack() -> AsyncIterator[Slack]:
    async with slack_stand_in() as started:
        yield started


@pytest.fixture
def connected(app: App, slack: Slack) -> Callable[[Tenant], Awaitable[Integration]]:
    """Connects a tenant to the stand-in for Slack; its agent may use it."""

    async def connect(tenant: Tenant) -> Integration:
        return await app.integrations.connect(
            tenant.local,
            "slack",
            Sensitive(TOKEN),
            base_url=slack.url,
            allow_private_network=True,
            allow=[tenant.agent.agent_id()],
        )

    return connect
