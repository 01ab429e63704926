"""
The schedule at work: a real database, a real folder, a clock of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from company_agents.app import App
from company_agents.backup import schedule as module
from company_agents.backup.places import FolderPlace
from company_agents.backup.rows import BackupRow
from company_agents.backup.schedule import WHO, BackupSchedule
from company_agents.errors import Busy, Conflict, Failed, Sealed, Unavailable
from company_agents.outbox.events import message
from tests.backup.made import row
from tests.conftest import Tenant
from tests.promises.evidence import Past, connect_past, recorded, sql

# What the table has of a row: which keys are lost, other tables say.
STORED = [column.name for column in fields(BackupRow) if column.name != "lost_keys"]
COLUMNS = ", ".join(STORED)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
async def superuser(app: App) -> AsyncIterator[Past]:
    """The database past everything of ours."""
    async with await connect_past(app, "postgres") as connection:
        yield connection


class World:
    """A folder for the backups of one test, its rows, a clock, and what is made when the schedule wants one."""

    def __init__(self, app: App, superuser: Past, folder: Path) -> None:
        self.app, self.past = app, superuser
        self.place = FolderPlace(folder)
        self.source = folder.with_name("made")
        self.ahead = timedelta()
        self.makes: list[str] = []
        self.verifies: list[UUID] = []
        self.drills = self.compares = 0
        self.sealed = False
        self.error: Exception | None = None
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()
        self.may_end.set()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def schedule(self, *, tells: bool = False, **given: Any) -> BackupSchedule:
        """An orchestrator's. Unless it `tells`, it thinks that today somebody was told already that it is late."""
        wanted: dict[str, Any] = {
            "db": self.app.store.db,
            "audit": self.app.audit,
            "place": self.place,
            "instance": self.app.instance.id,
            "since": self.now() - 100 * DAY,
            "sealed": lambda: self.sealed,
            "make": self.make,
            "verify": self.verify,
            "compare": self.compare,
            "rows": self.rows,
            "drill": self.drill,
            "scheduled": True,
            "drills": False,
            "daily": 7,
            "weekly": 4,
            "now": self.now,
            "steady": lambda: time.monotonic() + self.ahead.total_seconds(),
        }
        made = BackupSchedule(**{**wanted, **given})
        made._told = None if tells else self.now()
        return made

    async def make(self, who: str) -> None:
        self.makes.append(who)
        self.begun.set()
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        await self.lies_there(self.now())

    async def verify(self, backup: UUID) -> None:
        self.verifies.append(backup)
        if self.error is not None:
            raise self.error
        await sql(self.past, "UPDATE backups SET verified_at = now() WHERE id = %(id)s", id=backup)

    async def compare(self) -> Exception | None:
        self.compares += 1
        return self.error

    async def fail(self, who: str) -> None:
        """As `make`, where it fails after it was begun."""
        self.makes.append(who)
        await self.lies_there(self.now(), state="failed", problem="there is no room left", file="")
        raise Failed("there is no room left")

    async def drill(self) -> None:
        self.drills += 1
        if self.error is not None:
            raise self.error

    async def rows(self) -> list[BackupRow]:
        found = await sql(self.past, f"SELECT {COLUMNS} FROM backups WHERE made_by = %(by)s", by=WHO)
        return [BackupRow(**{**one, "key_ids": tuple(one["key_ids"])}) for one in found]

    async def lies_there(self, when: datetime, **given: Any) -> BackupRow:
        """A backup of then, in its place and in the database."""
        made = row(
            when,
            **{"place": self.place.address, "file": f"company-agents-{when:%Y%m%dT%H%M%SZ}-{0:012x}.tar.zst"} | given,
        )
        self.source.touch(mode=0o600)
        self.source.write_bytes(b"a backup")
        if made.state == "whole":
            await FolderPlace(self.place.folder).put(made.name, self.source)
            self.source.unlink()
        values = {name: getattr(made, name) for name in STORED} | {"key_ids": list(made.key_ids)}
        marks = ", ".join(f"%({name})s" for name in values)
        await sql(self.past, f"INSERT INTO backups ({', '.join(values)}) VALUES ({marks})", **values)
        return made

    def files(self) -> list[str]:
        return sorted(path.name for path in self.place.folder.iterdir())

    async def states(self) -> dict[UUID, str]:
        return {found.id: found.state for found in await self.rows()}

    async def failures(self) -> list[BackupRow]:
        return sorted((found for found in await self.rows() if found.state == "failed"), key=lambda one: one.created_at)

    async def events(self, action: str, since: int) -> list[dict[str, Any]]:
        return [event for event in await recorded(self.app, None, action) if event["seq"] > since]

    async def end(self) -> int:
        """The number of the chain's last event."""
        return max((event["seq"] for event in await self.app.events.newest(None, limit=1)), default=0)


