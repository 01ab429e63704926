"""
The gateway of the shared instance behind the server that `up` has, and companies with a provider behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import uvicorn

from company_agents.app import App
from company_agents.asgi import Front
from company_agents.cli.connections import Connection, Socket
from company_agents.integrations.integrations import Integration
from company_agents.sensitive import Sensitive
from tests.conftest import Tenant
from tests.gateway.standins import Service, service
from tests.unit.test_logs import lines, redactor

__all__ = ["lines", "redactor"]

SECRET = "a-credential-that-stays-here-1"
BEARER = ("Authorization", f"Bearer {SECRET}")


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


async def _nowhere(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("this test has no MCP")


@contextlib.asynccontextmanager
async def serving(app: App) -> AsyncIterator[str]:
    """The doors of an app on a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = dataclasses.replace(app, settings=app.settings.model_copy(update={"public_url": url}))
        server = _Server(
            uvicorn.Config(
                Front(app, _nowhere),
                http=Connection,
                ws=Socket,
                ws_max_size=app.settings.message_limit,
                ws_per_message_deflate=False,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=1,
            )
        )
        running = asyncio.create_task(server.serve(sockets=[listener]))
        await server.ready.wait()
        try:
            yield url
        finally:
            server.should_exit = True
            await running


@pytest.fixture(scope="session")
async def url(app: App) -> AsyncIterator[str]:
    async with serving(app) as opened:
        yield opened


@pytest.fixture(scope="session")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


@dataclass(frozen=True)
class Here:
    """A company, its integration, and the address under which the gateway has it."""

    tenant: Tenant
    integration: Integration
    service: Service
    url: str

    @property
    def token(self) -> str:
        return self.tenant.token

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tenant.token}"}


Connect = Callable[..., Awaitable[Here]]


@pytest.fixture(scope="session")
def connect(app: App, tenant: Callable[[], Awaitable[Tenant]], url: str) -> Connect:
    """Makes a company that is connected to a service."""

    async def make(at: Service, provider: str = "generic", token: str = SECRET, door: str = url) -> Here:
        one = await tenant()
        integration = await app.integrations.connect(
            one.local,
            provider,
            Sensitive(token),
            base_url=at.url,
            allow_private_network=True,
            allow=[one.agent.agent_id()],
        )
        return Here(one, integration, at, f"{door}/gateway/{integration.name}")

    return make


@pytest.fixture
async def here(connect: Connect) -> AsyncIterator[Here]:
    """A company with a service that takes a bearer."""
    async with service(BEARER) as started:
        yield await connect(started)
