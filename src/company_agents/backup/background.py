"""
Backups that are made, or verified, because a page or a program asked: one at a time in this process. It goes on when
whoever began it goes away, and what came of it is kept to be looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.backup.backups import Backups, Made
from company_agents.backup.export import Progress
from company_agents.backup.manifest import Broken
from company_agents.backup.rows import WHOLE
from company_agents.backup.verify import Verdict
from company_agents.errors import CompanyAgentsError, Conflict, Failed

# How long whoever begins something waits for its end, or to hear that it cannot begin (seconds).
PATIENCE = 3.0

What = Literal["make", "verify"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Underway:
    """What is being done, and how far it is, in bytes; `total` is 0 while that is not known."""

    what: What
    file: str
    started_at: datetime
    step: str = ""
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended: with a backup, with a verdict, or with what it failed of."""

    what: What
    file: str
    at: datetime
    made: Made | None = None
    verdict: Verdict | None = None
    error: CompanyAgentsError | None = None


@dataclass
class BackupWork:
    """Makes and verifies in a task of its own. `last` is how the last one in this process ended."""

    backups: Backups
    audit: AuditLog
    underway: Underway | None = None
    last: Ended | None = None
    _task: asyncio.Task[None] | None = None

    async def make(self, who: str) -> None:
        """
        Begin to make a backup in the place of backups. Returns once it is under way, or done; what fails after that is in
        `last`.

        Raises:
            Conflict: one is being made or verified here.
            Whatever `Backups.make` raises, if that is soon.
        """

        async def work(say: Progress) -> Ended:
            made = await self.backups.make(who, say=say)
            return Ended("make", made.file, datetime.now(UTC), made)

        begun = await self._begin("make", "", work, wait_for_end=False)
        if begun is not None and begun.error is not None:
            raise begun.error

    async def verify(self, backup: UUID, who: str) -> None:
        """
        Begin to verify one. Returns once it is under way, or done; what was found is in `last`, and remembered.

        Raises:
            NotFound: there is no such backup.
            Conflict: it is not whole; or one is being made or verified here.
        """
        row = await self.backups.get(backup)
        if row.state != WHOLE:
            raise Conflict("this backup is not whole", hint="verify another one", code="backup_not_whole")

        async def work(say: Progress) -> Ended:
            found, problem, bad = None, "", False
            try:
                found = await self.backups.verify(backup, say=say)
                problem, bad = "" if found.would_restore else found.because, found.at_fault
                return Ended("verify", row.name, datetime.now(UTC), verdict=found)
            except CompanyAgentsError as error:
                problem, bad = error.sentence, isinstance(error, Broken)
                raise
            finally:
                good = found is not None and found.would_restore
                facts = {"backup": backup, "file": row.file, "would_restore": good, "problem": problem}
                if good or problem:
                    await self.audit.append(None, "backup.verified", actor=who, **facts)
                if bad:
                    # Not only that nobody could tell.
                    await self.audit.append(None, "backup.failed", actor=who, backup=backup, problem=problem)

        await self._begin("verify", row.name, work, wait_for_end=True)

    async def ended(self) -> None:
        """Wait until nothing is done here."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def stop(self) -> None:
        """Give up what is being done: nothing is left of a backup that was being made."""
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Give it up, and wait until that is done."""
        self.stop()
        await self.ended()

    async def _begin(
        self, what: What, file: str, work: Callable[[Progress], Awaitable[Ended]], *, wait_for_end: bool
    ) -> Ended | None:
        if self._task is not None and not self._task.done():
            raise Conflict(
                "a backup is being made or verified just now", hint="wait until that is done", code="backup_runs"
            )
        loop, begun = asyncio.get_running_loop(), asyncio.Event()
        self.last = None
        self.underway = Underway(what, file, datetime.now(UTC))

        def say(step: str, done: int, total: int) -> None:
            # From a thread.
            if self.underway is not None:
                self.underway = Underway(what, file, self.underway.started_at, step, done, total)
            if not wait_for_end:
                loop.call_soon_threadsafe(begun.set)

        task = self._task = asyncio.create_task(self._run(what, file, lambda: work(say)), name=f"backup-{what}")
        waiting = asyncio.create_task(begun.wait())
        try:
            await asyncio.wait({task, waiting}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        return self.last if task.done() else None

    async def _run(self, what: What, file: str, work: Callable[[], Awaitable[Ended]]) -> None:
        try:
            self.last = await work()
        except CompanyAgentsError as error:
            log.warning("a backup could not be %s: %s", "made" if what == "make" else "verified", error.sentence)
            self.last = Ended(what, file, datetime.now(UTC), error=error)
        except Exception as error:
            # What a foreign exception says of itself may hold anything.
            log.error("a backup could not be %s: %s", "made" if what == "make" else "verified", type(error).__name__)
            failed = Failed("something went wrong on our side", hint="the log says what")
            self.last = Ended(what, file, datetime.now(UTC), error=failed)
        finally:
            self.underway = None
