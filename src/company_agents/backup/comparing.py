"""
What is known of the backups, compared with what lies in their place.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from company_agents.backup.archive import FRONT, Opened, open_archive, opened_file
from company_agents.backup.manifest import INSTANCE, Broken, Newer
from company_agents.backup.places import Place
from company_agents.backup.rows import FAILED, GONE, WHOLE, BackupRow
from company_agents.db.database import Database
from company_agents.errors import CompanyAgentsError, Failed

log = logging.getLogger(__name__)


async def compare(db: Database, place: Place, rows: Sequence[BackupRow]) -> None:
    """
    What is there counts, by its manifest. What is not there is still known, as missing, and its keys are kept: a disk may not
    be mounted, or the folder may be another machine's.

    Raises:
        Unavailable: the place is out of reach. Then what is known stays.
        Failed: something lies there that cannot be read; all else was compared.
    """
    for row in rows:
        if row.state == FAILED and row.place.startswith("/") and row.key_ids:
            await _found_elsewhere(db, row)
    unread = ""
    stored = {each.name: each for each in await place.list()}
    known = {row.file: row for row in rows if row.place == place.address}
    for name, each in stored.items():
        if name not in known or known[name].state in (FAILED, GONE):
            try:
                await _take_note(db, place, name, each.size)
            except CompanyAgentsError as error:
                unread = f"{name}, which lies in the place of backups, cannot be read: {error.sentence}"
    missing = [row.id for name, row in known.items() if name not in stored and row.state == WHOLE]
    async with db.instance_transaction() as tx:
        await tx.run("backups_missing", place=place.address, ids=missing)
    if unread:
        raise Failed(
            unread, hint="make it readable, or take it away: it may be a backup that needs a key", code="backup_unread"
        )


async def _found_elsewhere(db: Database, row: BackupRow) -> None:
    """An export that failed, or whose maker was killed, after the file had its name: it is whole, and needs its keys."""
    try:
        if await asyncio.to_thread(_id_of, Path(row.place) / row.file) != row.id:
            return
    except CompanyAgentsError:
        return
    async with db.instance_transaction() as tx:
        await tx.run("backup_whole_after_all", id=row.id)


def _id_of(path: Path) -> UUID:
    with opened_file(path) as file:
        return open_archive(file).manifest.id


async def _take_note(db: Database, place: Place, name: str, size: int) -> None:
    try:
        opened = open_archive(io.BytesIO(await place.beginning(name, FRONT)), size=size)
    except (Broken, Newer):
        # None of ours, or none any more; what it needed, nobody can say.
        return
    if opened.manifest.kind != INSTANCE:
        return
    try:
        await _note(db, place, name, size, opened)
    except CompanyAgentsError as error:
        # Whatever somebody has put there is no reason not to see the others.
        log.warning("what lies in the place of backups as %s could not be noted: %s", name, error.sentence)


async def _note(db: Database, place: Place, name: str, size: int, opened: Opened) -> None:
    manifest = opened.manifest
    async with db.instance_transaction() as tx:
        await tx.run(
            "backup_found",
            id=manifest.id,
            file=name,
            place=place.address,
            key_ids=[key.key_id for key in manifest.needed_keys],
            with_ring=bool(manifest.ring),
            size=size,
            rows=manifest.rows,
            created_at=manifest.taken_at,
        )
