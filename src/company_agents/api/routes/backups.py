"""
Backups, for programs of an owner: made, verified, listed, given up. None is handed out or restored here.
"""

from __future__ import annotations

from fastapi import APIRouter

from company_agents.api.backup_schemas import BackupOut, BackupsOut, BackupUnderway, ConcernOut, LastBackup
from company_agents.api.callers import GuardedRoute, Parts, Who
from company_agents.api.fields import Id
from company_agents.app import App
from company_agents.backup.background import Ended
from company_agents.backup.rows import GONE, BackupRow
from company_agents.identity.permissions import Permission

router = APIRouter(prefix="/v1/backups", tags=["backups"], route_class=GuardedRoute)


@router.get(
    "",
    response_model=BackupsOut,
    operation_id="listBackups",
    summary="Every backup that is known, newest first, in one page; what needs attention, and what is being done",
)
async def list_backups(parts: Parts, who: Who) -> BackupsOut:
    who.require(Permission.BACKUP_READ)
    # Whoever waits for one to be made asks often: then the place, which may be far away, is left alone.
    if not parts.backup_work.underway:
        await parts.backups.compared()
    return _all(parts, await parts.backups.rows())


@router.get("/{backup_id}", response_model=BackupOut, operation_id="getBackup", summary="One backup")
async def get_backup(parts: Parts, who: Who, backup_id: Id) -> BackupRow:
    who.require(Permission.BACKUP_READ)
    return await parts.backups.get(backup_id)


@router.post(
    "",
    status_code=202,
    response_model=BackupsOut,
    operation_id="makeBackup",
    summary="Begin to make a backup in the place of backups, without the key ring; it goes on by itself",
    description="`GET /v1/backups` says how far it is, and under `last` how it ended. What keeps it from beginning is "
    "answered here.",
)
async def make_backup(parts: Parts, who: Who) -> BackupsOut:
    who.require(Permission.BACKUP_MAKE)
    await parts.backup_work.make(who.label)
    return _all(parts, await parts.backups.rows())


@router.post(
    "/{backup_id}/verify",
    status_code=202,
    response_model=BackupsOut,
    operation_id="verifyBackup",
    summary="Begin to read one whole and to open every secret in it; it goes on by itself",
    description="`GET /v1/backups` says how far it is, and under `last` what was found.",
)
async def verify_backup(parts: Parts, who: Who, backup_id: Id) -> BackupsOut:
    who.require(Permission.BACKUP_MAKE)
    await parts.backup_work.verify(backup_id, who.label)
    return _all(parts, await parts.backups.rows())


@router.delete(
    "/{backup_id}",
    status_code=204,
    operation_id="forgetBackup",
    summary="Give one up: it is deleted in the place of backups, and keeps no master key any more",
)
async def forget_backup(parts: Parts, who: Who, backup_id: Id) -> None:
    who.require(Permission.BACKUP_FORGET)
    await parts.backups.forget(backup_id, who.label)


def _all(parts: App, rows: list[BackupRow]) -> BackupsOut:
    work, watch = parts.backup_work, parts.backup_watch
    return BackupsOut(
        items=[BackupOut.model_validate(row) for row in rows if row.state != GONE],
        scheduled=watch.scheduled,
        concerns=[ConcernOut.model_validate(concern) for concern in watch.of(rows)],
        underway=BackupUnderway.model_validate(work.underway) if work.underway else None,
        last=_last(work.last) if work.last and not work.underway else None,
    )


def _last(last: Ended) -> LastBackup:
    found = LastBackup(what=last.what, ended_at=last.at, ok=last.made is not None, file=last.file)
    if last.made is not None:
        found.backup_id = last.made.id
    elif last.verdict is not None:
        verdict = last.verdict
        found.ok, found.detail, found.hint = verdict.would_restore, verdict.because, verdict.hint
        found.backup_id, found.opened = verdict.id, verdict.opened
        found.not_opened = len(verdict.bad) + verdict.not_opened
    elif last.error is not None:
        found.code, found.detail, found.hint = last.error.reason, last.error.sentence, last.error.hint
    return found
