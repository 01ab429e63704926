"""
A trial: a backup is restored into a home and a database that are thrown away, and everything in it is opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid4

from company_agents.audit.log import AuditLog
from company_agents.audit.verify import Fault, verify_chain
from company_agents.backup.archive import Opened, open_archive, opened_file
from company_agents.backup.backups import Backups
from company_agents.backup.export import Progress
from company_agents.backup.files import explained, private_folder
from company_agents.backup.loading import Loading
from company_agents.backup.manifest import INSTANCE, TABLES, Manifest, broken
from company_agents.backup.rows import WHOLE, BackupRow
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
from company_agents.db.host import SYSTEM_FOLDER, remove_database
from company_agents.db.opening import open_database
from company_agents.errors import CompanyAgentsError, Failed, MayNotStart, NotFound, Refused
from company_agents.keysources.base import open_source
from company_agents.rotation.rewrap import open_all
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings

MOST_NAMED = 20
# Beside the data of the home, so that it is on a disk that takes a database.
PREFIX = ".drill-"
# Bytes on the disk. A database without a row takes 69 MiB, and 1.2 to 1.9 times the bytes of the tables in the archive come
# to that, at the worst moment: measured with 400 000 events (1.2), 1 200 000 secrets (1.6), and 300 000 agents (1.9).
EMPTY, GROWTH = 80 * 1024**2, 2
# The live database is on the same disk, and goes on: `doctor` calls less than this too little.
LEFT_FREE = 500 * 1024**2
# How often a home is made anew that somebody took away at once.
_ATTEMPTS = 100


@dataclass(slots=True)
class Drilled:
    """
    What a trial found. `problem` is empty where all is well; `hint` may say what to do. `rows` came back; `events` are those of
    the audit chains that were proved.
    """

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
    hint: str = ""


@dataclass(frozen=True)
class Drill:
    """Trials of the backups of an instance, with the keys of its source."""

    settings: Settings
    backups: Backups
    audit: AuditLog

    async def run(self, backup: UUID | None, who: str, say: Progress = lambda step, done, total: None) -> Drilled:
        """
        Try one, or the newest that is whole. What was found is remembered, and recorded; also where it cannot be fetched.

        Raises:
            NotFound: there is none.
            Failed: it ended as nobody thought of; what is remembered of that is its kind.
        """
        row = await self._chosen(backup)
        started = time.monotonic()
        result, unforeseen = Drilled(row.id, row.name, row.created_at), None
        try:
            async with self.backups.fetched(row.id) as path:
                await self._try(path, result, say)
        except CompanyAgentsError as error:
            result.problem, result.hint = error.sentence, error.hint
        except Exception as error:
            # What a foreign exception says of itself may hold anything.
            result.problem, unforeseen = f"it was broken off: {type(error).__name__}", error
        result.seconds = round(time.monotonic() - started, 1)
        await self.backups.drilled(row.id, result.problem)
        facts = {"backup": row.id, "rows": result.rows, "opened": result.opened, "problem": result.problem}
        await self.audit.append(None, "backup.drilled", actor=who, **facts)
        if unforeseen is not None:
            raise Failed(f"the drill of {row.name} failed: {result.problem}", hint="try again") from unforeseen
        return result

    async def _chosen(self, backup: UUID | None) -> BackupRow:
        if backup is not None:
            return await self.backups.get(backup)
        try:
            known = await self.backups.current()
        except CompanyAgentsError:
            raise
        except Exception:
            # The place fails as nobody thought of: so will the drill, and that is written down.
            known = await self.backups.rows()
        rows = [row for row in known if row.state == WHOLE and not row.lost and row.missing_at is None]
        # What somebody else has put there may call itself the newest for ever.
        here = [row for row in rows if row.ours and row.place == self.backups.place.address]
        if not here:
            raise NotFound("there is no backup to try", hint="`company-agents backup make` makes one")
        return max(here, key=lambda row: row.created_at)

    async def _try(self, path: Path, result: Drilled, say: Progress) -> None:
        with opened_file(path) as file:
            opened = open_archive(file)
            manifest = opened.manifest
            if manifest.id != result.id or manifest.kind != INSTANCE:
                raise broken("another one lies in its place")
            result.taken_at = manifest.taken_at
            steps_of(manifest)
            ring = (await open_source(self.settings).read()).ring
            missing = required(manifest, ring)
            if missing:
                raise MayNotStart(f"the key {missing[0].key_id} is not in the key source", code="key_missing")
            if not check_signature(ring, opened):
                raise Refused("nothing shows who made it: it is not signed", code="backup_unsigned")
            async with self._thrown_away(manifest) as settings, contextlib.AsyncExitStack() as stack:
                db = await open_database(settings, stack, long_lived=False)
                result.rows = await self._restored(db, file, opened, say)
                seen, result.bad = await open_all(db, ring, say)
                result.opened = seen - len(result.bad)
                await _prove(db, ring, result)
        if result.bad:
            raise Failed(f"{len(result.bad)} secrets do not open")
        if result.faults:
            raise Failed(f"the audit chain {result.faults[0].chain} is not what was written")

    async def _restored(self, db: Database, file: BinaryIO, opened: Opened, say: Progress) -> int:
        loading = Loading(db.logins.migrate, opened, uuid4(), say=say)
        return (await in_thread(lambda: loading.run(file), loading.stop)).rows

    @contextlib.asynccontextmanager
    async def _thrown_away(self, manifest: Manifest) -> AsyncIterator[Settings]:
        """Settings of a home that is gone afterwards; those that were left by a kill go first."""
        await asyncio.to_thread(clear_drills, self.settings.home)
        data = private_folder(self.settings.home / "data", within=self.settings.home)
        _check_room(data, manifest)
        home, held = _new_home(data)
        nothing = {"database_url": None, "database_direct_url": None, "audit_sinks": ""}
        try:
            yield self.settings.model_copy(update={"home": home, **nothing})
        finally:
            await asyncio.to_thread(_throw_away, home, held)


def clear_drills(home: Path) -> None:
    """
    Take away what drills that were killed have left in a home, which are whole plain databases. What is in use stays. Nothing
    is raised; blocks until their servers have stopped.
    """
    with contextlib.suppress(OSError):
        for left in [*(home / "data").glob(f"{PREFIX}*")]:
            if (held := _held(left)) is not None:
                with contextlib.suppress(CompanyAgentsError, OSError):
                    _throw_away(left, held)


def _check_room(data: Path, manifest: Manifest) -> None:
    # As root, the files of a database are not in its home.
    folder = SYSTEM_FOLDER if os.geteuid() == 0 and SYSTEM_FOLDER.is_dir() else data
    rows = sum(member.bytes for member in manifest.members if member.name.startswith(TABLES))
    needed, free = EMPTY + GROWTH * rows, shutil.disk_usage(folder).free
    if free < needed + LEFT_FREE:
        raise Failed(
            f"there is no room for a drill at {folder}: {_size(free)} are free; it may take {_size(needed)}, and "
            f"{_size(LEFT_FREE)} are to stay free",
            hint="free some space; or restore the backup on another machine, which proves as much",
            code="disk_full",
        )


def _size(count: int) -> str:
    return f"{count / 1024**2:.0f} MiB" if count < 1024**3 else f"{count / 1024**3:.1f} GiB"


def _new_home(data: Path) -> tuple[Path, int]:
    """A folder that is there, and held: whoever clears takes away what nobody holds."""
    for _ in range(_ATTEMPTS):
        home = data / f"{PREFIX}{secrets.token_hex(6)}"
        with explained(home):
            home.mkdir(mode=0o700)
        if (held := _held(home)) is not None:
            return home, held
        with contextlib.suppress(OSError):
            home.rmdir()
    raise Failed(f"no drill can be held in {data}", hint="is something else taking its files away?")


def _held(home: Path) -> int | None:
    """The hold on the home of a drill, an open file; None: somebody has it, or it is gone."""
    try:
        held = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if home.is_dir():
            return held
    os.close(held)
    return None


def _throw_away(home: Path, held: int) -> None:
    try:
        if (home / "locks").is_dir():
            discard(home)
        else:
            remove_database(home)
            shutil.rmtree(home)
    finally:
        os.close(held)


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