@pytest.fixture
async def world(app: App, superuser: Past, tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "backups").mkdir(mode=0o700)
    await sql(superuser, "DELETE FROM backups WHERE made_by = %(by)s", by=WHO)
    yield World(app, superuser, tmp_path / "backups")
    await sql(superuser, "DELETE FROM backups WHERE made_by = %(by)s", by=WHO)


# — making —


async def test_what_is_due_is_made_once_and_what_is_too_much_goes(world: World) -> None:
    old = [await world.lies_there(world.now() - day * DAY) for day in range(40, 1, -1)]
    asked_for = await world.lies_there(world.now() - 50 * DAY, scheduled=False)
    await world.schedule().look()
    await world.schedule().look()
    assert world.makes == [WHO]
    states = await world.states()
    left = {one.name for one in await world.rows() if one.state == "whole"}
    assert set(world.files()) == left
    assert 8 <= len(left) <= 12
    assert states[asked_for.id] == "whole"
    assert states[old[0].id] == "gone"
    assert states[old[-1].id] == "whole"


async def test_what_is_not_due_is_not_made(world: World) -> None:
    await world.lies_there(world.now() - timedelta(minutes=1))
    await world.schedule().look()
    assert world.makes == []


async def test_a_sealed_instance_makes_nothing_and_does_so_later(world: World) -> None:
    world.sealed = True
    schedule = world.schedule()
    await schedule.look()
    assert world.makes == []
    world.sealed = False
    await schedule.look()
    assert world.makes == [WHO]


async def test_of_several_orchestrators_one_makes_it(world: World) -> None:
    world.may_end.clear()
    looks = [asyncio.create_task(world.schedule().look()) for _ in range(4)]
    await world.begun.wait()
    await asyncio.wait(looks, return_when=asyncio.FIRST_COMPLETED)
    await world.schedule().look()
    world.may_end.set()
    await asyncio.gather(*looks)
    await world.schedule().look()
    assert world.makes == [WHO]


async def test_the_turn_of_one_that_was_killed_is_the_next_one_s(world: World, app: App) -> None:
    async with await connect_past(app, "postgres") as other:
        [taken] = await sql(other, "SELECT pg_try_advisory_lock(7301006) AS taken")
        assert taken["taken"]
        await world.schedule().look()
        assert world.makes == []
    async with asyncio.timeout(20):
        while not world.makes:
            await world.schedule().look()
    assert world.makes == [WHO]


