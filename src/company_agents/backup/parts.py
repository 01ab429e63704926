"""
The parts that make and try backups, built together.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from company_agents.audit.log import AuditLog
from company_agents.backup.background import BackupWork
from company_agents.backup.backups import Backups
from company_agents.backup.drill import Drill
from company_agents.backup.places import open_place
from company_agents.backup.schedule import WHO, BackupSchedule, is_scheduled
from company_agents.backup.watch import BackupWatch
from company_agents.db.database import Database
from company_agents.secret_store.head_keys import HeadKeys
from company_agents.secret_store.keys import HeldKeys
from company_agents.settings import Settings


@dataclass(frozen=True)
class BackupParts:
    """Backups, their trials, what is made or verified for somebody, and whether all is well."""

    backups: Backups
    drill: Drill
    work: BackupWork
    watch: BackupWatch


@contextlib.asynccontextmanager
async def open_backups(
    settings: Settings,
    db: Database,
    held: HeldKeys,
    audit: AuditLog,
    head_keys: HeadKeys,
    workspaces: Path,
    *,
    long_lived: bool,
) -> AsyncIterator[BackupParts]:
    """
    The parts; one that lives long also has the schedule.

    Raises:
        MayNotStart: the place of backups cannot be used, and a schedule needs it.
    """
    backups = Backups(db, held, audit, head_keys, settings.home, workspaces, lambda: open_place(settings))
    drill = Drill(settings, backups, audit)
    async with db.transaction(None) as tx:
        instance = await tx.one("instance_get")
    assert instance is not None
    work = BackupWork(backups, audit)
    parts = BackupParts(backups, drill, work, BackupWatch(backups, is_scheduled(settings), instance["created_at"]))
    scheduled, drills = is_scheduled(settings), settings.backup_drill == "monthly"
    if not (long_lived and (scheduled or drills)):
        try:
            yield parts
        finally:
            await work.close()
        return
    schedule = BackupSchedule(
        *(db, audit, backups.place, instance["id"], instance["created_at"]),
        sealed=lambda: held.sealed,
        make=lambda who: backups.make(who, scheduled=True),
        verify=backups.prove,
        compare=backups.look,
        rows=backups.rows,
        drill=lambda: drill.run(None, WHO),
        scheduled=scheduled,
        drills=drills,
        daily=settings.backup_daily,
        weekly=settings.backup_weekly,
    )
    schedule.start()
    try:
        yield parts
    finally:
        await work.close()
        await schedule.close()
