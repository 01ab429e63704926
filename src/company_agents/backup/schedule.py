"""
Backups by themselves: daily at a quiet minute, as many kept as the settings say, and a drill every month where that is
asked for. Every orchestrator looks; the one that has the lock does it.

What is due follows from the rows of `backups` and the clock alone, so that it does not matter who was killed when.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from company_agents.audit.log import AuditLog
from company_agents.backup.health import AHEAD, attempts_after, is_late, newest_good
from company_agents.backup.keeping import may_go
from company_agents.backup.places import Place
from company_agents.backup.rows import FAILED, WHOLE, BackupRow
from company_agents.db.database import Database
from company_agents.ending import ended
from company_agents.errors import Busy, CompanyAgentsError, Sealed
from company_agents.settings import Settings

# Seconds between two looks.
EVERY = 60.0
# The quiet minute is in these hours of UTC.
QUIET_FROM, QUIET_MINUTES = timedelta(hours=2), 180
# Between a start and a backup that was missed (seconds). This, and the rest between drills, by a clock that nobody sets.
SETTLE = 120.0
# Minutes that the first secret of a company is alone for, before the first backup.
FIRST_MINUTES = 30
# A backup that was made so shortly before the quiet minute is that day's.
EARLY = timedelta(hours=4)
# Between two attempts: after the first failure, and after each further one.
AGAIN = (timedelta(minutes=15), timedelta(hours=1))
# After two that were made and are bad, as those are in which a secret is that does not open: another one will not be better
# soon, and each needs its room.
BAD_AGAIN = timedelta(days=1)
# What the schedule makes it verifies at once, which takes less.
FIRST_VERIFIED = timedelta(hours=6)
# A drill is due at night; where no night was awake for so much longer, at any time.
DRILL_EVERY, DRILL_NIGHT, DRILL_ANYHOW = timedelta(days=30), timedelta(hours=4), timedelta(days=3)
# After one that failed, the next night: with another backup, or what was in the way is gone.
DRILL_AFTER_FAILURE = timedelta(hours=20)
# A drill that says nothing of how it ended is not begun again before (seconds).
DRILL_AGAIN = 20 * 3600.0
# Seconds between two looks whether what was made is still there.
LOOK_EVERY = 3600.0
# Days after which rows of what failed or is gone are removed.
FORGET = 90
LONGEST_PROBLEM = 500
WHO = "schedule"
# The code of the refusal where somebody has one made just now.
RUNS = "backup_runs"
# Advisory locks of a session: whose turn it is to make, and to tell.
MAKING, TELLING = 7301006, 7301007

log = logging.getLogger(__name__)


def is_scheduled(settings: Settings) -> bool:
    """Whether backups are made by the schedule: unless told otherwise, of the embedded database."""
    if settings.backup_schedule == "auto":
        return settings.database_url is None
    return settings.backup_schedule == "daily"


def quiet_minute(instance: UUID) -> timedelta:
    """From midnight, UTC: the same for an instance always, and another for most, so that they do not all come at once."""
    number = int.from_bytes(hashlib.sha256(b"company-agents/backup/quiet/v1" + instance.bytes).digest()[:8])
    return QUIET_FROM + timedelta(minutes=number % QUIET_MINUTES)


def last_quiet(now: datetime, quiet: timedelta) -> datetime:
    """The last quiet minute that has come."""
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + quiet
    return today if today <= now else today - timedelta(days=1)


def due(now: datetime, rows: Sequence[BackupRow], *, quiet: timedelta, since: datetime, secrets: bool) -> bool:
    """
    Whether a backup is to be made now. `since` is when the instance was made, `secrets` whether there is something that a
    first backup should not wait for.
    """
    last = newest_good(rows, now)
    vain = attempts_after(rows, last, now)
    if vain:
        bad = len(vain) > 1 and all(_was_made_bad(row) for row in vain[-2:])
        if now < vain[-1].tried_at + (BAD_AGAIN if bad else AGAIN[min(len(vain), len(AGAIN)) - 1]):
            return False
    if last is None:
        return secrets or since < last_quiet(now, quiet)
    return last.created_at < last_quiet(now, quiet) - EARLY


def _was_made_bad(row: BackupRow) -> bool:
    """Whether it was not good when it was made; another may have become so where it lies."""
    return row.state == WHOLE and row.verified_at is not None and row.verified_at - row.tried_at < FIRST_VERIFIED


def drill_due(now: datetime, rows: Sequence[BackupRow], *, quiet: timedelta) -> bool:
    """
    Whether the newest backup is to be restored for a trial now: in the night after 30 days, or the first one; after one that
    failed, in the next.
    """
    good = [row for row in rows if row.good and row.ours]
    if not good:
        return False
    drills = [(row.drilled_at, row.drill_problem) for row in rows if row.drilled_at is not None]
    ripe = min(row.created_at for row in good)
    if drills:
        last, problem = max(drills)
        ripe = last + (DRILL_AFTER_FAILURE if problem else DRILL_EVERY)
    return now >= ripe and (now - last_quiet(now, quiet) < DRILL_NIGHT or now >= ripe + DRILL_ANYHOW)


@dataclass
class BackupSchedule:
    """
    Runs between `start` and `close`; under a seal it does nothing. `make` makes, verifies and registers one backup of the
    schedule in the place; `verify` looks at one that is there; `compare` finds out which are not there any more, and
    returns why it could not; `rows` are all that are known; `drill` restores the newest for a trial, and registers how that
    ended. `since` is when the instance was made. `now` is the time, `steady` counts seconds.
    """

    db: Database
    audit: AuditLog
    place: Place
    instance: UUID
    since: datetime
    sealed: Callable[[], bool]
    make: Callable[[str], Awaitable[object]]
    verify: Callable[[UUID], Awaitable[object]]
    compare: Callable[[], Awaitable[Exception | None]]
    rows: Callable[[], Awaitable[Sequence[BackupRow]]]
    drill: Callable[[], Awaitable[object]]
    scheduled: bool
    drills: bool
    daily: int
    weekly: int
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    steady: Callable[[], float] = time.monotonic
    every: float = EVERY
    _tasks: list[asyncio.Task[None]] = field(default_factory=list, init=False)
    _started: float | None = field(default=None, init=False)
    _told: datetime | None = field(default=None, init=False)
    _drilled: float | None = field(default=None, init=False)
    _compared: float | None = field(default=None, init=False)

    def start(self) -> None:
        """Look, again and again, for what is due."""
        self._started = self.steady()
        if self.scheduled or self.drills:
            # Beside each other: one that makes may hang, and just then it is to be said that none is made.
            looks = {"backups": self.look, "backups-told": self.look_whether_late}
            self._tasks = [asyncio.create_task(self._run(look), name=name) for name, look in looks.items()]

    async def close(self) -> None:
        """Stop. A backup that was being made is given up, and made soon after the next start."""
        await ended(*self._tasks)

    async def _run(self, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await look()
            except Exception as error:
                # A database that is away for a moment, as a rule.
                log.warning("backups could not be looked after: %s", _said(error))
            await asyncio.sleep(self.every)

    async def look(self) -> None:
        """Once: do what is due, if nobody else does."""
        if self._rests():
            return
        if self._compared is None or self.steady() >= self._compared + LOOK_EVERY:
            self._compared = self.steady()
            try:
                trouble = await self.compare()
            except Exception as error:
                trouble = error
            if trouble is not None:
                log.warning("the place of backups could not be looked at: %s", _said(trouble))
        rows = await self.rows()
        if not (await self._due(rows) or self._drill_due(rows)):
            return
        async with self._turn(MAKING) as mine:
            if mine:
                await self._do()

    async def look_whether_late(self) -> None:
        """Once: tell that the newest backup is late, if nobody was told today."""
        if self._rests() or not self._late(await self.rows()):
            return
        async with self._turn(TELLING) as mine:
            if mine:
                await self._tell(await self.rows())

    def _rests(self) -> bool:
        return self.sealed() or (self._started is not None and self.steady() < self._started + SETTLE)

    async def _do(self) -> None:
        # Looked at again: whoever had the turn before may have done it.
        rows = await self.rows()
        if await self._due(rows):
            await self._made(rows)
            if {row.id for row in await self.rows() if row.state == WHOLE} - {row.id for row in rows}:
                # Also where it is not good: it needs its room.
                await self._tidy()
        if self._drill_due(await self.rows()):
            self._drilled = self.steady()
            try:
                await self.drill()
            except Exception as error:
                log.warning("the drill of a backup failed: %s", _said(error))

    async def _due(self, rows: Sequence[BackupRow]) -> bool:
        if not self.scheduled:
            return False
        now = self.now()
        secrets = newest_good(rows, now) is None and await self._has_secrets()
        return due(now, rows, quiet=quiet_minute(self.instance), since=self.since, secrets=secrets)

    def _drill_due(self, rows: Sequence[BackupRow]) -> bool:
        rested = self._drilled is None or self.steady() >= self._drilled + DRILL_AGAIN
        return self.drills and rested and drill_due(self.now(), rows, quiet=quiet_minute(self.instance))

    def _late(self, rows: Sequence[BackupRow]) -> bool:
        """Whether it is late, and nobody was told today, as far as we know."""
        now = self.now()
        told = self._told is not None and self._told.date() == now.date()
        return self.scheduled and not told and is_late(rows, now, self.since)

    async def _has_secrets(self) -> bool:
        async with self.db.instance_transaction() as tx:
            row = await tx.one("backup_schedule_secrets", minutes=FIRST_MINUTES)
        return bool(row and row["found"])

    @contextlib.asynccontextmanager
    async def _turn(self, lock: int) -> AsyncIterator[bool]:
        """Whether it is ours to do, which nobody else does meanwhile."""
        async with self.db.instance_session() as session:
            async with session.transaction() as tx:
                row = await tx.one("backup_schedule_turn", lock=lock)
            yield bool(row and row["taken"])

    async def _made(self, before: Sequence[BackupRow]) -> None:
        try:
            unproved = self._unproved(before)
            await (self.make(WHO) if unproved is None else self.verify(unproved.id))
        except Exception as error:
            if isinstance(error, (Sealed, Busy)) or getattr(error, "reason", "") == RUNS:
                # Nothing is wrong; the next look tries again.
                log.info("a backup has to wait: %s", type(error).__name__)
                return
            problem = _said(error)[:LONGEST_PROBLEM]
            log.warning("a backup failed: %s", problem)
            backup = await self._failed(before, problem)
            await self.audit.append(None, "backup.failed", actor=WHO, backup=backup, problem=problem)

    def _unproved(self, rows: Sequence[BackupRow]) -> BackupRow | None:
        """
        One that was put into its place since the last quiet minute, and of which nobody knows yet whether it is good: its maker
        was killed, or the place could not be read. To make another would not tell.
        """
        since = last_quiet(self.now(), quiet_minute(self.instance)) - EARLY
        found = [
            row
            for row in rows
            if row.scheduled and row.good and not row.proved and row.place == self.place.address
            if since <= row.created_at <= self.now() + AHEAD
        ]
        return max(found, key=lambda row: row.created_at, default=None)

    async def _failed(self, known: Sequence[BackupRow], problem: str) -> UUID:
        """The row of what has just failed, made here where it failed before there was one."""
        before, bad = {row.id for row in known}, {row.id for row in known if row.verify_problem}
        for row in await self.rows():
            if row.scheduled and row.state == FAILED and row.id not in before:
                return row.id
            if row.scheduled and row.state == WHOLE and row.verify_problem and row.id not in bad:
                return row.id
        backup = uuid4()
        async with self.db.instance_transaction() as tx:
            given = {"id": backup, "place": self.place.address, "made_by": WHO, "problem": problem}
            await tx.run("backup_schedule_failed", **given)
        return backup

    async def _tidy(self) -> None:
        """
        Take away what need not be kept. Only what lies in the place of today is looked at, and counted: if a disk is not
        mounted, nothing is there, and nothing goes.
        """
        try:
            there = {stored.name for stored in await self.place.list()}
            rows = [row for row in await self.rows() if row.place == self.place.address]
            here = [replace(row, missing_at=None) for row in rows if row.name in there]
            most = {"daily": self.daily, "weekly": self.weekly}
            gone = may_go(here, self.now(), **most)
            if any(row.proved and row.scheduled for row in here):
                # What was taken away by a look that was killed before it could write that down.
                known = [replace(row, missing_at=None) for row in rows]
                gone += [row for row in may_go(known, self.now(), **most) if row.name not in there]
            for row in gone:
                await self._take_away(row)
            async with self.db.instance_transaction() as tx:
                await tx.run("backup_schedule_forget", days=FORGET)
        except Exception as error:
            # What is too many goes with the next one.
            log.warning("old backups could not be taken away: %s", _said(error))

    async def _take_away(self, row: BackupRow) -> None:
        try:
            await self.place.delete(row.name)
        except Exception as error:
            # One that cannot be is no reason to leave the others.
            log.warning("the backup %s could not be taken away: %s", row.name, _said(error))
            return
        async with self.db.instance_transaction() as tx:
            await tx.run("backup_schedule_gone", id=row.id)

    async def _tell(self, rows: Sequence[BackupRow]) -> None:
        """Write down that the newest backup is late: once a day, whoever sees it."""
        now = self.now()
        midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        async with self.db.transaction(None) as tx:
            row = await tx.one(
                "backup_schedule_told",
                chain=self.instance,
                pattern='%"action":"backup.late"%',
                since=midnight.isoformat(),
            )
        if not (row and row["found"]):
            last = newest_good(rows, now)
            await self.audit.append(
                None, "backup.late", actor=WHO, last_at=last.created_at.isoformat() if last else None
            )
        self._told = now


def _said(error: Exception) -> str:
    # What a foreign exception says of itself may hold anything.
    return error.sentence if isinstance(error, CompanyAgentsError) else type(error).__name__
