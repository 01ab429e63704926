"""
A stand-in for Slack that takes the bearers it knows and no other, and keeps what it was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

TOKEN = "xoxb-1234567890-abcdefghijklmnopqrstuvwx"


@dataclass
class Slack:
    """What has arrived, with which bearer a post came, and what to answer to one."""

    url: str = ""
    good: set[str] = field(default_factory=lambda: {TOKEN})
    used: list[tuple[str, str]] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)
    reply: bytes | None = None
    # Posts are answered, and their bearers looked at, once this is set; None: at once.
    held: asyncio.Event | None = None

    async def handle(self, request: web.Request) -> web.Response:
        body = (await request.read()).decode()
        given = request.headers.getall("authorization", [])
        bearer = given[0].removeprefix("Bearer ") if len(given) == 1 else ""
        if request.path != "/api/auth.test":
            self.used.append((bearer, body))
            if self.held is not None:
                await self.held.wait()
        if given != [f"Bearer {bearer}"] or bearer not in self.good:
            return web.json_response({"ok": False, "error": "invalid_auth"})
        if request.path == "/api/auth.test":
            return web.json_response({"ok": True, "team": "us"}, headers={"X-OAuth-Scopes": "chat:write"})
        self.seen.append({"method": request.method, "path": request.path_qs, "body": body})
        if self.reply is not None:
            return web.Response(body=self.reply, content_type="application/json")
        if request.path == "/api/echo":
            # A provider that repeats what it was sent, credential and all.
            return web.json_response({"headers": dict(request.headers), "token": bearer})
        text = json.loads(body)["text"] if body else None
        return web.json_response({"ok": True, "message": {"text": text}}, headers={"X-Slack": "stand-in"})


@contextlib.asynccontextmanager
async def slack_stand_in() -> AsyncIterator[Slack]:
    """Start it on a free port of this machine."""
    slack = Slack()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", slack.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    slack.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield slack
    finally:
        await runner.cleanup()
