"""
A strict stand-in for Slack: it takes the tokens that it knows, in the one header where they belong.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

FIRST_TOKEN = "xoxb-1111-first-token-of-the-stand-in"
SECOND_TOKEN = "xoxb-2222-second-token-of-the-stand-in"


async def _auth_test(request: Request) -> Response:
    known = {f"Bearer {token}" for token in (FIRST_TOKEN, SECOND_TOKEN)}
    if request.headers.getlist("authorization") not in [[value] for value in known]:
        return JSONResponse({"ok": False, "error": "invalid_auth"})
    return JSONResponse(
        {"ok": True, "team": "Stand-in", "user": "bot"}, headers={"X-OAuth-Scopes": "chat:write,channels:read"}
    )


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """Serve an ASGI application on a free port of this machine; its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            while not server.started:
                await asyncio.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


def slack() -> Starlette:
    """The stand-in; anything but the one call of the probe is not found."""
    return Starlette(routes=[Route("/api/auth.test", _auth_test, methods=["POST"])])
