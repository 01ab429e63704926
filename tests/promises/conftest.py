"""
What somebody has who gets past us: connections to the database of the instance as each of its roles.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from company_agents.app import App
from tests.outgoing.servers import Server, reply, serve
from tests.promises.evidence import Past, connect_past


@pytest.fixture(scope="session")
async def superuser(app: App) -> AsyncIterator[Past]:
    """The database past everything of ours: row-level security does not bind a superuser."""
    async with await connect_past(app, "postgres") as connection:
        yield connection


@pytest.fixture
async def serving(app: App) -> AsyncIterator[Past]:
    """A connection of the role that serves requests."""
    async with await connect_past(app, "company_agents_serve") as connection:
        yield connection


@pytest.fixture
async def provider() -> AsyncIterator[Server]:
    """A provider on a socket, that keeps what it is sent."""
    async with serve(reply(b'{"fine": true}', content_type="application/json")) as server:
        yield server


@pytest.fixture
async def elsewhere() -> AsyncIterator[Server]:
    """A server that somebody else runs."""
    async with serve(reply(b'{"thanks": true}', content_type="application/json")) as server:
        yield server
