"""
Two orchestrators under load, as processes, and what they saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Load:
    """Two replicas at work. `seen` has what they saw, once they have ended."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []


@contextlib.asynccontextmanager
async def under_load(home: Path, company: str, token: str, names: Sequence[str]) -> AsyncIterator[Load]:
    """Run the load; each of the two replicas has half of these secrets to write."""
    load = Load()
    processes = []
    try:
        for number in range(2):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.online.replica", str(home), company, token, f"replica{number}"),
                *names[number::2],
                cwd=ROOT,
                env={**os.environ, "COMPANY_AGENTS_HOME": str(home)},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=64 * 1024 * 1024,
            )
            processes.append(process)
        for process in processes:
            assert process.stdout is not None
            assert (await process.stdout.readline()).strip() == b"ready"
        yield load
        for process in processes:
            # An empty input: without one, Python 3.11 leaves the pipe open.
            said, _ = await process.communicate(b"")
            load.seen.append(json.loads(said))
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def command(home: Path, *words: str) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    """Run `company-agents …  --json`: its exit status, its result, and its progress."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "company_agents", *words, "--json"),
        env={**os.environ, "COMPANY_AGENTS_HOME": str(home)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, progress = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(out), [json.loads(line) for line in progress.splitlines() if line[:1] == b"{"]
