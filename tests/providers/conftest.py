from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from company_agents.integrations.oauth.calls import OAuthCalls
from company_agents.outgoing.client import Outgoing
from company_agents.outgoing.exchange import Exchange


@pytest.fixture(scope="module")
async def outgoing() -> AsyncIterator[Outgoing]:
    outgoing = Outgoing(call_time=10)
    await outgoing.start()
    yield outgoing
    await outgoing.close()


@pytest.fixture(scope="module")
async def calls() -> AsyncIterator[OAuthCalls]:
    exchange = Exchange(call_time=10)
    await exchange.start()
    yield OAuthCalls(exchange)
    await exchange.close()
