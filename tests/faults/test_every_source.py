"""
The whole of it, for every kind of source that can be written: killed just before and just after each effect of each
command, and a second time in what finishes the first. Takes long: `make test-faults`.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from tests.faults.forked import forks
from tests.faults.matrix import all_points, killed_at, killed_twice, traced
from tests.faults.store import COMMANDS, START
from tests.keysources.kinds import KINDS, READ_ONLY

WRITABLE = [kind for kind in KINDS if kind not in READ_ONLY]
CLIENTS = {"vault": "vault", "aws-secretsmanager": "aws", "gcp-secretmanager": "gcp", "azure-keyvault": "azure"}
# The longest that one command may take on one kind of source: some two hundred kills, on a machine that does other things.
LONGEST = 1800

pytestmark = [pytest.mark.faults, pytest.mark.timeout(LONGEST), pytest.mark.parametrize("command", COMMANDS)]


def loaded(kind: str) -> list[str]:
    """What a process of this kind has loaded before it becomes a command."""
    return [f"company_agents.keysources.{CLIENTS[kind]}"] if kind in CLIENTS else []


def makes_no_key(kind: str, command: str) -> bool:
    """A start makes the first key of an instance in a file only; elsewhere there is nothing to kill."""
    return command == START and kind != "file"


@pytest.mark.parametrize("kind", WRITABLE)
async def test_a_command_may_be_killed_before_and_after_each_effect(kind, command, small_store, tmp_path: Path):
    with forks(*loaded(kind)) as forked:
        async with KINDS[kind](tmp_path) as place:
            if makes_no_key(kind, command):
                with small_store.case(command, place.settings(), tmp_path, forked) as case:
                    assert case.run().done.status == 78
                return
            names = await traced(small_store, command, place, forked, tmp_path)
            chosen = all_points(names)
            assert await killed_at(small_store, command, place, forked, tmp_path, names, chosen, starts=2) == []


@pytest.mark.parametrize("kind", ["file", "vault"])
async def test_what_finishes_a_killed_command_may_be_killed_too(kind, command, small_store, tmp_path: Path):
    with forks(*loaded(kind)) as forked:
        async with KINDS[kind](tmp_path) as place:
            if makes_no_key(kind, command):
                return
            names = await traced(small_store, command, place, forked, tmp_path)
            # Each effect of the second is met a few times, in an order that is the same each time.
            second = list(range(1, len(names) + 1))
            random.Random(7).shuffle(second)
            for start in (0, len(second) // 2):
                turns = itertools.cycle(second[start:] + second[:start])
                assert await killed_twice(small_store, command, place, forked, tmp_path, names, turns) == []
