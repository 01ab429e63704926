"""
Whether the backups of this instance need somebody, for pages, programs and `doctor`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from company_agents.backup.backups import Backups
from company_agents.backup.health import Concern, health
from company_agents.backup.rows import BackupRow


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
        return health(rows, datetime.now(UTC), self.scheduled, self.since)
