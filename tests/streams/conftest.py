"""
Orchestrators that relay streams, and a provider that never stops talking.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from company_agents.app import App, open_app
from company_agents.rotation import replica as beats
from company_agents.settings import Settings
from tests.conftest import Tenant
from tests.gateway.conftest import BEARER, Connect, Here, connect, http, serving, url
from tests.gateway.standins import service
from tests.gateway.wire import PATIENCE, Wire, wire
from tests.promises.evidence import Past, connect_past

__all__ = ["connect", "http", "url"]


# Of one file: what it does by itself is not to be met by the tests of others.
@pytest.fixture(scope="module")
async def replica(app: App, settings: Settings) -> AsyncIterator[App]:
    """An orchestrator among others, which looks more often than it would."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(beats, "BEAT", 0.1)
        async with open_app(settings, long_lived=True) as opened:
            yield opened


@pytest.fixture(scope="module")
async def door(replica: App) -> AsyncIterator[str]:
    async with serving(replica) as opened:
        yield opened


@pytest.fixture(scope="session")
async def superuser(app: App) -> AsyncIterator[Past]:
    async with await connect_past(app, "postgres") as connection:
        yield connection


@dataclass
class Ticking:
    """A reply that goes on until somebody hangs up: numbers, a line each."""

    sent: int = 0
    open: int = 0
    # How many numbers are sent before it says nothing more, and stays.
    most: int = 1_000_000_000

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await answer.prepare(request)
        self.open += 1
        try:
            while True:
                if self.sent < self.most:
                    self.sent += 1
                    await answer.write(b"%d,\n" % self.sent)
                await asyncio.sleep(0.01)
                if request.transport is None or request.transport.is_closing():
                    return answer
        finally:
            self.open -= 1

    async def hung_up(self) -> None:
        """Wait until nobody listens any more."""
        async with asyncio.timeout(PATIENCE):
            while self.open:
                await asyncio.sleep(0.01)


@dataclass
class World:
    """A company whose agent may use a provider that never stops."""

    app: App
    here: Here
    ticking: Ticking
    tokens: list[str] = field(default_factory=list)

    @property
    def tenant(self) -> Tenant:
        return self.here.tenant

    async def run(self) -> tuple[Any, str]:
        """A run of the agent, and its token."""
        run, token = await self.app.runs.open(self.tenant.agent)
        return run, token.reveal_text()


@pytest.fixture
async def world(app: App, door: str, connect: Connect) -> AsyncIterator[World]:
    async with service(BEARER) as started:
        here = await connect(started, door=door)
        ticking = Ticking()
        started.on("GET", "/ticks", ticking)
        yield World(app, here, ticking)


@dataclass
class Stream:
    """What a client has of it. `last` is the highest number that arrived."""

    connection: Wire
    last: int = 0

    async def goes_on(self) -> int:
        """Wait for the next number."""
        self.last = int((await self.connection.chunk()).split(b",")[-2])
        return self.last

    async def beyond(self, number: int) -> None:
        """Wait until more has arrived."""
        while self.last <= number:
            await self.goes_on()

    async def breaks(self) -> None:
        """Read until the connection breaks: without the last chunk, which is empty."""
        async with asyncio.timeout(PATIENCE):
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                while True:
                    chunk = await self.connection.chunk()
                    assert chunk, "it ended as if it were whole"
                    self.last = int(chunk.split(b",")[-2])


@contextlib.asynccontextmanager
async def streaming(here: Here, token: str | None = None, *, at: str | None = None) -> AsyncIterator[Stream]:
    """A stream that is open, with the first number read. `at`: another orchestrator's address."""
    parts = urlsplit(here.url)
    async with wire(at or here.url) as connection:
        lines = [
            f"GET {parts.path}/ticks HTTP/1.1",
            f"Host: {parts.netloc}",
            f"Authorization: Bearer {token or here.token}",
        ]
        await connection.send(("\r\n".join(lines) + "\r\n\r\n").encode())
        assert (await connection.head())[0] == 200
        stream = Stream(connection)
        await stream.goes_on()
        yield stream


Tenants = Callable[[], Awaitable[Tenant]]
replace = dataclasses.replace
