"""
The parts that make and try backups, built together.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from company_agents.audit.log import AuditLog
from company_agents.backup.background import BackupWork
from company_agents.backup.backups import Backups
from company_agents.backup.drill import Drill, clear_drills
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
    schedule = None
    if long_lived and (scheduled or drills):
        schedule = BackupSchedule(
            *(db, audit, backups.place, instance["id"], instance["created_at"]),
            sealed=lambda: held.sealed,
            make=lambda who: backups.make(who, scheduled=True),
            verify=backups.prove,
            compare=backups.compared,
            rows=backups.rows,
            drill=lambda: drill.run(None, WHO),
            scheduled=scheduled,
            drills=drills,
            daily=settings.backup_daily,
            weekly=settings.backup_weekly,
            now=backups.now,
        )
        schedule.start()
    async with _cleared(settings) if long_lived else contextlib.nullcontext():
        try:
            yield parts
        finally:
            await work.close()
            if schedule is not None:
                await schedule.close()


@contextlib.asynccontextmanager
async def _cleared(settings: Settings) -> AsyncIterator[None]:
    """Meanwhile, what a drill that was killed has left is taken away: it may be as large as the instance, in plain text."""
    clearing = asyncio.create_task(asyncio.to_thread(clear_drills, settings.home), name="drills-cleared")
    try:
        yield
    finally:
        await asyncio.wait([clearing])
