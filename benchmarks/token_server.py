"""
The least that an authorization server does, in a process of its own: refresh tokens that are used once, in memory.

    python -m benchmarks.token_server         prints its address; ends with its standard input
"""

from __future__ import annotations

import asyncio
import secrets
import sys

import uvloop
from aiohttp import web


class TokenServer:
    """`good`: refresh tokens that were not used yet."""

    def __init__(self) -> None:
        self.good: set[str] = set()
        self.url = ""

    async def metadata(self, _: web.Request) -> web.Response:
        """RFC 8414."""
        return web.json_response({"issuer": self.url, "token_endpoint": f"{self.url}/token"})

    async def begin(self, request: web.Request) -> web.Response:
        """So many refresh tokens, out of nothing."""
        found = [secrets.token_urlsafe(32) for _ in range(int(request.query["n"]))]
        self.good.update(found)
        return web.json_response(found)

    async def token(self, request: web.Request) -> web.Response:
        """RFC 6749, 6."""
        given = str((await request.post())["refresh_token"])
        if given not in self.good:
            return web.json_response({"error": "invalid_grant"}, status=400)
        self.good.remove(given)
        new = secrets.token_urlsafe(32)
        self.good.add(new)
        return web.json_response(
            {
                "access_token": secrets.token_urlsafe(32),
                "token_type": "Bearer",
                "expires_in": 3600,
                "refresh_token": new,
            }
        )

    async def me(self, request: web.Request) -> web.Response:
        """What stands behind a token; any is good enough here."""
        return web.json_response({"ok": request.headers["Authorization"].startswith("Bearer ")})


async def serve() -> None:
    """Serve until standard input ends."""
    server = TokenServer()
    application = web.Application()
    application.router.add_get("/.well-known/oauth-authorization-server", server.metadata)
    application.router.add_get("/begin", server.begin)
    application.router.add_get("/me", server.me)
    application.router.add_post("/token", server.token)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    print(server.url, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(serve())