async def test_a_new_instance_has_its_first_backup_within_the_hour_once_it_has_a_secret(
    world: World, superuser: Past, tenant: Callable[[], Awaitable[Tenant]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.FIRST_MINUTES + module.EVERY / 60 < 60
    # As if those of other tests, which are some minutes old, were too young.
    monkeypatch.setattr(module, "FIRST_MINUTES", 60 * 24 * 365)
    schedule, secret = world.schedule(since=world.now()), uuid4()
    await schedule.look()
    assert world.makes == []
    await sql(
        superuser,
        "INSERT INTO secrets (id, company_id, name, value, nonce, key_id, created_at)"
        " SELECT %(id)s, %(company)s, 'x', %(value)s, %(nonce)s, key_id, now() - interval '366 days'"
        " FROM master_keys WHERE state = 'active'",
        id=secret,
        company=(await tenant()).company.id,
        value=b"-" * 32,
        nonce=b"-" * 12,
    )
    await schedule.look()
    await sql(superuser, "DELETE FROM secrets WHERE id = %(id)s", id=secret)
    assert world.makes == [WHO]


# — failing —


async def test_a_failure_is_a_row_and_an_event_and_is_tried_again_after_15_minutes_then_every_hour(
    world: World,
) -> None:
    end, schedule = await world.end(), world.schedule(make=world.fail)
    for ahead, attempts in ((0, 1), (14, 1), (16, 2), (75, 2), (77, 3), (136, 3), (138, 4)):
        world.ahead = timedelta(minutes=ahead)
        await schedule.look()
        assert len(world.makes) == attempts, ahead
    failures = await world.failures()
    assert [one.problem for one in failures] == ["there is no room left"] * 4
    told = await world.events("backup.failed", end)
    assert [(event["backup"], event["problem"]) for event in told] == [(str(one.id), one.problem) for one in failures]


async def test_one_that_fails_before_it_has_a_row_gets_one(world: World) -> None:
    end, schedule = await world.end(), world.schedule()
    world.error = Failed("the database has no instance role")
    await schedule.look()
    await schedule.look()
    [failure] = await world.failures()
    assert (failure.problem, failure.place, failure.scheduled) == (world.error.sentence, world.place.address, True)
    assert failure.finished_at is not None
    [event] = await world.events("backup.failed", end)
    assert event["backup"] == str(failure.id)


async def test_what_a_foreign_error_says_is_not_repeated(world: World) -> None:
    end = await world.end()
    world.error = RuntimeError("a-secret-in-a-text")
    await world.schedule().look()
    [failure] = await world.failures()
    [event] = await world.events("backup.failed", end)
    assert failure.problem == event["problem"] == "RuntimeError"


@pytest.mark.parametrize("error", [Sealed(), Busy("a rotation"), Conflict("another", code="backup_runs")])
async def test_one_that_only_has_to_wait_has_not_failed(world: World, error: Exception) -> None:
    end, schedule = await world.end(), world.schedule()
    world.error = error
    await schedule.look()
    assert await world.failures() == []
    assert await world.events("backup.failed", end) == []
    world.error = None
    await schedule.look()
    assert len(world.makes) == 2


async def test_backups_in_which_a_secret_does_not_open_do_not_fill_the_disk(world: World) -> None:
    good = await world.lies_there(world.now() - 2 * DAY)

    async def make(who: str) -> None:
        world.makes.append(who)
        await world.lies_there(world.now(), verify_problem="a secret does not open")
        raise Failed("the backup was made, and is not good")

    schedule = world.schedule(make=make, daily=3)
    for hour in range(24 * 12):
        world.ahead = timedelta(hours=hour)
        await schedule.look()
    assert 12 <= len(world.makes) <= 14
    assert len(world.files()) == 4 and good.name in world.files()


async def test_one_that_was_made_and_not_verified_is_verified_before_another_is_made(world: World) -> None:
    await world.lies_there(world.now() - 2 * DAY)
    unproved = await world.lies_there(world.now(), verified_at=None)
    schedule = world.schedule()
    await schedule.look()
    await schedule.look()
    assert (world.makes, world.verifies) == ([], [unproved.id])


async def test_a_place_that_can_be_written_and_not_read_gets_one_a_day(world: World) -> None:
    await world.lies_there(world.now() - 2 * DAY)

    async def make(who: str) -> None:
        world.makes.append(who)
        await world.lies_there(world.now(), verified_at=None)
        raise Unavailable("the store does not answer")

    async def verify(backup: UUID) -> None:
        world.verifies.append(backup)
        raise Unavailable("the store does not answer")

    schedule = world.schedule(make=make, verify=verify, daily=3)
    for hour in range(24 * 6):
        world.ahead = timedelta(hours=hour)
        await schedule.look()
    assert 6 <= len(world.makes) <= 7 and len(world.verifies) > 100
    assert len(world.files()) <= 4 + 1


async def test_whether_what_was_made_is_still_there_is_looked_at_every_hour(world: World) -> None:
    await world.lies_there(world.now())
    schedule = world.schedule()
    for minutes in (0, 1, 59, 61, 119, 122):
        world.ahead = timedelta(minutes=minutes)
        await schedule.look()
    assert world.compares == 3
    # That it cannot be is no reason not to make one.
    world.ahead, world.error = 2 * DAY, Unavailable("the place is away")
    await schedule.look()
    assert world.makes == [WHO]


async def test_after_a_failure_nothing_goes(world: World) -> None:
    for day in range(20, 1, -1):
        await world.lies_there(world.now() - day * DAY)
    before = world.files()
    world.error = Failed("no")
    await world.schedule().look()
    assert world.files() == before


async def test_a_company_is_told_that_a_backup_failed_and_not_why() -> None:
    record = '{"action":"backup.failed","at":"2026-03-01T03:18:00+00:00","backup":"x","problem":"/of/the/machine"}'
    sent = message("backup.failed", uuid4(), uuid4(), 1, record).payload
    assert '"backup":"x"' in sent
    assert "/of/the/machine" not in sent


# — late —


async def test_a_late_backup_is_an_event_once_a_day_whoever_looks(world: World) -> None:
    last = await world.lies_there(world.now() - timedelta(hours=40))
    end = await world.end()
    world.error = Failed("no")
    await asyncio.gather(*(world.schedule(tells=True).look_whether_late() for _ in range(3)))
    await world.schedule(tells=True).look_whether_late()
    [event] = await world.events("backup.late", end)
    assert datetime.fromisoformat(event["last_at"]) == last.created_at
    world.ahead = DAY
    schedule = world.schedule(tells=True)
    await schedule.look_whether_late()
    await schedule.look_whether_late()
    assert len(await world.events("backup.late", end)) == 2


async def test_one_that_hangs_in_making_keeps_nobody_from_hearing_that_it_is_late(world: World) -> None:
    await world.lies_there(world.now() - timedelta(hours=40))
    end = await world.end()
    world.may_end.clear()
    schedule = world.schedule(tells=True, every=0.01)
    schedule.start()
    # A day of which no other test has told.
    world.ahead = 9 * DAY
    try:
        async with asyncio.timeout(20):
            await world.begun.wait()
            while not await world.events("backup.late", end):
                await asyncio.sleep(0.05)
    finally:
        await schedule.close()


async def test_a_clock_that_is_set_back_after_the_start_silences_nothing(world: World) -> None:
    await world.lies_there(world.now() - timedelta(hours=40))
    wrong, passed = [365 * DAY], [0.0]
    now = lambda: datetime.now(UTC) + wrong[0]  # noqa: E731
    schedule = world.schedule(every=0.01, steady=lambda: passed[0], now=now)
    schedule.start()
    wrong[0], passed[0] = timedelta(), module.SETTLE
    try:
        async with asyncio.timeout(20):
            await world.begun.wait()
    finally:
        await schedule.close()


async def test_without_a_schedule_nothing_is_made_and_nothing_is_late(world: World) -> None:
    end = await world.end()
    await world.schedule(scheduled=False, tells=True).look()
    await world.schedule(scheduled=False, tells=True).look_whether_late()
    assert world.makes == []
    assert await world.events("backup.late", end) == []


# — keeping —


async def test_where_the_disk_is_not_mounted_nothing_is_thought_to_be_gone(world: World) -> None:
    for day in range(20, 1, -1):
        await world.lies_there(world.now() - day * DAY)
    away = world.place.folder.with_name("away")
    world.place.folder.rename(away)
    world.place.folder.mkdir()
    await world.schedule(make=lambda who: world.drill()).look()
    assert set((await world.states()).values()) == {"whole"}


async def test_what_was_taken_away_by_one_that_was_killed_then_is_gone_with_the_next(world: World) -> None:
    rows = [await world.lies_there(world.now() - day * DAY) for day in range(40, 1, -1)]
    (world.place.folder / rows[0].name).unlink()
    (world.place.folder / rows[-1].name).unlink()
    await world.schedule().look()
    states = await world.states()
    assert states[rows[0].id] == "gone"
    # This one would have been kept: somebody else took it, and what that means is not for us to say.
    assert states[rows[-1].id] == "whole"


async def test_what_lies_in_another_place_is_left_alone(world: World) -> None:
    rows = [await world.lies_there(world.now() - day * DAY, place="s3://before") for day in range(40, 1, -1)]
    await world.schedule().look()
    states = await world.states()
    assert all(states[one.id] == "whole" for one in rows)
    assert len(world.files()) == len(rows) + 1


async def test_one_that_was_made_has_not_failed_where_old_ones_cannot_be_taken_away(world: World) -> None:
    end = await world.end()
    for day in range(20, 1, -1):
        await world.lies_there(world.now() - day * DAY)

    async def make(who: str) -> None:
        await world.make(who)
        world.place.folder.rename(world.place.folder.with_name("away"))
        world.place.folder.write_text("no folder")

    await world.schedule(make=make).look()
    assert await world.events("backup.failed", end) == []
    assert "gone" not in (await world.states()).values()


async def test_rows_of_what_failed_long_ago_are_removed(world: World) -> None:
    old = await world.lies_there(world.now() - 91 * DAY, state="failed", file="")
    young = await world.lies_there(world.now() - 89 * DAY, state="failed", file="")
    await world.schedule().look()
    states = await world.states()
    assert old.id not in states
    assert states[young.id] == "failed"


# — drills —


async def test_a_drill_that_fails_without_a_word_is_not_begun_every_minute(world: World) -> None:
    await world.lies_there(world.now() - 5 * DAY)
    schedule = world.schedule(scheduled=False, drills=True)
    world.error = Failed("it does not restore")
    for _ in range(3):
        await schedule.look()
    assert world.drills == 1
    world.ahead = DAY
    await schedule.look()
    assert world.drills == 2


async def test_drills_are_off_unless_asked_for(world: World) -> None:
    await world.lies_there(world.now() - 5 * DAY)
    await world.schedule(scheduled=False).look()
    assert world.drills == 0


# — running —


async def test_it_looks_again_and_again_soon_after_a_start(world: World) -> None:
    schedule = world.schedule(every=0.01)
    schedule.start()
    try:
        await asyncio.sleep(0.2)
        assert world.makes == []
        world.ahead = timedelta(minutes=3)
        async with asyncio.timeout(20):
            await world.begun.wait()
    finally:
        await schedule.close()


async def test_one_that_was_being_made_at_the_end_has_not_failed(world: World) -> None:
    end, schedule = await world.end(), world.schedule(every=0.01)
    world.may_end.clear()
    schedule.start()
    world.ahead = timedelta(minutes=3)
    async with asyncio.timeout(20):
        await world.begun.wait()
    await schedule.close()
    assert await world.failures() == []
    assert await world.events("backup.failed", end) == []
    world.may_end.set()
    async with asyncio.timeout(20):
        while len(world.makes) < 2:
            await world.schedule().look()


async def test_a_look_that_fails_is_not_the_last_one(world: World) -> None:
    looks = []

    async def rows() -> list[BackupRow]:
        looks.append(1)
        if len(looks) < 3:
            raise RuntimeError("the database is away")
        return await world.rows()

    schedule = world.schedule(every=0.01, rows=rows)
    schedule.start()
    world.ahead = timedelta(minutes=3)
    try:
        async with asyncio.timeout(20):
            await world.begun.wait()
    finally:
        await schedule.close()
