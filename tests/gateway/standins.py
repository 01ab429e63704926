"""
A strict stand-in for a provider: what it was not told to expect it refuses, and keeps. It sees requests as they came.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from multidict import CIMultiDictProxy

Answer = web.StreamResponse | dict[str, Any] | list[Any]
Handler = Callable[[web.Request], Awaitable[Answer]]


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    target: str
    headers: CIMultiDictProxy[str]
    body: bytes


@dataclass
class Service:
    """
    Answers by method and target, byte for byte. `credential` is the one header that says who calls, and its only good value; None:
    nobody says who they are.
    """

    credential: tuple[str, str] | None
    url: str = ""
    answers: dict[tuple[str, str], Handler] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)

    def on(self, method: str, target: str, answer: Answer | Handler) -> None:
        """Expect a request; without its answer's own way, a value is sent as JSON."""
        if callable(answer):
            self.answers[method, target] = answer
            return

        async def plain(request: web.Request) -> Answer:
            return answer

        self.answers[method, target] = plain

    async def handle(self, request: web.Request) -> web.StreamResponse:
        given = {
            name: request.headers.getall(name) for name in ("Authorization", "X-Api-Key") if name in request.headers
        }
        if given != ({self.credential[0]: [self.credential[1]]} if self.credential else {}):
            # Not repeated: it may be somebody's.
            self.surprises.append(f"{request.method} {request.raw_path} with {sorted(given)} that is not good")
            return web.json_response({"error": "who are you?"}, status=401)
        if leaked := [name for name, value in request.headers.items() if "ca_agent_" in value or "ca_run_" in value]:
            self.surprises.append(f"a token in {leaked}")
        handler = self.answers.get((request.method, request.raw_path))
        if handler is None:
            self.surprises.append(f"{request.method} {request.raw_path}")
            return web.json_response({"error": "not expected"}, status=418)
        answer = await handler(request)
        if not isinstance(answer, web.StreamResponse):
            answer = web.json_response(answer)
        body = await request.read() if not request.content.at_eof() or request._read_bytes is not None else b""
        self.seen.append(Seen(request.method, request.raw_path, request.headers, body))
        return answer

    def bodies(self) -> list[Any]:
        """The bodies that came, which are JSON."""
        return [json.loads(each.body) for each in self.seen if each.body]


@contextlib.asynccontextmanager
async def service(credential: tuple[str, str] | None, host: str = "127.0.0.1") -> AsyncIterator[Service]:
    """Start one on a free port of this machine; at the end, nothing surprising has come."""
    started = Service(credential)
    application = web.Application(client_max_size=2**40)
    application.router.add_route("*", "/{path:.*}", started.handle)
    # It sees bodies as they are on the wire.
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=1, auto_decompress=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    started.url = f"http://{host}:{runner.addresses[0][1]}"
    try:
        yield started
    finally:
        await runner.cleanup()
    assert started.surprises == []
