"""
Killed at any moment, an instance starts, every secret opens, and the command finishes what was begun. Here: a file and
Vault, each effect of each command, in processes that are killed right after it. Between two effects nothing is different
on any disk; what also differs, open transactions, is in test_every_source.py.
"""

from __future__ import annotations

import pytest

from tests.faults.matrix import killed_everywhere
from tests.faults.store import COMMANDS


@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_that_uses_a_file_may_be_killed_after_each_effect(
    command, small_store, files, forked, tmp_path
):
    assert await killed_everywhere(small_store, command, files, forked, tmp_path) == []
