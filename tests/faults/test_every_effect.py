"""
Killed at any moment, an instance starts, every secret opens, and the command finishes what was begun. Here: a file and
Vault, in processes that are killed right after each effect. Every kind of source, and the moment before each effect, with
its open transactions, are in test_every_source.py.
"""

from __future__ import annotations

import pytest

from tests.faults.matrix import killed_at, points, traced
from tests.faults.store import COMMANDS, START


@pytest.mark.timeout(400)
@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_may_be_killed_after_each_effect_on_a_file(command, small_store, files, forked, tmp_path):
    names = await traced(small_store, command, files, forked, tmp_path)
    chosen = points(command, names)
    assert await killed_at(small_store, command, files, forked, tmp_path, names, chosen) == []


# A first start makes no key in Vault.
@pytest.mark.timeout(400)
@pytest.mark.parametrize("command", [command for command in COMMANDS if command != START])
async def test_a_command_may_be_killed_after_each_effect_on_vault(command, small_store, vault, forked, tmp_path):
    names = await traced(small_store, command, vault, forked, tmp_path)
    chosen = points(command, names)
    assert await killed_at(small_store, command, vault, forked, tmp_path, names, chosen) == []
