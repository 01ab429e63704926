"""
A remote agent: verifies what it is handed with the library of Standard Webhooks, as its maker would, and then works over
the API with nothing but its own token and what the run gives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tests.mcp.served import JSON


@dataclass
class Remote:
    """What was handed over, whole and as it was read; and what to answer. `work` is done with each once."""

    url: str = ""
    secret: str = ""
    token: str = ""
    answers: list[int] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    verified: list[dict[str, Any]] = field(default_factory=list)
    forged: int = 0
    work: Callable[[dict[str, Any]], Awaitable[None]] | None = None
    done: list[asyncio.Task[None]] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.headers.append(dict(request.headers))
        self.bodies.append(body)
        try:
            message = Webhook(self.secret).verify(body, dict(request.headers))
        except WebhookVerificationError:
            self.forged += 1
            return web.Response(status=401)
        status = self.answers.pop(0) if self.answers else 202
        if status >= 300:
            return web.Response(status=status, headers={"Location": f"{self.url}/elsewhere"})
        self.verified.append(message)
        # The same start may be told of more than once.
        if request.headers["webhook-id"] not in self._seen and self.work is not None:
            self._seen.add(request.headers["webhook-id"])
            self.done.append(asyncio.create_task(self.work(message["data"])))  # type: ignore[arg-type]
        return web.Response(status=status)


@dataclass
class Api:
    """The API, with one token."""

    http: aiohttp.ClientSession
    token: str

    async def post(self, url: str, body: dict[str, Any] | None = None) -> Any:
        """What it answers, which is no error."""
        async with self.http.post(url, json=body, headers={"Authorization": f"Bearer {self.token}"}) as reply:
            text = await reply.text()
            assert reply.status < 300, f"{url}: {reply.status} {text}"
            return json.loads(text)

    async def tool(self, url: str, name: str, **arguments: Any) -> Any:
        """What a tool gives, asked as simply as the protocol has it."""
        headers = {**JSON, "Authorization": f"Bearer {self.token}", "mcp-protocol-version": "2025-06-18"}
        params = {"name": name, "arguments": arguments}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        async with self.http.post(url, json=body, headers=headers) as reply:
            assert reply.status == 200, await reply.text()
            return (await reply.json())["result"]["structuredContent"]


@contextlib.asynccontextmanager
async def remote_agent() -> AsyncIterator[Remote]:
    """Start it on a free port of this machine."""
    remote = Remote()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", remote.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    remote.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield remote
    finally:
        for task in remote.done:
            task.cancel()
        await runner.cleanup()
