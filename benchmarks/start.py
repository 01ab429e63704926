"""
How long `company-agents up` takes until it is ready, and how much memory it holds then.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import Figure
from benchmarks.instance import throwaway_home

TIMES = 5
IDLE = 3.0


@contextmanager
def _up(home: Path) -> Iterator[tuple[float, int]]:
    """The orchestrator as a process: seconds until its first line, and its id."""
    command = [sys.executable, "-m", "company_agents", "up", "--port", "0", "--json"]
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env={"COMPANY_AGENTS_HOME": str(home)})
    try:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["ready"]
        yield time.perf_counter() - started, child.pid
    finally:
        child.terminate()
        child.wait(30)


def _resident(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert found
    return int(found[1]) / 1024


async def run() -> AsyncIterator[Figure]:
    """Cold: a home that does not exist yet. Warm: the same once more, its database stopped in between."""
    cold, warm, memory = [], [], []
    for _ in range(TIMES):
        with throwaway_home() as home:
            with _up(home) as (seconds, _):
                cold.append(seconds)
            with _up(home) as (seconds, pid):
                warm.append(seconds)
                time.sleep(IDLE)
                memory.append(_resident(pid))
    for name, values, unit, most in (
        ("cold start, database and key made, to ready", cold, "s", 6.0),
        ("warm start, to ready", warm, "s", 2.0),
        ("resident memory of the orchestrator, idle", memory, "MiB", 150.0),
    ):
        yield Figure(name, statistics.median(values), min(values), max(values), unit, most)
