from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from company_agents.integrations.oauth.calls import OAuthCalls
from company_agents.outgoing.exchange import Exchange
from tests.oauth.server import AuthorizationServer


@pytest.fixture
def server() -> Iterator[AuthorizationServer]:
    with AuthorizationServer() as server:
        yield server


@pytest.fixture
async def exchange() -> AsyncIterator[Exchange]:
    exchange = Exchange(call_time=5)
    await exchange.start()
    yield exchange
    await exchange.close()


@pytest.fixture
def calls(exchange: Exchange) -> OAuthCalls:
    return OAuthCalls(exchange)
