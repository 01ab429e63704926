"""
What a command does, effect by effect: for whoever checks a description of it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import tempfile
from pathlib import Path

from tests.faults.forked import forks
from tests.faults.matrix import traced
from tests.faults.store import COMMANDS, store
from tests.keysources.kinds import Files


def trace(command: str) -> list[str]:
    """
    The names of the effects of a command on a small store with its key in a file, in their order. A commit is named by
    the statements of its transaction, in their order, and those of the fence with their step (`commit fence_hold:switch …
    master_key_activate`); a write of the source by what it does and where (`file link secrets/keys/*.key`).
    `tests.faults.store.COMMANDS` are the commands.
    """
    return list(_traces()[command])


@functools.cache
def _traces() -> dict[str, list[str]]:
    # In a thread: the caller's may have a loop of its own.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(_record).result()


def _record() -> dict[str, list[str]]:
    with tempfile.TemporaryDirectory() as name, forks() as forked:
        folder = Path(name)
        with store(folder / "store") as small:
            (folder / "files").mkdir()
            found = {}
            for command in COMMANDS:
                place = Files(folder / "files")
                found[command] = asyncio.run(traced(small, command, place, forked, folder))
            return found
