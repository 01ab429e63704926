"""
Every effect of a command, killed one after the other.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from pathlib import Path

from tests.faults.effects import AFTER, BEFORE
from tests.faults.forked import Forks
from tests.faults.store import Store
from tests.keysources.place import Place

# More effects than any command has: a loop that finds no end is an error.
MOST = 200


async def killed_everywhere(
    store: Store, command: str, place: Place, forks: Forks, folder: Path, moments: Iterable[str] = (AFTER,)
) -> list[str]:
    """
    Kill a command at each effect, each time in a copy. Returns what was wrong, with where it was killed. Before the first
    effect it is killed always.
    """
    wrong = []
    for number in itertools.count(1):
        assert number < MOST
        for moment in {*moments, BEFORE} if number == 1 else moments:
            with store.case(command, place.settings(), folder, forks) as case:
                await case.seed()
                killed = await asyncio.to_thread(case.run, number, moment)
                if not killed.killed:
                    assert killed.done.status == 0, killed.done
                    assert len(killed.names) == number - 1
                    return wrong
                where = f"{command}, killed {moment} effect {number}, {killed.names[-1]}"
                wrong += [f"{where}: {what}" for what in await case.check()]
    raise AssertionError
