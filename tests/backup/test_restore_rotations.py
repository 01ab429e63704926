"""
A backup from before a rotation, or from the middle of one: everything opens, and comes under the key of today.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backup.instances import (
    PASSPHRASE,
    Office,
    comes_back,
    does_its_work,
    exported,
    faults_of,
    manifest_of,
    restored,
)
from tests.outgoing.servers import Server
from tests.rotation.place import Place, nothing_is_lost, rotate, whole


class Killed(Exception):
    """The process ended here."""


def keys_of(source: Place, target: Place) -> None:
    """The key source outlives the machine: today's keys, and those of before."""
    shutil.copytree(source.folder, target.folder)


@pytest.mark.parametrize("rotations", [1, 3])
async def test_one_from_before_rotations_opens_with_its_own_key_and_finish_brings_it_under_todays(
    office: Office, copy: Place, new: Place, provider: Server, tmp_path: Path, rotations: int
) -> None:
    file, then = tmp_path / "before", copy.only("active")
    async with copy.open() as app:
        await exported(app, file)
        for _ in range(rotations):
            assert (await rotate(app)).action == "rotated"
    today = copy.only("active")
    keys_of(copy, new)
    assert (await restored(new, file)).keys_added == []
    await comes_back(office, new, provider)
    # What the source says is today's key is the active one; every row is still under the other, but for what came since.
    states, rows = new.states(), new.rows_by_key()
    assert (states[today], states[then]) == ("active", "archived")
    assert list(states.values()).count("active") == 1
    assert rows[then] > rows.get(today, 0)
    assert set(rows) <= {then, today}
    assert new.sql("SELECT ends_at FROM master_keys WHERE key_id = %(k)s", k=then) == [{"ends_at": None}]
    assert new.hint() == copy.hint()
    async with new.open() as app:
        finished = await rotate(app, finish=True)
        assert (finished.action, finished.new_key_id, finished.bad) == ("finished", today, [])
        assert (await app.keys.verify()).bad == []
    assert set(new.rows_by_key()) == {today}
    assert new.kept() == copy.kept()
    await whole(office.at(new))
    await comes_back(office, new, provider)


async def test_the_ring_of_one_from_before_a_rotation_joins_the_keys_that_are_there(
    office: Office, files: dict[str, Path], fresh: Callable[[], Place], provider: Server
) -> None:
    # The key of then was pruned here since; the backup with its ring has it.
    source, new = fresh(), fresh()
    keys_of(office.place, source)
    await restored(source, files["plain"])
    async with source.open() as app:
        await rotate(app)
    then, today = source.only("archived"), source.only("active")
    keys_of(source, new)
    new.key_file(then).unlink()
    done = await restored(new, files["ring"], passphrase=PASSPHRASE, take_over=True)
    assert done.keys_added == [then]
    await comes_back(office, new, provider)
    assert (new.only("active"), new.kept()) == (today, {then, today})
    assert new.hint() == source.hint()
    async with new.open() as app:
        await rotate(app, finish=True)
    await whole(office.at(new))


MOMENTS = ["confirm", "switch", "rewrap", "archive"]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_one_from_the_middle_of_a_rotation_goes_on_from_there(
    office: Office, copy: Place, new: Place, provider: Server, tmp_path: Path, moment: str
) -> None:
    file = tmp_path / "middle"

    def say(step: str, done: int, total: int) -> None:
        if step == moment:
            raise Killed

    async with copy.open() as app:
        with pytest.raises(Killed):
            await rotate(app, say=say)
    async with copy.open() as app:
        await exported(app, file)
    states, rows = copy.states(), copy.rows_by_key()
    assert {key.key_id for key in manifest_of(file).needed_keys} == {
        key for key, state in states.items() if state in ("active", "retiring", "staged") or rows.get(key)
    }
    keys_of(copy, new)
    await restored(new, file)
    async with new.open() as app:
        await nothing_is_lost(office.at(new), app)
        assert await faults_of(app) == []
        await does_its_work(app, office, provider)
        begun = {"retiring", "staged"} & set(new.states().values())
        assert (await rotate(app, finish=True)).action == ("finished" if begun else "nothing")
    await whole(office.at(new))
    await comes_back(office, new, provider)


async def test_one_from_the_middle_with_its_ring_goes_into_an_empty_source(
    office: Office, copy: Place, new: Place, provider: Server, tmp_path: Path
) -> None:
    file = tmp_path / "middle"

    def say(step: str, done: int, total: int) -> None:
        if step == "rewrap":
            raise Killed

    async with copy.open() as app:
        with pytest.raises(Killed):
            await rotate(app, say=say)
    async with copy.open() as app:
        await exported(app, file, PASSPHRASE)
    done = await restored(new, file, passphrase=PASSPHRASE)
    assert set(done.keys_added) == {copy.only("active"), copy.only("retiring")}
    await comes_back(office, new, provider)
    assert new.hint() == new.key_file(new.only("active")).read_bytes()
    await whole(office.at(new))


async def test_without_the_key_that_was_staged_then_it_is_restored_all_the_same(
    office: Office, copy: Place, new: Place, provider: Server, tmp_path: Path
) -> None:
    # Nothing was sealed under it: whoever kept the active key has kept enough.
    file = tmp_path / "staged"

    def say(step: str, done: int, total: int) -> None:
        if step == "switch":
            raise Killed

    async with copy.open() as app:
        with pytest.raises(Killed):
            await rotate(app, say=say)
    async with copy.open() as app:
        await exported(app, file)
    staged = copy.only("staged")
    keys_of(copy, new)
    new.key_file(staged).unlink()
    await restored(new, file)
    await comes_back(office, new, provider)
    assert staged not in new.states()
    async with new.open() as app:
        assert (await rotate(app, finish=True)).action == "nothing"
        assert (await rotate(app)).action == "rotated"
    await whole(office.at(new))
