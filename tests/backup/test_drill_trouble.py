"""
Trials that cannot go on, that are killed, and that are made at once: each says so, and leaves what is somebody else's.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from company_agents.backup import drill
from company_agents.backup.drill import EMPTY, GROWTH, LEFT_FREE, PREFIX, clear_drills
from company_agents.backup.places import FolderPlace, backup_name
from company_agents.crypto.keyring import MasterKey
from company_agents.errors import Failed
from tests.backup import archives
from tests.backup.instances import manifest_of
from tests.backup.test_drill import databases, drilled, drilled_events
from tests.cli.processes import SLOWEST, Machine
from tests.rotation.place import Place

Usage = namedtuple("Usage", "total used free")


def backups_of(place: Place) -> Path:
    return place.home / "data" / "backups"


def left(place: Place) -> list[Path]:
    """What trials have left."""
    return [*(place.home / "data").glob(f"{PREFIX}*")]


def nothing_is_left(place: Place) -> None:
    assert left(place) == []
    assert databases(place.home) == []


# — which one —


async def test_another_backup_under_its_name_does_not_pass(copy: Place) -> None:
    async with copy.open() as app:
        first, second = await app.backups.make("tester"), await app.backups.make("tester")
        folder = backups_of(copy)
        (folder / second.file).unlink()
        shutil.copyfile(folder / first.file, folder / second.file)
        found = await app.drill.run(second.id, "tester")
        assert (found.id, found.rows) == (second.id, 0)
        assert "another one lies in its place" in found.problem
        rows = {row.id: row for row in await app.backups.rows()}
        assert "another one" in rows[second.id].drill_problem
        assert rows[first.id].drilled_at is None
    nothing_is_left(copy)


async def test_what_somebody_has_put_there_is_not_taken_for_the_newest(copy: Place) -> None:
    async with copy.open() as app:
        made = await app.backups.make("tester")
        parts = archives.take_apart((backups_of(copy) / made.file).read_bytes())
        parts.manifest.update(id=str(uuid4()), taken_at="9990-01-01T00:00:00Z")
        name = backup_name(datetime(2026, 1, 1, tzinfo=UTC), UUID(parts.manifest["id"]))
        (backups_of(copy) / name).write_bytes(archives.put_together(parts, MasterKey.generate()))
        found = await app.drill.run(None, "tester")
        assert (found.id, found.problem) == (made.id, "")
        assert UUID(parts.manifest["id"]) in {row.id for row in await app.backups.rows()}


# — what nobody thought of —


class Strange(FolderPlace):
    """A place that is not on this machine, and fails in a way of its own."""

    error: Exception = KeyError("the secret of somebody")
    listing = False

    def local(self, name: str) -> Path | None:
        return None

    async def get(self, name: str, path: Path) -> None:
        raise self.error

    async def list(self) -> Any:
        if self.listing:
            raise self.error
        return await super().list()


@pytest.mark.parametrize("listing", [False, True])
@pytest.mark.parametrize("error", [KeyError("the secret"), OSError(5, "the secret"), RuntimeError("the secret")])
async def test_an_error_of_a_place_that_nobody_thought_of_is_remembered_by_its_kind(
    copy: Place, error: Exception, listing: bool
) -> None:
    async with copy.open() as app:
        made = await app.backups.make("tester")
        strange = Strange(backups_of(copy), within=copy.home)
        strange.error, strange.listing = error, listing
        app.backups._place = strange
        with pytest.raises(Failed, match=type(error).__name__) as said:
            await app.drill.run(None, "tester")
        assert said.value.__cause__ is error
        [row] = [row for row in await app.backups.rows() if row.id == made.id]
        assert row.drilled_at is not None
        assert type(error).__name__ in row.drill_problem
        assert "the secret" not in row.drill_problem + str(said.value)
        event = drilled_events(copy)[-1]
        assert (event["backup"], event["problem"]) == (str(made.id), row.drill_problem)


# — the disk —


def room(copy: Place, file: str) -> int:
    """What a trial of this one needs, in bytes."""
    members = manifest_of(backups_of(copy) / file).members
    return EMPTY + GROWTH * sum(each.bytes for each in members if each.name.startswith("tables/")) + LEFT_FREE


async def test_a_trial_that_could_fill_the_disk_of_the_live_database_is_refused(
    copy: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with copy.open() as app:
        made = await app.backups.make("tester")
        needed = room(copy, made.file)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10 * needed, 0, needed - 1))
        found = await app.drill.run(None, "tester")
        assert "there is no room for a drill" in found.problem
        assert found.problem.count("MiB") == 3
        assert "free some space" in found.hint
        assert found.rows == 0
        nothing_is_left(copy)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10 * needed, 0, needed))
        assert await drilled(app) == ("", "")


async def test_a_trial_takes_no_more_room_than_was_asked_for(copy: Place) -> None:
    taken = []

    def say(step: str, done: int, total: int) -> None:
        [home] = left(copy)
        folders = {home, Path(os.path.realpath(home / "db"))}
        found = [path.lstat().st_blocks for folder in folders for path in folder.rglob("*") if path.is_file()]
        taken.append(512 * sum(found))

    async with copy.open() as app:
        made = await app.backups.make("tester")
        assert (await app.drill.run(None, "tester", say)).problem == ""
        assert EMPTY // 4 < max(taken) < room(copy, made.file) - LEFT_FREE


# — killed, and at once —


async def test_what_a_killed_trial_has_left_is_taken_away_without_another_trial(copy: Place) -> None:
    async with copy.open() as app:
        await app.backups.make("tester")
    machine = Machine(copy.home, more={"DATABASE_URL": copy.variables["DATABASE_URL"]})
    with machine.start("backup", "drill", "--json") as child:
        assert child.stderr is not None
        while json.loads(child.stderr.readline())["step"] != "restoring":
            pass
        child.kill()
        child.communicate(timeout=SLOWEST)
    [home] = left(copy)
    assert (home / "db").exists()
    # The next orchestrator that starts takes it away.
    async with copy.open(long_lived=True):
        pass
    nothing_is_left(copy)
    async with copy.open() as app:
        assert await drilled(app) == ("", "")


async def test_a_trial_that_is_going_on_is_left_alone(copy: Place) -> None:
    seen = []

    def say(step: str, done: int, total: int) -> None:
        before = left(copy)
        clear_drills(copy.home)
        seen.append((before, left(copy)))

    async with copy.open() as app:
        await app.backups.make("tester")
        found = await app.drill.run(None, "tester", say)
        assert (found.problem, found.bad, found.faults) == ("", [], [])
    assert len(seen) > 4
    assert all(len(before) == 1 and before == after for before, after in seen)
    nothing_is_left(copy)


async def test_two_trials_at_once_both_come_to_their_end(copy: Place) -> None:
    async with copy.open() as app:
        await app.backups.make("tester")
        (copy.home / "data" / f"{PREFIX}0123").mkdir()
        found = await asyncio.gather(*(app.drill.run(None, "tester") for _ in range(2)))
        assert [each.problem for each in found] == ["", ""]
    nothing_is_left(copy)


def before_it_is_held(monkeypatch: pytest.MonkeyPatch, come: Callable[[], None]) -> None:
    """Somebody comes in once, before a hold is taken."""
    real, coming = fcntl.flock, [come]

    def flock(file: Any, operation: int) -> None:
        if coming:
            coming.pop()()
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)


async def test_a_home_that_was_cleared_before_it_was_held_is_made_anew(
    copy: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = copy.home / "data"
    data.mkdir(exist_ok=True)
    before_it_is_held(monkeypatch, lambda: clear_drills(copy.home))
    home, held = drill._new_home(data)
    assert left(copy) == [home]
    os.close(held)
    clear_drills(copy.home)
    assert left(copy) == []


def test_one_that_goes_away_while_others_are_cleared_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    for name in ("a", "b", "c"):
        (data / f"{PREFIX}{name}" / "x").mkdir(parents=True)

    def come() -> None:
        clear_drills(tmp_path)

    before_it_is_held(monkeypatch, come)
    clear_drills(tmp_path)
    assert list(data.iterdir()) == []
    clear_drills(tmp_path / "nowhere")


def test_neither_a_link_nor_a_file_of_such_a_name_is_followed(tmp_path: Path) -> None:
    data, theirs = tmp_path / "data", tmp_path / "theirs"
    data.mkdir()
    (theirs / "x").mkdir(parents=True)
    (data / f"{PREFIX}link").symlink_to(theirs)
    (data / f"{PREFIX}file").write_bytes(b"x")
    clear_drills(tmp_path)
    assert (theirs / "x").is_dir()
    assert len(list(data.iterdir())) == 2
