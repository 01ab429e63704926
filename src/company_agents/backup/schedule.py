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
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from company_agents.audit.log import AuditLog
from company_agents.backup.health import attempts_after, is_late, newest_good
from company_agents.backup.keeping import may_go
from company_agents.backup.places import Place
from company_agents.backup.rows import FAILED, BackupRow
from company_agents.db.database import Database
from company_agents.ending import ended
from company_agents.errors import Busy, CompanyAgentsError, Sealed
from company_agents.settings import Settings

# Seconds between two looks.
EVERY = 60.0
# The quiet minute is in these hours of UTC.
QUIET_FROM, QUIET_MINUTES = timedelta(hours=2), 180
# Between a start and a backup that was missed.
SETTLE = timedelta(minutes=2)
# Minutes that the first secret of a company is alone for, before the first backup.
FIRST_MINUTES = 30
# A backup that was made so shortly before the quiet minute is that day's.
EARLY = timedelta(hours=4)
# Between two attempts: after the first failure, and after each further one.
AGAIN = (timedelta(minutes=15), timedelta(hours=1))
# A drill is due at night; where no night was awake for so much longer, at any time.
DRILL_EVERY, DRILL_NIGHT, DRILL_ANYHOW = timedelta(days=30), timedelta(hours=4), timedelta(days=3)
# A drill that says nothing of how it ended is not begun again before.
DRILL_AGAIN = timedelta(hours=20)
# Days after which rows of what failed or is gone are removed.
FORGET = 90
LONGEST_PROBLEM = 500
WHO = "schedule"
# The code of the refusal where somebody has one made just now.
RUNS = "backup_runs"

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
    if vain and now < vain[-1].tried_at + AGAIN[min(len(vain), len(AGAIN)) - 1]:
        return False
    if last is None:
        return secrets or since < last_quiet(now, quiet)
    return last.created_at < last_quiet(now, quiet) - EARLY


def drill_due(now: datetime, rows: Sequence[BackupRow], *, quiet: timedelta) -> bool:
    """Whether the newest backup is to be restored for a trial now: in the night after 30 days, or the first one."""
    good = [row for row in rows if row.good]
    if not good:
        return False
    drilled = max((row.drilled_at for row in rows if row.drilled_at is not None), default=None)
    first = min(row.created_at for row in good)
    ripe = drilled + DRILL_EVERY if drilled is not None else first
    return now >= ripe and (now - last_quiet(now, quiet) < DRILL_NIGHT or now >= ripe + DRILL_ANYHOW)


@dataclass
class BackupSchedule:
    """
    Runs between `start` and `close`; under a seal it does nothing. `make` makes, verifies and registers one backup of the
    schedule in the place; `rows` are all that are known; `drill` restores the newest for a trial, and registers how that
    ended. `since` is when the instance was made.
    """

    db: Database
    audit: AuditLog
    place: Place
    instance: UUID
    since: datetime
    sealed: Callable[[], bool]
    make: Callable[[str], Awaitable[object]]
    rows: Callable[[], Awaitable[Sequence[BackupRow]]]
    drill: Callable[[], Awaitable[object]]
    scheduled: bool
    drills: bool
    daily: int
    weekly: int
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    every: float = EVERY
    _task: asyncio.Task[None] | None = field(default=None, init=False)
    _started: datetime | None = field(default=None, init=False)
    _told: datetime | None = field(default=None, init=False)
    _drilled: datetime | None = field(default=None, init=False)

    def start(self) -> None:
        """Look, again and again, for what is due."""
        self._started = self.now()
        if self.scheduled or self.drills:
            self._task = asyncio.create_task(self._run(), name="backups")

    async def close(self) -> None:
        """Stop. A backup that was being made is given up, and made soon after the next start."""
        if self._task is not None:
            await ended(self._task)

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception as error:
                # A database that is away for a moment, as a rule.
                log.warning("backups could not be looked after: %s", _said(error))
            await asyncio.sleep(self.every)

    async def look(self) -> None:
        """Once: do what is due, if nobody else does."""
        if self.sealed() or (self._started is not None and self.now() < self._started + SETTLE):
            return
        if not await self._wanted():
            return
        async with self._turn() as mine:
            if mine:
                await self._do()

    async def _wanted(self) -> bool:
        rows = await self.rows()
        return await self._due(rows) or self._drill_due(rows) or self._late(rows)

    async def _do(self) -> None:
        # Looked at again: whoever had the turn before may have done it.
        rows = await self.rows()
        if await self._due(rows) and await self._made(rows):
            await self._tidy()
        rows = await self.rows()
        if self._late(rows):
            await self._tell(rows)
        if self._drill_due(rows):
            self._drilled = self.now()
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
        now = self.now()
        rested = self._drilled is None or now >= self._drilled + DRILL_AGAIN
        return self.drills and rested and drill_due(now, rows, quiet=quiet_minute(self.instance))

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
    async def _turn(self) -> AsyncIterator[bool]:
        """Whether it is ours to do, which nobody else does meanwhile."""
        async with self.db.instance_session() as session:
            async with session.transaction() as tx:
                row = await tx.one("backup_schedule_turn")
            yield bool(row and row["taken"])

    async def _made(self, before: Sequence[BackupRow]) -> bool:
        try:
            await self.make(WHO)
            return True
        except Exception as error:
            if isinstance(error, (Sealed, Busy)) or getattr(error, "reason", "") == RUNS:
                # Nothing is wrong; the next look tries again.
                log.info("a backup has to wait: %s", type(error).__name__)
                return False
            problem = _said(error)[:LONGEST_PROBLEM]
            log.warning("a backup failed: %s", problem)
            backup = await self._failed({row.id for row in before}, problem)
            await self.audit.append(None, "backup.failed", actor=WHO, backup=backup, problem=problem)
        return False

    async def _failed(self, before: set[UUID], problem: str) -> UUID:
        """The row of what has just failed, made here where it failed before there was one."""
        for row in await self.rows():
            if row.id not in before and row.scheduled and (row.state == FAILED or row.verify_problem):
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
            here = [row for row in rows if row.name in there]
            gone = may_go(here, daily=self.daily, weekly=self.weekly)
            if any(row.good and row.scheduled for row in here):
                # What was taken away by a look that was killed before it could write that down.
                missing = [row for row in may_go(rows, daily=self.daily, weekly=self.weekly) if row.name not in there]
                gone += missing
            for row in gone:
                await self.place.delete(row.name)
                async with self.db.instance_transaction() as tx:
                    await tx.run("backup_schedule_gone", id=row.id)
            async with self.db.instance_transaction() as tx:
                await tx.run("backup_schedule_forget", days=FORGET)
        except Exception as error:
            # The backup is made; what is too many goes with the next one.
            log.warning("old backups could not be taken away: %s", _said(error))

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
