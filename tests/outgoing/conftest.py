from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from company_agents.outgoing.client import Outgoing
from tests.outgoing.servers import Authority, authority

Make = Callable[..., Awaitable[Outgoing]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes started instances of Outgoing, and closes them."""
    async with AsyncExitStack() as stack:

        async def started(**options: Any) -> Outgoing:
            outgoing = Outgoing(**options)
            await outgoing.start()
            stack.push_async_callback(outgoing.close)
            return outgoing

        yield started


@pytest.fixture
async def outgoing(make: Make) -> Outgoing:
    return await make()


@pytest.fixture(scope="session")
def our_ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder: Path = tmp_path_factory.mktemp("ca")
    return authority(folder, "provider.example", "127.0.0.1")
