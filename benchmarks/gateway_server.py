"""
One orchestrator of several on one home and one socket. The one that is told of a provider connects it.

    python -m benchmarks.gateway_server HOME DESCRIPTOR [UPSTREAM]

Prints the agent's token, and serves until standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path

import uvicorn
import uvloop

from benchmarks.instance import LOCAL
from benchmarks.provider import TOKEN
from company_agents.asgi import open_front
from company_agents.sensitive import Sensitive
from company_agents.settings import read_settings


async def serve(home: Path, listening: socket.socket, upstream: str | None = None) -> None:
    """One orchestrator; the first connects the integration and says what is needed."""
    settings = read_settings(
        home=home, port=listening.getsockname()[1], log_level="warning", company_calls=1000, company_streams=1000
    )
    async with open_front(settings) as (app, front):
        ready: dict[str, object] = {}
        if upstream is not None:
            company = await app.companies.create(LOCAL, "bench")
            local = await app.identity.in_company(LOCAL, company.id)
            _, token = await app.agents.create(local, "bench")
            await app.integrations.connect(
                local,
                "generic",
                Sensitive(TOKEN),
                name="bench",
                base_url=upstream,
                allow_private_network=True,
                allow_all=True,
            )
            ready = {"token": token.reveal_text()}
        config = uvicorn.Config(
            front,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=600,
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        print(json.dumps(ready), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await task


if __name__ == "__main__":
    home, listening, *upstream = sys.argv[1:]
    uvloop.run(serve(Path(home), socket.socket(fileno=int(listening)), *upstream))
