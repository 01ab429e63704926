"""
One orchestrator of several on one home and one socket. The one that is told of a provider connects it.

    python -m benchmarks.gateway_server HOME DESCRIPTOR [UPSTREAM]

Prints the agent's token, and serves until standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.instance import LOCAL
from benchmarks.provider import TOKEN
from company_agents.cli.up import imported_for_good
from company_agents.sensitive import Sensitive
from company_agents.settings import read_settings

# As in `up`.
with imported_for_good():
    from company_agents.cli.server import serve

if TYPE_CHECKING:
    from company_agents.app import App


async def run(home: Path, listening: socket.socket, upstream: str | None = None) -> None:
    """One orchestrator; the first connects the integration and says what is needed."""
    settings = read_settings(
        home=home, port=listening.getsockname()[1], log_level="warning", company_calls=1000, company_streams=1000
    )
    ending: list[asyncio.Task[None]] = []

    async def when_ready(app: App) -> None:
        ready = {} if upstream is None else {"token": await _connected(app, upstream)}
        print(json.dumps(ready), flush=True)
        ending.append(asyncio.create_task(_end()))

    await serve(settings, listening, when_ready)


async def _connected(app: App, upstream: str) -> str:
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
    return token.reveal_text()


async def _end() -> None:
    await asyncio.to_thread(sys.stdin.read)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    home, listening, *upstream = sys.argv[1:]
    asyncio.run(run(Path(home), socket.socket(fileno=int(listening)), *upstream))
