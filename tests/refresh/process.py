"""
An orchestrator in a process of its own: it refreshes what is due in one company, once, and says what came of it.

    python -m tests.refresh.process HOME COMPANY LEASE
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

from company_agents.app import open_app
from company_agents.companies.scope import CompanyScope
from company_agents.settings import read_settings

SLOWEST = 60.0


class Orchestrator:
    """Such a process, from outside."""

    def __init__(self, home: Path, company: UUID, lease: float, before: Sequence[str]) -> None:
        path = os.pathsep.join(entry for entry in [str(Path(__file__).parents[2]), *sys.path] if entry)
        self.process = subprocess.Popen(
            [sys.executable, *before, str(home), str(company), str(lease)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )

    def says(self) -> str:
        """Its next line."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], SLOWEST)[0], "it said nothing"
        return self.process.stdout.readline().strip()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def orchestrator(
    home: Path, company: UUID, lease: float = 60, before: Sequence[str] = ("-m", "tests.refresh.process")
) -> Iterator[Orchestrator]:
    started = Orchestrator(home, company, lease, before)
    try:
        yield started
    finally:
        started.kill()
        assert started.process.stdout is not None
        started.process.stdout.close()


async def _main(home: str, company: str, lease: str) -> None:
    # Imported late: the parent has no need of it to start one.
    from tests.refresh.world import patient

    async with open_app(read_settings(home=Path(home))) as app:
        refresher = patient(app, lease=float(lease))
        scope = CompanyScope(uuid.UUID(company), app.store.db)
        attempts = await refresher.attempts.claim(scope, 10)
        print("begun", len(attempts), flush=True)
        done = [await refresher.start(scope, attempt) for attempt in attempts]
        print("done", *done, flush=True)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
