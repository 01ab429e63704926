"""
Receivers on loopback, and a look past us into the database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from company_agents.app import App, open_app
from company_agents.settings import Settings, read_settings
from tests.conftest import Tenant, new_settings, opened, tenants
from tests.promises.evidence import Past, connect_past

MakeTenant = Callable[[], Awaitable[Tenant]]


# — an instance of which only the tests of this folder write: each sink that is new gets all of its chains —


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return new_settings(tmp_path_factory)


@pytest.fixture(scope="session")
async def app(settings: Settings) -> AsyncIterator[App]:
    async with opened(settings) as found:
        yield found


@pytest.fixture(scope="session")
def tenant(app: App) -> MakeTenant:
    return tenants(app)


@pytest.fixture(scope="session")
async def superuser(app: App) -> AsyncIterator[Past]:
    """The database past everything of ours: row-level security does not bind a superuser."""
    async with await connect_past(app, "postgres") as connection:
        yield connection


@pytest.fixture
async def mine(tenant: MakeTenant) -> Tenant:
    """A company of this test."""
    return await tenant()


Beside = Callable[[str], AbstractAsyncContextManager[App]]


@pytest.fixture
def beside(settings: Settings) -> Beside:
    """Another orchestrator on the same home, with these audit sinks."""

    def open_beside(sinks: str, **more: Any) -> AbstractAsyncContextManager[App]:
        return open_app(read_settings(**_given(settings), audit_sinks=sinks, **more), long_lived=True)

    return open_beside


def _given(settings: Settings) -> dict[str, Any]:
    return {"home": settings.home, "database_url": None, "master_key_path": None, "master_key_source": None}
