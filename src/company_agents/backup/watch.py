"""
Whether the backups of this instance need somebody, for pages, programs and `doctor`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from company_agents.backup.backups import Backups
from company_agents.backup.health import Concern, health
from company_agents.backup.rows import WHOLE, BackupRow

# The schedule verifies what it has made at once; by then it has, or was killed in between.
VERIFIED_WITHIN = timedelta(hours=6)


@dataclass(frozen=True)
class BackupWatch:
    """`scheduled`: whether backups are made by the schedule; `since`: when the instance was made."""

    backups: Backups
    scheduled: bool
    since: datetime

    async def concerns(self) -> list[Concern]:
        """Everything that needs attention, the worst first. Asks the database, and not the place of backups."""
        return self.of(await self.backups.rows())

    def of(self, rows: Iterable[BackupRow]) -> list[Concern]:
        """The same of rows that were read already."""
        rows, now = list(rows), self.backups.now()
        return [*health(rows, now, self.scheduled, self.since), *_unverified(rows, now)]


def _unverified(rows: list[BackupRow], now: datetime) -> Iterable[Concern]:
    made = [row for row in rows if row.scheduled and row.state == WHOLE]
    last = max(made, key=lambda row: row.created_at, default=None)
    if last is not None and last.verified_at is None and now - last.tried_at > VERIFIED_WITHIN:
        yield Concern(
            "unverified",
            f"the newest backup of the schedule, {last.name}, was never verified",
            "its page has a button for that; `company-agents backup verify FILE` does it too",
        )
