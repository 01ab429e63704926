"""
Rows that do not open: found before anything is changed, or while they are moved.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from company_agents.crypto.batch import BadRow
from company_agents.rotation.rotate import Rotated, RowsDoNotOpen
from tests.cli.processes import Machine
from tests.cli.warm import warm
from tests.conftest import LOCAL
from tests.rotation.place import Place, Watched, rotate, silent

BAD = "secret 017"
FLIP = "UPDATE secrets SET value = set_bit(value, 13, 1 - get_bit(value, 13)) WHERE name = %(n)s"
ALTERATIONS = {
    "one bit": (FLIP, "altered"),
    "its nonce": ("UPDATE secrets SET nonce = set_bit(nonce, 3, 1 - get_bit(nonce, 3)) WHERE name = %(n)s", "altered"),
    "an unknown key": ("UPDATE secrets SET key_id = 'ffffffffffffffff' WHERE name = %(n)s", "unknown key"),
    "another company": ("UPDATE secrets SET company_id = %(c)s WHERE name = %(n)s", "altered"),
    "another key of the ring": ("UPDATE secrets SET key_id = %(k)s WHERE name = %(n)s", "wrong key"),
}


def _seen(place: Place) -> Any:
    return place.secrets(), place.sql("SELECT * FROM master_keys ORDER BY key_id"), place.files()


async def named(work: Awaitable[Any]) -> list[BadRow]:
    """The rows that a rotation names as the reason for which it ends 1."""
    try:
        result: Rotated = await work
    except RowsDoNotOpen as error:
        assert (error.exit_status, error.reason) == (1, "rows_do_not_open")
        assert f"{error.bad[0].id}, {error.bad[0].name}" in error.sentence
        return error.bad
    # A row under another key is first of all one that is to be moved.
    assert (result.action, result.rows) == ("finished", 0)
    return result.bad


@pytest.mark.parametrize("what", ALTERATIONS)
async def test_a_row_that_does_not_open_stops_a_rotation_before_anything_is_changed(place: Place, what: str) -> None:
    statement, problem = ALTERATIONS[what]
    async with place.open() as app:
        await rotate(app)
        theirs = await app.companies.create(LOCAL, "another company")
        place.sql(statement, n=BAD, c=theirs.id, k=place.only("archived"))
        before = _seen(place)
        source = Watched(place)
        for work in (
            rotate(app, source=source),
            rotate(app, source=source, compromised=True),
            app.rotator.foresee(compromised=False, say=silent),
        ):
            [bad] = await named(work)
            assert (bad.name, bad.problem) == (BAD, problem)
            assert _seen(place) == before
        assert not {"add", "make_current", "destroy"} & set(source.calls)
        assert [(bad.name, bad.problem) for bad in (await app.keys.verify()).bad] == [(BAD, problem)]


def test_the_command_names_the_row_and_ends_1(place: Place) -> None:
    place.sql(FLIP, n=BAD)
    machine = Machine(place.home, more=place.variables)
    before = place.secrets(), place.states(), place.files()
    with warm(machine) as run:
        done, verified = run("key", "rotate"), run("key", "verify")
    assert done.status == 1
    assert BAD in done.err
    assert "nothing was changed" in done.err
    assert (place.secrets(), place.states(), place.files()) == before
    assert verified.status == 1


@pytest.mark.parametrize("then", ["repaired", "deleted"])
async def test_a_row_that_goes_bad_while_rows_are_moved_is_named_and_keeps_the_old_key(place: Place, then: str) -> None:
    old = place.only("active")

    def say(step: str, done: int, total: int) -> None:
        if step == "stage":
            # It was whole a moment ago, when every row was opened.
            place.sql(FLIP, n=BAD)

    async with place.open() as app:
        result = await rotate(app, say=say)
        assert [(bad.name, bad.problem) for bad in result.bad] == [(BAD, "altered")]
        assert result.ends_at is None
        assert place.states()[old] == "retiring"
        assert place.rows_by_key()[old] == 1
        # As often as it is tried.
        again = await rotate(app)
        assert (again.action, again.rows, [bad.name for bad in again.bad]) == ("finished", 0, [BAD])
        assert place.states()[old] == "retiring"
        if then == "repaired":
            place.sql(FLIP, n=BAD)
        else:
            place.sql("DELETE FROM secrets WHERE name = %(n)s", n=BAD)
        last = await rotate(app, finish=True)
        assert (last.bad, last.rows) == ([], 1 if then == "repaired" else 0)
        assert place.states()[old] == "archived"
        assert (await app.keys.verify()).bad == []
