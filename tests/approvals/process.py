"""
An orchestrator in a process of its own that approves two requests and sends one of them, for tests that kill it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from company_agents.app import open_app
from company_agents.settings import read_settings
from tests.conftest import LOCAL

SLOWEST = 60


class Approving:
    """A process that approves; `says` reads what it has come to."""

    def __init__(self, home: Path, company: uuid.UUID, left: uuid.UUID, sent: uuid.UUID) -> None:
        path = os.pathsep.join(entry for entry in [str(Path(__file__).parents[2]), *sys.path] if entry)
        words = ["-m", "tests.approvals.process", str(home), str(company), str(left), str(sent)]
        self.process = subprocess.Popen(
            [sys.executable, *words],
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

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def approving(home: Path, company: uuid.UUID, left: uuid.UUID, sent: uuid.UUID) -> Iterator[Approving]:
    started = Approving(home, company, left, sent)
    try:
        yield started
    finally:
        started.kill()
        assert started.process.stdout is not None
        started.process.stdout.close()


async def _main(home: str, company: str, left: str, sent: str) -> None:
    async with open_app(read_settings(home=Path(home))) as app:
        caller = await app.identity.in_company(LOCAL, uuid.UUID(company))
        # It does not get to sending that one.
        app.approvals.approved, sends = lambda scope, approval_id: None, app.approvals.approved
        await app.approvals.approve(caller, uuid.UUID(left))
        app.approvals.approved = sends
        await app.approvals.approve(caller, uuid.UUID(sent))
        print("approved", flush=True)
        await asyncio.sleep(SLOWEST)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
