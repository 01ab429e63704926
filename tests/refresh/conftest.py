"""
An instance that knows services of the tests, and an authorization server that stands in for them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from company_agents.app import App
from tests.conftest import Tenant, provider_files
from tests.oauth.server import AuthorizationServer
from tests.promises.evidence import Past, connect_past
from tests.refresh.world import World, service_files


@pytest.fixture(scope="module", autouse=True)
def services(app: App) -> Iterator[None]:
    """Their files, in the home."""
    with provider_files(app.settings.home, service_files()):
        yield


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
