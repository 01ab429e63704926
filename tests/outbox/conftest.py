"""
Receivers on loopback, and a look past us into the database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from company_agents.app import App
from tests.conftest import Tenant
from tests.promises.evidence import Past, connect_past

MakeTenant = Callable[[], Awaitable[Tenant]]


@pytest.fixture(scope="session")
async def superuser(app: App) -> AsyncIterator[Past]:
    """The database past everything of ours: row-level security does not bind a superuser."""
    async with await connect_past(app, "postgres") as connection:
        yield connection


@pytest.fixture
async def mine(tenant: MakeTenant) -> Tenant:
    """A company of this test."""
    return await tenant()
