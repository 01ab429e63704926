"""
Every effect of a command, killed one after the other.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

from tests.faults.effects import AFTER, BEFORE, MOMENTS
from tests.faults.forked import Forks
from tests.faults.store import COMPROMISED, ROTATE, Store
from tests.keysources.place import Place

Point = tuple[int, str]
# Statements that change a key's state, or move secrets.
KEYS_OR_SECRETS = re.compile("master_key_(?!recorded)|secrets_rewrap|instance_server_set")


async def traced(store: Store, command: str, place: Place, forks: Forks, folder: Path) -> list[str]:
    """The names of a command's effects, in their order, as it does them when nobody kills it."""
    with store.case(command, place.settings(), folder, forks) as case:
        await case.seed()
        ended = await asyncio.to_thread(case.run)
        assert ended.done.status == 0, ended.done
        return ended.names


def all_points(names: list[str]) -> list[Point]:
    """Just before and just after each effect."""
    return [(number, moment) for number in range(1, len(names) + 1) for moment in MOMENTS]


def points(command: str, names: list[str]) -> list[Point]:
    """
    After each effect that leaves something else behind for a process that was killed, and before the first. To sync a
    folder is no such effect. The files by which a source is tried are left behind in `key rotate` only, and until the
    switch `key rotate --compromised` does what that does. With a service, a commit that only holds the fence or writes
    down what happened leaves behind what it does with a file.
    """
    service = not any(name.startswith("file ") for name in names)
    switch = next((number for number, name in enumerate(names, 1) if ":switch" in name), 0)

    def counts(number: int, name: str) -> bool:
        if command == COMPROMISED and number < switch:
            return False
        tried = ".new-check" in name and command != ROTATE
        synced = name.startswith("file fsync") and ".new-" not in name
        beside = service and name.startswith("commit ") and not KEYS_OR_SECRETS.search(name)
        return not (tried or synced or beside)

    return [(1, BEFORE), *((number, AFTER) for number, name in enumerate(names, 1) if counts(number, name))]


async def killed_at(
    store: Store,
    command: str,
    place: Place,
    forks: Forks,
    folder: Path,
    names: list[str],
    chosen: list[Point],
    starts: int = 1,
) -> list[str]:
    """Kill a command at each of these points, each time in a copy. Returns what was wrong, with where it was killed."""
    wrong = []
    for number, moment in chosen:
        with store.case(command, place.settings(), folder, forks) as case:
            await case.seed()
            killed = await asyncio.to_thread(case.run, number, moment)
            where = f"{command}, killed {moment} effect {number}, {names[number - 1]}"
            if not killed.killed or killed.names != names[:number]:
                wrong.append(f"{where}: it ended {killed.done.status} after {killed.names[-1:]}")
            wrong += [f"{where}: {what}" for what in await case.check(starts)]
    return wrong


async def killed_twice(
    store: Store, command: str, place: Place, forks: Forks, folder: Path, names: list[str], second: Iterator[int]
) -> list[str]:
    """Kill a command after each effect, and the same command that finishes it after another one."""
    wrong = []
    for number in range(1, len(names) + 1):
        with store.case(command, place.settings(), folder, forks) as case:
            await case.seed()
            await asyncio.to_thread(case.run, number)
            again = await asyncio.to_thread(case.run, next(second))
            where = f"{command}, killed after {number}, {names[number - 1]}, and after {again.names[-1:]}"
            if not again.killed and again.done.status != 0 and not _nothing_left(again.done.out):
                wrong.append(f"{where}: {again.done}")
            wrong += [f"{where}: {what}" for what in await case.check()]
    return wrong


def _nothing_left(output: str) -> bool:
    """Whether it was refused because the killed one had done all of it."""
    return bool(output) and json.loads(output).get("error", {}).get("code") == "key_there"
