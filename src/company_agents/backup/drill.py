"""
A trial: a backup is restored into a home and a database that are thrown away, and everything in it is opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid4

from company_agents.audit.log import AuditLog
from company_agents.audit.verify import Fault, verify_chain
from company_agents.backup.archive import Opened, open_archive, opened_file
from company_agents.backup.backups import Backups
from company_agents.backup.export import Progress
from company_agents.backup.loading import Loading
from company_agents.backup.schema import steps_of
from company_agents.backup.signature import check as check_signature
from company_agents.backup.threads import in_thread
from company_agents.backup.verify import required
from company_agents.crypto.batch import BadRow
from company_agents.crypto.cipher import Sealed, unseal
from company_agents.crypto.keyring import KeyRing
from company_agents.crypto.place import Place
from company_agents.db.database import Database
from company_agents.db.embedded import discard
from company_agents.db.opening import open_database
from company_agents.errors import CompanyAgentsError, Failed, MayNotStart, NotFound, Refused
from company_agents.keysources.base import open_source
from company_agents.rotation.rewrap import open_all
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings

MOST_NAMED = 20
# Beside the data of the home, so that it is on a disk that takes a database.
PREFIX = ".drill-"


@dataclass(slots=True)
class Drilled:
    """What a trial found. `problem` is empty where all is well. `events` are those of the audit chains that were proved."""

    id: UUID
    file: str
    taken_at: datetime
    seconds: float = 0.0
    rows: int = 0
    opened: int = 0
    bad: list[BadRow] = field(default_factory=list)
    events: int = 0
    faults: list[Fault] = field(default_factory=list)
    problem: str = ""


@dataclass(frozen=True)
class Drill:
    """Trials of the backups of an instance, with the keys of its source."""

    settings: Settings
    backups: Backups
    audit: AuditLog

    async def run(self, backup: UUID | None, who: str, say: Progress = lambda step, done, total: None) -> Drilled:
        """
        Try one, or the newest that is whole. What was found is remembered, and recorded.

        Raises:
            NotFound: there is none.
            Unavailable: it cannot be fetched.
        """
        found = await self._chosen(backup)
        started = time.monotonic()
        result = Drilled(found, "", datetime.now(UTC))
        try:
            async with self.backups.fetched(found) as path:
                result.file = path.name
                await self._try(path, result, say)
        except CompanyAgentsError as error:
            result.problem = error.sentence
        result.seconds = round(time.monotonic() - started, 1)
        await self.backups.drilled(found, result.problem)
        facts = {"backup": found, "rows": result.rows, "opened": result.opened, "problem": result.problem}
        await self.audit.append(None, "backup.drilled", actor=who, **facts)
        return result

    async def _chosen(self, backup: UUID | None) -> UUID:
        if backup is not None:
            return (await self.backups.get(backup)).id
        rows = [row for row in await self.backups.current() if row.state == "whole" and not row.lost]
        here = [row for row in rows if row.place == self.backups.place.address]
        if not here:
            raise NotFound("there is no backup to try", hint="`company-agents backup make` makes one")
        return max(here, key=lambda row: row.created_at).id

    async def _try(self, path: Path, result: Drilled, say: Progress) -> None:
        with opened_file(path) as file:
            opened = open_archive(file)
            manifest = opened.manifest
            result.id, result.taken_at, result.rows = manifest.id, manifest.taken_at, manifest.rows
            steps_of(manifest)
            ring = (await open_source(self.settings).read()).ring
            missing = required(manifest, ring)
            if missing:
                raise MayNotStart(f"the key {missing[0].key_id} is not in the key source", code="key_missing")
            if not check_signature(ring, opened):
                raise Refused("nothing shows who made it: it is not signed", code="backup_unsigned")
            async with self._thrown_away() as settings, contextlib.AsyncExitStack() as stack:
                db = await open_database(settings, stack, long_lived=False)
                await self._restored(db, file, opened, say)
                seen, result.bad = await open_all(db, ring, say)
                result.opened = seen - len(result.bad)
                await _prove(db, ring, result)
        if result.bad:
            raise Failed(f"{len(result.bad)} secrets do not open")
        if result.faults:
            raise Failed(f"the audit chain {result.faults[0].chain} is not what was written")

    async def _restored(self, db: Database, file: BinaryIO, opened: Opened, say: Progress) -> None:
        loading = Loading(db.logins.migrate, opened, uuid4(), say=say)
        await in_thread(lambda: loading.run(file), loading.stop)

    @contextlib.asynccontextmanager
    async def _thrown_away(self) -> AsyncIterator[Settings]:
        """Settings of a home that is gone afterwards; those that were left by a kill go first."""
        data = self.settings.home / "data"
        await asyncio.to_thread(_remove_left, data)
        home = data / f"{PREFIX}{secrets.token_hex(6)}"
        nothing = {"database_url": None, "database_direct_url": None, "audit_sinks": ""}
        try:
            yield self.settings.model_copy(update={"home": home, **nothing})
        finally:
            if home.is_dir():
                await asyncio.to_thread(discard, home)


def _remove_left(data: Path) -> None:
    data.mkdir(mode=0o700, exist_ok=True)
    for left in data.glob(f"{PREFIX}*"):
        with contextlib.suppress(CompanyAgentsError, OSError):
            if (left / "locks").is_dir():
                discard(left)
            else:
                shutil.rmtree(left)


async def _prove(db: Database, ring: KeyRing, result: Drilled) -> None:
    """Every audit chain, from its first event, with the audit keys that came back."""
    async with db.instance_transaction() as tx:
        await tx.run("audit_one_moment")
        keys: dict[int, Sensitive] = {}
        for row in await tx.all("audit_keys"):
            place = Place(row["company_id"], row["id"], row["name"], row["key_id"])
            sealed = Sealed(bytes(row["nonce"]), bytes(row["value"]))
            keys[int(row["name"].rpartition("/")[2])] = unseal(ring.get(row["key_id"]), place, sealed)
        lost = await tx.one("audit_keys_lost")
        for row in await tx.all("audit_chains"):
            verified = await verify_chain(tx, row["chain"], keys, lost["number"] if lost else 0)
            result.events += verified.events
            result.faults += verified.faults[: MOST_NAMED - len(result.faults)]
