"""
Handing out a backup as it lies in the place of backups: never one that has the key ring, nor what is no backup of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.backup.archive import open_archive
from company_agents.backup.backups import Backups
from company_agents.backup.rows import WHOLE, BackupRow
from company_agents.errors import Failed, NotFound, Refused


@dataclass(frozen=True, slots=True)
class Handed:
    """A file that is open, to be closed by whoever gets it; its size in bytes."""

    file: BinaryIO
    name: str
    size: int


def kept_back(row: BackupRow, place: str) -> str:
    """Why a backup is not handed out; `place` is the address of the place of backups. Empty: it is."""
    if row.state != WHOLE:
        return "it is not whole"
    if row.missing_at is not None:
        return "it is not where it was made"
    if row.with_ring:
        return "it has the key ring"
    return "" if row.place == place else "it does not lie in the place of backups"


async def handed_out(backups: Backups, audit: AuditLog, backup: UUID, who: str) -> Handed:
    """
    Open a backup for somebody, and record that before they get a byte of it.

    Raises:
        NotFound: there is no such backup, or it is not where it should be.
        Refused: it is one that is not handed out.
        Broken, Newer: what lies there is no backup that this version knows.
        Unavailable: the place is out of reach, or it could not be recorded.
    """
    row = await backups.get(backup)
    if why := kept_back(row, backups.place.address):
        raise Refused(f"this backup is not handed out: {why}", hint="fetch it where it lies", code="backup_kept_back")
    async with backups.fetched(backup) as path:
        # Once it is open, it may be removed.
        file = await asyncio.to_thread(_opened, path, backup)
    try:
        size = os.fstat(file.fileno()).st_size
        await audit.append(None, "backup.downloaded", actor=who, backup=backup, file=row.file, size=size)
    except BaseException:
        file.close()
        raise
    return Handed(file, row.name, size)


def _opened(path: Path, backup: UUID) -> BinaryIO:
    try:
        # A link may lead to anything, the master key too.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise NotFound("this backup is not where it should be", hint="make another one") from error
        raise Failed(
            f"this backup cannot be read: {(error.strerror or 'input/output error').lower()}",
            hint="see to its file in the place of backups",
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotFound("this backup is not where it should be", hint="make another one")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(descriptor, "rb"))
        manifest = open_archive(file).manifest
        # What is known of it was written down when it was put there.
        if manifest.id != backup or manifest.ring:
            raise Refused(
                "this backup is not handed out: another one lies in its place",
                hint="fetch it where it lies",
                code="backup_kept_back",
            )
        file.seek(0)
        stack.pop_all()
    return file
