"""
Restoring an instance: what is checked before anything is changed, and the order of the changes.

    1. the archive is read whole; its keys, its signature and the key source are looked at     nothing is changed
    2. what is there is backed up, where it is to be replaced                                  a file more
    3. all tables in one transaction; before its commit, the keys of its ring go to the source  keys more, by their ids
    4. the commit                                                                              the restored instance
    5. the key source is claimed in its new name; a start does this as well
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid4

from company_agents.backup.archive import ArchiveReader, Opened, open_archive, opened_file
from company_agents.backup.export import Export, Progress, Stopped, Target
from company_agents.backup.files import explained, fresh
from company_agents.backup.loading import Hinted, Loaded, Loading
from company_agents.backup.manifest import COMPANY, Manifest
from company_agents.backup.places import backup_name
from company_agents.backup.ring import unwrap
from company_agents.backup.schema import steps_of
from company_agents.backup.signature import check as check_signature
from company_agents.backup.threads import in_thread
from company_agents.backup.verify import joined, required, wrapped_ring
from company_agents.backup.workspaces import extract_workspaces, has_workspaces
from company_agents.companies.instance import instance_id
from company_agents.crypto.keyring import KeyRing
from company_agents.db.database import Database
from company_agents.db.opening import open_database
from company_agents.errors import Busy, CompanyAgentsError, MayNotStart, Refused, WrongUsage
from company_agents.keysources.base import KeySource, open_source
from company_agents.keysources.file import FileSource
from company_agents.keysources.found import Found
from company_agents.rotation.replica import ALIVE
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings


@dataclass(frozen=True, slots=True)
class Options:
    """What an operator says of a restore."""

    replace: bool = False
    revoke_tokens: bool = False
    without_secrets: bool = False
    unsigned: bool = False
    take_over: bool = False


@dataclass(slots=True)
class Restored:
    """What was restored. `safety` is the backup of what was there; `keys_added` went from the backup to the key source."""

    id: UUID
    backup: UUID
    taken_at: datetime
    former: UUID
    rows: int
    kept_today: bool
    tokens: list[dict[str, object]] = field(default_factory=list)
    keys_added: list[str] = field(default_factory=list)
    active_key_id: str = ""
    safety: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Keys:
    """The key source as it is, the keys of the archive's ring, and both together."""

    source: KeySource
    found: Found
    brought: KeyRing
    ring: KeyRing
    owner: UUID | None


