"""
The order of effects that the safety of a rotation hangs on, as the commands really do them.
"""

from __future__ import annotations

from tests.faults.store import COMMANDS, COMPROMISED, PRUNE, ROTATE, START
from tests.faults.traces import trace


def in_order(names: list[str], *parts: str) -> bool:
    """Whether an effect with each part in its name follows one with the part before."""
    rest = iter(names)
    return all(any(part in name for name in rest) for part in parts)


def test_a_key_is_in_the_source_before_anything_is_sealed_under_it():
    added = "file link secrets/keys/*.key"
    assert in_order(trace(START), "file link secrets/keys/instance", added, "master_key_first", "secret_insert")
    for command in (ROTATE, COMPROMISED):
        assert in_order(trace(command), added, "master_key_stage", "master_key_activate", "secrets_rewrap")


def test_the_old_key_is_archived_when_no_row_is_under_it_and_destroyed_when_that_is_committed():
    end = ("secrets_rewrap", "secrets_rows_under", "file replace secrets/master.key", "master_key_archive")
    destroyed = ("master_key_destroying", "file unlink secrets/keys/*.key", "master_key_destroyed")
    assert in_order(trace(ROTATE), *end)
    assert in_order(trace(COMPROMISED), *end, *destroyed)
    assert in_order(trace(PRUNE), *destroyed)


def test_a_rotation_that_is_not_asked_to_destroys_nothing():
    assert not any("file unlink secrets/keys/*.key" in name for name in trace(ROTATE))


def test_each_command_has_effects_that_can_be_told_apart_from_outside():
    for command in COMMANDS:
        assert len(trace(command)) >= 5
        assert all(name.startswith(("commit ", "file ")) for name in trace(command))
