"""
The rotation of the master key, explored: whoever is killed, overtaken or copied at whatever moment, nothing is lost. And no
rule of the protocol is there for nothing: without it, something is found.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.model.explore import explore
from tests.model.world import Case, Rules, Seat

SEATS = {
    seat.name: seat
    for seat in (
        Seat("R1", "rotator"),
        Seat("R2", "rotator"),
        Seat("W", "writer"),
        Seat("P", "pruner"),
        Seat("E", "export"),
        Seat("S", "start"),
        Seat("copy's R", "rotator", 1),
        Seat("copy's P", "pruner", 1),
        Seat("copy's S", "start", 1),
    )
}


COPY = "a copy that rotates and prunes beside the original"


def case(names: str, rows: int = 1, **events: int) -> dict[str, Any]:
    """Who is there, and how often what may happen."""
    seats = tuple(SEATS[name.strip()] for name in names.split(","))
    return {"seats": seats, "rows": rows, "events": {event.replace("_", " "): n for event, n in events.items()}}


CASES = {
    "two rotators and a writer": case("R1, R2, W", 2, rotate=2, kill=1, lose_the_lock=1, write=1),
    "two rotators, three rotations": case("R1, R2", rotate=3, lose_the_lock=1),
    "a start beside two rotators": case("R1, R2, S", rotate=2, lose_the_lock=1, start=1),
    "many kills": case("R1, W", rotate=3, kill=3, write=1),
    "a prune beside a start": case("R1, P, S", rotate=1, prune=2, kill=1, start=1),
    "a prune beside a writer": case("R1, P, W", rotate=1, prune=2, kill=1, write=1),
    "a prune beside a backup": case("R1, P, E", rotate=2, prune=2, export=1, kill=1),
    "a prune and a restore": case("R1, P", rotate=1, prune=1, copy_aside=1, restore=1, kill=1),
    "a key that leaked": case("R1, R2, P", rotate=1, compromise=1, prune=1, lose_the_lock=1, kill=1),
    "a leaked key, a writer and a backup": case("R1, E, W", compromise=1, export=1, write=1, kill=1),
    "a leaked key and a start": case("R1, S", rotate=1, compromise=1, start=1, kill=1),
    "a database that goes back": case("R1, P, S", rotate=2, prune=1, copy_aside=1, go_back=1),
    "a database that goes back behind a backup": case(
        "R1, P, E, S", rotate=1, prune=1, export=1, copy_aside=1, go_back=1
    ),
    COPY: case("R1, copy's R, copy's P, copy's S", rotate=2, prune=1, copy_aside=1, open_the_copy=1),
    "a source that loses a write": case("R1, S", rotate=2, kill=1, start=1, source_loses_a_write=1),
    "a source that is taken over": case(
        "R1, P, copy's R, copy's S", rotate=2, prune=1, copy_aside=1, take_the_source_over=1
    ),
}

LARGE = {
    "a second leak": case("R1, S", rotate=1, compromise=2, kill=1, start=1),
    "two rotators, two writes, two lost locks": case("R1, R2, W", 2, rotate=3, kill=1, lose_the_lock=2, write=2),
    "a start beside two rotators, with kills": case("R1, R2, S", rotate=3, kill=2, lose_the_lock=1, start=1),
    "prune, backup and start": case("R1, P, E, S", rotate=2, prune=2, export=1, kill=1, start=1),
    "leaked keys, with kills and starts": case("R1, R2, P, W, S", compromise=2, prune=1, write=1, start=1, kill=2),
    "a database that goes back, with backups": case(
        "R1, P, E, S", rotate=2, prune=2, export=1, copy_aside=1, go_back=1
    ),
    "a copy beside the original, with kills": case(
        "R1, copy's R, copy's P, copy's S, S", rotate=2, prune=1, copy_aside=1, open_the_copy=1, kill=1, start=1
    ),
}

both_kinds = pytest.mark.parametrize("compares", [False, True], ids=["adds only", "check and set"])


@both_kinds
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_lost_whatever_happens_in_whatever_order(name: str, compares: bool) -> None:
    found = explore(Case(compares=compares, **CASES[name]))
    assert not found.fault, found
    assert found.worlds > 100


@pytest.mark.faults
@pytest.mark.timeout(900)
@both_kinds
@pytest.mark.parametrize("name", LARGE)
def test_nothing_is_lost_in_wider_bounds(name: str, compares: bool) -> None:
    found = explore(Case(compares=compares, **LARGE[name]), most=8_000_000)
    assert not found.fault, found


# By rule: where it is left out, whether the source compares before it writes, and what is found then.
ABLATIONS = {
    "compare_rows": ("two rotators and a writer", False, "an update of the original is lost"),
    "writers_lock": ("a prune beside a writer", False, "the key of a row of the original is lost"),
    "fence_in_transaction": ("two rotators and a writer", False, "key 2 is left staged"),
    "keys_by_id": ("two rotators and a writer", False, "a row is under an old key"),
    "read_back": ("a source that loses a write", False, "the active key of the original is not in the source"),
    "read_before_check": ("two rotators, three rotations", True, "the hint was set back"),
    "mark_before_destroy": ("a prune beside a start", False, "a start was refused"),
    "prune_sees_rows": ("a prune and a restore", False, "the key of a row of the original is lost"),
    "prune_sees_backups": ("a prune beside a backup", False, "a key that a backup needs is destroyed"),
    "registered_before_snapshot": ("a prune beside a backup", False, "is left destroying"),
    "backup_needs_states": ("a prune beside a backup", False, "a key that a backup needs is destroyed"),
    "unknown_keys_adopted": ("a database that goes back", False, "is not registered"),
    "staged_dropped": ("a database that goes back", False, "is left staged"),
    "start_looks_again": ("a start beside two rotators", True, "the hint was set back"),
    "ends_taken_away": (COPY, False, "of the original is lost"),
    "shared_keys_never_end": (COPY, False, "of the original is lost"),
    "source_has_owner": ("a source that is taken over", True, "does not start any more"),
}


@pytest.mark.parametrize("rule", ABLATIONS)
def test_no_rule_is_there_for_nothing(rule: str) -> None:
    name, compares, expected = ABLATIONS[rule]
    found = explore(Case(compares=compares, rules=Rules(**{rule: False}), **CASES[name]))
    assert found.fault, found
    assert expected in found.fault, found


def test_what_is_not_promised_the_original_knows_of_no_copy_and_prunes_what_that_needs() -> None:
    # A copy that was opened beside the original, without an id of its own, has left nothing in the source by which
    # the original could know. Whoever copies a database takes another source for it, or takes this one over.
    seen = explore(Case(compares=True, **case("R1, P, copy's S", rotate=1, prune=1, copy_aside=1, open_the_copy=1)))
    assert seen.fault
    assert any("COPY is opened" in step for step in seen.trace)
    assert "P SOURCE: destroys 0" in seen.trace
