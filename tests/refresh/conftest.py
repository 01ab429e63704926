"""
An instance that knows services of the tests, and an authorization server that stands in for them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from company_agents.app import App
from company_agents.settings import Settings, read_settings
from tests.conftest import Tenant
from tests.oauth.server import AuthorizationServer
from tests.promises.evidence import Past, connect_past
from tests.refresh.world import World, write_services


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home: Path = tmp_path_factory.mktemp("instance") / "home"
    write_services(home)
    return read_settings(home=home, database_url=None, master_key_path=None, master_key_source=None)


@pytest.fixture
def server() -> Iterator[AuthorizationServer]:
    with AuthorizationServer() as server:
        yield server


@pytest.fixture(scope="session")
async def superuser(app: App) -> AsyncIterator[Past]:
    async with await connect_past(app, "postgres") as connection:
        yield connection


@pytest.fixture
async def world(
    app: App, tenant: Callable[[], Awaitable[Tenant]], server: AuthorizationServer, superuser: Past
) -> World:
    return World(app, await tenant(), server, superuser)
