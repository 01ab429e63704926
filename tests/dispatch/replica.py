"""
An orchestrator as a process of its own, beside others on one home.

    python -m tests.dispatch.replica HOME LEASE RUNS

Its first line is its address. SIGTERM stops it.
"""

from __future__ import annotations

import asyncio
import socket
import sys

from company_agents.app import App
from company_agents.cli.server import serve
from company_agents.settings import read_settings


async def main(home: str, lease: int, runs: int, listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    settings = read_settings(home=home, port=port, run_lease=lease, runs=runs)

    async def when_ready(app: App) -> None:
        print(settings.url, flush=True)

    await serve(settings, listening, when_ready)


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listening:
        asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), listening))
