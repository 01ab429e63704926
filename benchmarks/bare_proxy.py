"""
A reverse proxy and nothing else: Starlette, the HTTP client that the gateway uses, no identity, no audit. It adds the bearer.

    python -m benchmarks.bare_proxy UPSTREAM    prints its port, serves with two workers until standard input ends
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys

import aiohttp
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from benchmarks.provider import TOKEN

WORKERS = 2


def proxy(upstream: str) -> Starlette:
    """The application."""
    sessions: list[aiohttp.ClientSession] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False) as session:
            sessions.append(session)
            yield

    async def forward(request: Request) -> StreamingResponse:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        reply = await sessions[0].request(request.method, upstream + request.url.path, headers=headers)

        async def body():
            try:
                async for data in reply.content.iter_any():
                    yield data
            finally:
                reply.close()

        kept = {
            name: value for name, value in reply.headers.items() if name.lower() in ("content-type", "content-length")
        }
        return StreamingResponse(body(), reply.status, kept)

    return Starlette(routes=[Route("/{path:path}", forward)], lifespan=lifespan)


async def worker(listening: socket.socket, upstream: str) -> None:
    """Serve on a socket that others serve as well."""
    config = uvicorn.Config(
        proxy(upstream),
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        timeout_keep_alive=600,
    )
    await uvicorn.Server(config).serve(sockets=[listening])


def main() -> None:
    """As the module says."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    workers = []
    for _ in range(WORKERS):
        child = os.fork()
        if child == 0:
            uvloop.run(worker(listening, sys.argv[1]))
            os._exit(0)
        workers.append(child)
    print(json.dumps({"port": listening.getsockname()[1]}), flush=True)
    sys.stdin.read()
    for child in workers:
        os.kill(child, signal.SIGTERM)
    for child in workers:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
