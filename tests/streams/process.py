"""
An orchestrator in a process of its own, with its doors: it says where they are, and serves until it is killed.

    python -m tests.streams.process HOME
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from company_agents.asgi import open_front
from company_agents.settings import read_settings

SLOWEST = 60.0


@contextlib.contextmanager
def orchestrator(home: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Such a process, and its address."""
    path = os.pathsep.join(entry for entry in [str(Path(__file__).parents[2]), *sys.path] if entry)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.streams.process", str(home)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        assert select.select([process.stdout], [], [], SLOWEST)[0], "it said nothing"
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def is_stopped(process: subprocess.Popen[str]) -> bool:
    """Whether a signal has stopped it."""
    state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()[0]
    return state == "T"


async def _main(home: str) -> None:
    # Imported late: the parent has no need of it to start one.
    from tests.gateway.conftest import serving

    async with open_front(read_settings(home=Path(home))) as (app, _), serving(app) as url:
        print(url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
