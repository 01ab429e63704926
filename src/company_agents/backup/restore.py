"""
Restoring an instance: what is checked before anything is changed, and the order of the changes.

    1. its manifest, keys and signature and the key source are looked at; where a database is
       to be made or replaced, the archive is read whole first                                 nothing is changed
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
from company_agents.backup.files import fresh, private_folder
from company_agents.backup.loading import Hinted, Loaded, Loading, orchestrator_runs
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
from company_agents.errors import CompanyAgentsError, MayNotStart, Refused, WrongUsage
from company_agents.keysources.base import KeySource, open_source
from company_agents.keysources.failures import SourceReadOnly
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
    """What was restored. `safety` is the backup of what was there; `starts`: whether a start came to its end; `keys_added` went from the backup to the key source."""

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
    starts: bool = True
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Keys:
    """The key source as it is, the keys of the archive's ring, and both together."""

    source: KeySource
    found: Found
    brought: KeyRing
    ring: KeyRing
    hinted: Hinted | None
    events: int | None


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
            if brought.keys:
                await source.check_writable(found)
            if not self.options.replace:
                # Before a database is made.
                self._check_owner(source, found, set())
            async with contextlib.AsyncExitStack() as stack:
                db = await open_database(self.settings, stack, long_lived=False)
                await self._nobody_there(db)
                self._check_owner(source, found, {await instance_id(db), *await _taken_over(db)})
                safety, events = await self._safety(db, found.ring) if self.options.replace else ("", None)
                keys = _Keys(source, found, brought, ring, _hinted(opened.manifest, source, found), events)
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
        # First, and always: what is not sealed in it is worth an alteration too.
        signed = check_signature(ring, opened)
        missing = [] if self.options.without_secrets else required(opened.manifest, ring)
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
        if not signed and not self.options.unsigned:
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
            raise orchestrator_runs(replicas[0])

    def _check_owner(self, source: KeySource, found: Found, ours: set[UUID]) -> None:
        """
        Whether this restore may take the key source over: files in this home are this home's, whoever was here before, unless
        an instance is.
        """
        own_files = isinstance(source, FileSource) and source.path.is_relative_to(self.settings.home)
        if (
            found.owner is None
            or found.owner in ours
            or self.options.take_over
            or (own_files and not self.options.replace)
        ):
            return
        raise MayNotStart(
            f"the key source {source.address} belongs to the instance {found.owner}",
            hint="if that one is gone for good, --take-over-source makes the source this one's and locks that one out",
            code="key_source_claimed",
        )

    async def _safety(self, db: Database, ring: KeyRing) -> tuple[str, int | None]:
        """
        A backup of what is there, and how many events are in it. It needs no key: where there is none, it is not signed.
        """
        async with db.instance_transaction() as tx:
            empty = await tx.one("restore_is_empty")
        if empty is not None and empty["found"]:
            return "", None
        folder = private_folder(self.settings.home / "data" / "backups", within=self.settings.home)
        export = Export(db.logins.instance, await instance_id(db), ring, say=self.say, stop=self.stop)
        path = folder / backup_name(datetime.now(UTC), export.id)

        def make() -> Manifest:
            with fresh(folder) as new:
                target = Target(path.name, f"file://{folder}", made_by="before a restore")
                return export.run(new.file, target, lambda: new.named(path))

        made = (await in_thread(make, self.stop)).member("tables/audit_events")
        return str(path), made.rows if made else 0

    async def _load(self, db: Database, file: BinaryIO, opened: Opened, keys: _Keys) -> Loaded:
        loop = asyncio.get_running_loop()

        without = self.options.without_secrets

        def add_keys() -> None:
            asyncio.run_coroutine_threadsafe(_add_keys(keys, None if without else opened.manifest), loop).result()

        gone = tuple(key.key_id for key in opened.manifest.keys if key.known and key.key_id not in keys.ring)
        loading = Loading(
            login=db.logins.migrate,
            opened=opened,
            instance=uuid4(),
            replace=self.options.replace,
            revoke_tokens=self.options.revoke_tokens,
            without_secrets=without,
            embedded=self.settings.database_url is None,
            events=keys.events,
            source_owner=keys.found.owner,
            hinted=None if without else keys.hinted,
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


def _hinted(manifest: Manifest, source: KeySource, found: Found) -> Hinted | None:
    """The key that the source calls active, where the backup does not know it: it was rotated to since."""
    current = found.current
    if current is None or current.key_id in {key.key_id for key in manifest.keys}:
        return None
    return Hinted(current.key_id, source.address)


async def _taken_over(db: Database) -> list[UUID]:
    """In whose name the key source may still be after a restore: who restored may have been killed before it was claimed."""
    async with db.instance_transaction() as tx:
        return [row["id"] for row in await tx.all("restore_source_owners")]


async def _add_keys(keys: _Keys, manifest: Manifest | None) -> None:
    """
    Beside those that are there, by their ids; and the hint to the active one, where there is none. What the source has must be
    enough, as it is now: without a manifest, nothing is needed.
    """
    source = keys.source
    for key in keys.brought.keys:
        if key.key_id not in keys.found.kept:
            await source.add(key, await source.read())
    found = await source.read()
    current = found.current
    if keys.hinted and current is not None and current.key_id not in found.kept:
        # Put there by hand, and it may be the only copy.
        with contextlib.suppress(SourceReadOnly):
            await source.add(current, found)
            found = await source.read()
    lost = required(manifest, found.ring) if manifest is not None else []
    if lost:
        raise MayNotStart(
            f"the key {lost[0].key_id} is not in the key source {source.address} any more",
            hint="nothing was restored; look at the source, then try again",
            code="key_source_lost",
        )
    active = next((key.key_id for key in manifest.keys if key.state == "active"), None) if manifest else None
    # Also where a restore that was killed has brought the key.
    if active is not None and found.current is None and active in found.kept:
        await source.make_current(active, found)