@dataclass(slots=True)
class Restorer:
    """One restore into the instance that the settings name. `passphrase` is asked for only where it is needed."""

    settings: Settings
    options: Options
    passphrase: Callable[[], Sensitive | None]
    say: Progress = lambda step, done, total: None
    stop: threading.Event = field(default_factory=threading.Event)

    async def run(self, path: Path) -> Restored:
        """
        Restore a file.

        Raises:
            Broken, Newer: the file is not whole, or of a later version.
            MayNotStart: a key that it needs is not here, or the key source may not be used.
            WrongPassphrase: the passphrase does not open its ring.
            Tampered: it was altered.
            Conflict: there is an instance, and it is not to be replaced.
            Busy: an orchestrator runs.
        """
        with opened_file(path) as file:
            opened = open_archive(file)
            if opened.manifest.kind == COMPANY:
                raise WrongUsage(
                    "this is the export of a company, not of an instance",
                    hint="`company-agents company import` takes it into an instance",
                    code="backup_of_company",
                )
            steps_of(opened.manifest)
            # Into an empty database that is there it is brought at once: until all of it was read, nothing is committed.
            there = self.settings.database_url is not None or (self.settings.home / "db").exists()
            if self.options.replace or not there:
                await in_thread(lambda: self._read_whole(ArchiveReader(file, opened)), self.stop)
            source = open_source(self.settings)
            found = await source.read()
            brought = await self._brought(opened, found, lambda: wrapped_ring(file, opened))
            ring = joined(found.ring, brought)
            self._check_keys(opened, ring)
            async with contextlib.AsyncExitStack() as stack:
                db = await open_database(self.settings, stack, long_lived=False)
                await self._nobody_there(db)
                owner = await self._source_owner(db, source, found, opened.manifest)
                if brought.keys:
                    await source.check_writable(found)
                safety = await self._safety(db, found.ring) if self.options.replace else ""
                keys = _Keys(source, found, brought, ring, owner)
                loaded = await self._load(db, file, opened, keys)
            restored = await self._after(opened.manifest, loaded, keys, safety)
            if has_workspaces(opened.manifest):
                await self._workspaces(file, opened, restored)
            return restored

    async def _workspaces(self, file: BinaryIO, opened: Opened, restored: Restored) -> None:
        """Files of runs that are over: beside everything, so that they are no reason for a restore to fail."""
        folder = self.settings.home / "data" / f"workspaces-{opened.manifest.id.hex[:12]}-{restored.id.hex[:6]}"
        try:
            await asyncio.to_thread(extract_workspaces, file, opened, folder)
            restored.notes.append(f"the files of the runs of that time are in {folder}")
        except CompanyAgentsError as error:
            restored.notes.append(f"the files of the runs of that time could not be brought back: {error.sentence}")

    def _read_whole(self, reader: ArchiveReader) -> None:
        for _ in reader.pieces():
            self.say("reading", reader.done, reader.size)
            if self.stop.is_set():
                raise Stopped("the restore was stopped", hint="nothing was changed")

    async def _brought(self, opened: Opened, found: Found, content: Callable[[], bytes]) -> KeyRing:
        """The keys of the ring in the archive, where they are needed here."""
        if not opened.manifest.ring or self.options.without_secrets or not required(opened.manifest, found.ring):
            return KeyRing()
        passphrase = self.passphrase()
        if passphrase is None:
            return KeyRing()
        return await asyncio.to_thread(lambda: unwrap(content(), passphrase))

    def _check_keys(self, opened: Opened, ring: KeyRing) -> None:
        if self.options.without_secrets:
            return
        missing = required(opened.manifest, ring)
        if missing:
            key = missing[0]
            hint = "put it into the key source, then try again; --without-secrets restores everything else"
            if opened.manifest.ring:
                hint = "its key ring has it: give its passphrase, with --passphrase-stdin"
            raise MayNotStart(
                f"the key {key.key_id} is not here, and {key.rows} of its secrets need it; {key.when}",
                hint=hint,
                code="key_missing",
            )
        if not check_signature(ring, opened) and not self.options.unsigned:
            raise Refused(
                "nothing shows who made this backup: it is not signed with a key that is here",
                hint="find out where it comes from; --unsigned restores it all the same",
                code="backup_unsigned",
            )

    async def _nobody_there(self, db: Database) -> None:
        if self.settings.database_url is None:
            # The embedded database is that of this home, which is held by whoever restores.
            return
        async with db.instance_transaction() as tx:
            replicas = [row for row in await tx.all("replicas_list", alive=ALIVE) if row["alive"]]
        if replicas:
            raise Busy(
                f"an orchestrator runs on this database, at {replicas[0]['host']}, process {replicas[0]['process']}",
                hint="stop every orchestrator, then restore",
                code="orchestrator_runs",
            )

    async def _source_owner(self, db: Database, source: KeySource, found: Found, manifest: Manifest) -> UUID | None:
        """In whose name the key source is, where this restore takes it over."""
        if found.owner in (None, await instance_id(db)):
            return found.owner
        own_files = isinstance(source, FileSource) and source.path.is_relative_to(self.settings.home)
        if self.options.take_over or (found.owner == manifest.instance and own_files):
            return found.owner
        raise MayNotStart(
            f"the key source {source.address} belongs to the instance {found.owner}",
            hint="if that one is gone for good, --take-over-source makes the source this one's and locks that one out",
            code="key_source_claimed",
        )

    async def _safety(self, db: Database, ring: KeyRing) -> str:
        """A backup of what is there. It needs no key: where there is none, it is not signed."""
        async with db.instance_transaction() as tx:
            empty = await tx.one("restore_is_empty")
        if empty is not None and empty["found"]:
            return ""
        folder = self.settings.home / "data" / "backups"
        with explained(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        export = Export(db.logins.instance, await instance_id(db), ring, say=self.say, stop=self.stop)
        path = folder / backup_name(datetime.now(UTC), export.id)

        def make() -> None:
            with fresh(folder, path.name) as new:
                target = Target(path.name, f"file://{folder}", made_by="before a restore")
                export.run(new.file, target, lambda: new.named(path))

        await in_thread(make, self.stop)
        return str(path)

    async def _load(self, db: Database, file: BinaryIO, opened: Opened, keys: _Keys) -> Loaded:
        loop = asyncio.get_running_loop()

        active = next((key.key_id for key in opened.manifest.keys if key.state == "active"), None)

        def add_keys() -> None:
            asyncio.run_coroutine_threadsafe(
                _add_keys(keys, None if self.options.without_secrets else active), loop
            ).result()

        current = keys.found.current
        hinted = None
        known = {key.key_id for key in opened.manifest.keys}
        if current is not None and current.key_id in keys.found.kept and current.key_id not in known:
            hinted = Hinted(current.key_id, keys.source.address)
        gone = tuple(key.key_id for key in opened.manifest.keys if key.key_id not in keys.ring)
        loading = Loading(
            login=db.logins.migrate,
            opened=opened,
            instance=uuid4(),
            replace=self.options.replace,
            revoke_tokens=self.options.revoke_tokens,
            without_secrets=self.options.without_secrets,
            source_owner=keys.owner,
            hinted=None if self.options.without_secrets else hinted,
            forgotten=gone,
            say=self.say,
            stop=self.stop,
            before_commit=add_keys,
        )
        return await in_thread(lambda: loading.run(file), self.stop)

    async def _after(self, manifest: Manifest, loaded: Loaded, keys: _Keys, safety: str) -> Restored:
        restored = Restored(
            id=loaded.instance,
            backup=manifest.id,
            taken_at=manifest.taken_at,
            former=manifest.instance,
            rows=loaded.rows,
            kept_today=loaded.kept_today,
            tokens=loaded.tokens,
            keys_added=[key.key_id for key in keys.brought.keys if key.key_id not in keys.found.ring],
            safety=safety,
        )
        if not keys.source.claims_alone:
            # A start would ask an operator to say whose it is; that was said just now.
            try:
                await keys.source.claim(loaded.instance, await keys.source.read())
            except CompanyAgentsError as error:
                restored.notes.append(
                    f"{error.sentence}: `company-agents key init --adopt` makes the source this one's"
                )
        return restored


async def _add_keys(keys: _Keys, active: str | None) -> None:
    """Beside those that are there, by their ids; and the hint to the active one, where there is none."""
    for key in keys.brought.keys:
        if key.key_id not in keys.found.kept:
            await keys.source.add(key, await keys.source.read())
    found = await keys.source.read()
    lost = [key.key_id for key in keys.brought.keys if key.key_id not in found.ring]
    if lost:
        raise MayNotStart(
            f"the key source {keys.source.address} took the key {lost[0]} and does not have it",
            hint="nothing was restored; look at the source, then try again",
            code="key_source_lost",
        )
    # Also where a restore that was killed has brought the key.
    if active is not None and found.current is None and active in found.kept:
        await keys.source.make_current(active, found)
