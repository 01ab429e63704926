"""
The backups of an instance: made, looked at, listed, given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import shutil
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid4

from company_agents.audit.log import AuditLog
from company_agents.backup.archive import Opened, Unreadable, open_archive, opened_file
from company_agents.backup.comparing import compare
from company_agents.backup.export import Export, Heads, Progress, Target
from company_agents.backup.files import fresh, nameless, private_folder, taken, there
from company_agents.backup.manifest import Broken, Manifest, broken
from company_agents.backup.places import Place, backup_name, is_backup_name
from company_agents.backup.ring import check_passphrase
from company_agents.backup.rows import GONE, RUNNING, WHOLE, BackupRow
from company_agents.backup.schema import steps_of
from company_agents.backup.threads import in_thread
from company_agents.backup.verify import Verdict, Verifying
from company_agents.db.database import Database
from company_agents.errors import CompanyAgentsError, Conflict, Failed, NotFound, Sealed, Unavailable
from company_agents.secret_store.head_keys import HeadKeys
from company_agents.secret_store.keys import HeldKeys
from company_agents.sensitive import Sensitive

MISSING = "it is not where it was made; `company-agents backup forget` gives it up"
# Seconds between two looks whether a transfer is to be stopped.
STOP_EVERY = 0.2
# Seconds that whoever only wants to know what there is waits for the place.
PATIENCE = 30.0
_FETCHED, FETCHED_LEFT = ".fetched-", 86400.0


def _quiet(step: str, done: int, total: int) -> None:
    return


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was made. `key_ids` are the keys without which it does not open; `size` in bytes."""

    id: UUID
    file: str
    place: str
    taken_at: datetime
    size: int
    rows: int
    secrets: int
    key_ids: list[str]
    with_ring: bool


@dataclass
class Backups:
    """
    For the command line, owners and the schedule. `place` is where the backups lie that nobody names a file for; it is
    opened when it is first asked for.
    """

    db: Database
    held: HeldKeys
    audit: AuditLog
    head_keys: HeadKeys
    home: Path
    # Below this runs work.
    workspaces: Path
    open_place: Callable[[], Place]
    _place: Place | None = None
    _ahead: timedelta = timedelta()
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    @property
    def place(self) -> Place:
        """
        Raises:
            MayNotStart: its setting cannot be used.
        """
        if self._place is None:
            self._place = self.open_place()
        return self._place

    async def export(
        self, path: Path, *, passphrase: Sensitive | None, who: str, workspaces: bool = False, say: Progress = _quiet
    ) -> Made:
        """
        Make a backup in a new file; with a `passphrase`, the key ring goes along; and the files of runs, if they are to.

        Raises:
            WrongUsage: the passphrase is weak.
            Conflict: there is something of this name.
            Failed: it cannot be written.
        """
        target = Target(path.name, str(path.parent), made_by=who)

        def make(export: Export) -> Manifest:
            with fresh(path.parent, path.name) as new:
                # After what a killed maker of it has left was taken away.
                if path.exists():
                    raise taken(path)
                return export.run(new.file, target, lambda: new.named(path))

        manifest = await self._make(make, passphrase, who, say, target, workspaces=workspaces)
        return await asyncio.to_thread(lambda: _made(manifest, target, path.stat().st_size))

    async def export_to(
        self, out: BinaryIO, *, passphrase: Sensitive | None, who: str, workspaces: bool = False, say: Progress = _quiet
    ) -> Made:
        """The same into a stream, which gets it when it is whole."""
        target = Target("(standard output)", "", made_by=who)
        folder = self._folder()
        size = 0

        def make(export: Export) -> Manifest:
            nonlocal size
            with nameless(folder) as file:

                def pass_on() -> None:
                    file.seek(0)
                    shutil.copyfileobj(file, out, 1024 * 1024)
                    out.flush()

                manifest = export.run(file, target, pass_on)
                size = file.seek(0, io.SEEK_END)
                return manifest

        manifest = await self._make(make, passphrase, who, say, target, workspaces=workspaces)
        return _made(manifest, target, size)

    async def make(self, who: str, *, scheduled: bool = False, say: Progress = _quiet) -> Made:
        """
        Make a backup in the place of backups, without the key ring, and look at it there.

        Raises:
            Conflict: one is being made by this orchestrator.
            Unavailable: the place is out of reach.
            Failed: it was made and is not good.
        """
        if self._turn.locked():
            raise Conflict("a backup is being made just now", hint="wait until it is there", code="backup_runs")
        async with self._turn:
            return await self._make_in_place(who, scheduled, say)

    async def _make_in_place(self, who: str, scheduled: bool, say: Progress) -> Made:
        place, backup = self.place, uuid4()
        name = backup_name(datetime.now(UTC), backup)
        target = Target(name, place.address, scheduled=scheduled, made_by=who)
        loop, size = asyncio.get_running_loop(), 0

        def make(export: Export) -> Manifest:
            nonlocal size
            with fresh(self._folder()) as new:

                def put() -> None:
                    new.flushed()
                    putting = asyncio.run_coroutine_threadsafe(place.put(name, new.part), loop)
                    while not wait([putting], STOP_EVERY).done:
                        if export.stop.is_set():
                            putting.cancel()
                    putting.result()

                manifest = export.run(new.file, target, put)
                size = new.part.stat().st_size
                return manifest

        made = _made(await self._make(make, None, who, say, target, backup), target, size)
        await self.prove(made.id, say=say)
        return made

    async def prove(self, backup: UUID, *, say: Progress = _quiet) -> None:
        """
        Look at one that lies in its place.

        Raises:
            Failed: it is not good.
            NotFound, Unavailable, Sealed: nobody can tell just now.
        """
        verdict = await self.verify(backup, say=say)
        if not verdict.would_restore:
            raise Failed(f"the backup was made, and is not good: {verdict.because}", hint=verdict.hint)

    async def _make(
        self,
        make: Callable[[Export], Manifest],
        passphrase: Sensitive | None,
        who: str,
        say: Progress,
        target: Target,
        backup: UUID | None = None,
        workspaces: bool = False,
    ) -> Manifest:
        if passphrase is not None:
            await asyncio.to_thread(check_passphrase, passphrase)
        number, sign = await self.head_keys.newest()
        export = Export(
            *(self.db.logins.instance, self.audit.instance_id, self.held.ring, Heads(number, sign), passphrase),
            workspaces=self.workspaces if workspaces else None,
            say=say,
            id=backup or uuid4(),
        )
        facts = {"backup": export.id, "file": target.file, "place": target.place, "with_ring": passphrase is not None}
        await self.audit.append(None, "backup.begun", actor=who, **facts)
        try:
            manifest = await in_thread(lambda: make(export), export.stop)
        except CompanyAgentsError as error:
            if not target.scheduled:
                # The schedule says so itself, also where it never came to this.
                await self.audit.append(None, "backup.failed", actor=who, problem=error.reason, **facts)
            raise
        keys = [key.key_id for key in manifest.needed_keys]
        await self.audit.append(None, "backup.made", actor=who, rows=manifest.rows, keys=keys, **facts)
        return manifest

    async def verify_file(self, path: Path, *, passphrase: Sensitive | None = None, say: Progress = _quiet) -> Verdict:
        """
        Read a file whole, and open every secret in it.

        Raises:
            Broken, Newer: it is not whole, or of a later version.
            WrongPassphrase: the passphrase does not open its ring.
        """
        with opened_file(path) as file:
            return await self._verified(file, open_archive(file), passphrase, say)

    async def verify(self, backup: UUID, *, say: Progress = _quiet) -> Verdict:
        """
        The same with one that is known, where it lies. What it says of itself is remembered, good or bad; not what is missing
        here: that it could not be read, or that its key is not in the source, is no fault of the backup.

        Raises:
            NotFound: there is no such backup, or it is not where it should be.
            Unavailable: it cannot be read.
            Sealed: the instance is sealed.
        """
        async with self.fetched(backup) as path:
            try:
                with opened_file(path) as file:
                    opened = open_archive(file)
                    if opened.manifest.id != backup:
                        raise broken("another one lies in its place")
                    verdict = await self._verified(file, opened, None, say)
            except Unreadable as error:
                raise Unavailable(error.sentence, hint="mend that, then look again") from error
            except Broken as error:
                await self._note("backup_verified", backup, error.sentence)
                raise
        if verdict.would_restore or verdict.at_fault:
            await self._note("backup_verified", backup, "" if verdict.would_restore else verdict.because)
        return verdict

    async def _verified(self, file: BinaryIO, opened: Opened, passphrase: Sensitive | None, say: Progress) -> Verdict:
        if self.held.sealed:
            raise Sealed
        steps_of(opened.manifest)
        verifying = Verifying(self.held.ring, passphrase, say)
        return await in_thread(lambda: verifying.run(file, opened), verifying.stop)

    @contextlib.asynccontextmanager
    async def fetched(self, backup: UUID) -> AsyncIterator[Path]:
        """A known backup as a file here, for a while."""
        row = await self.get(backup)
        if row.place != self.place.address:
            if "://" in row.place.removeprefix("file://") or not row.place:
                raise NotFound(
                    f"the backup lies at {row.place or row.file}, which is not the place of backups now",
                    hint="fetch it yourself; `company-agents backup verify FILE` looks at a file",
                )
            yield there(Path(row.place.removeprefix("file://")) / row.file)
            return
        if (local := self.place.local(row.file)) is not None:
            yield there(local)
            return
        for left in self._folder().glob(f"{_FETCHED}*"):
            with contextlib.suppress(OSError):
                # Of a kill: nobody needs one for so long.
                if time.time() - left.stat().st_mtime > FETCHED_LEFT:
                    left.unlink()
        path = self._folder() / f"{_FETCHED}{uuid4().hex}"
        try:
            await self.place.get(row.file, path)
            yield path
        finally:
            path.unlink(missing_ok=True)

    async def get(self, backup: UUID) -> BackupRow:
        """
        Raises:
            NotFound: there is no such backup.
        """
        found = next((row for row in await self.listed() if row.id == backup), None)
        if found is None:
            raise NotFound("there is no such backup", hint="`company-agents backup list` shows them")
        return found

    async def current(self) -> list[BackupRow]:
        """Every backup that is known, newest first, after a look at the place of backups, if that can be had."""
        await self.compared()
        return await self.listed()

    async def rows(self) -> list[BackupRow]:
        """
        Every backup that is known, newest first; what was not there when somebody looked says so. And the one that was tried
        last, where it was taken away since.
        """
        async with self.db.instance_transaction() as tx:
            await tx.all("backups_let_go")
            found = await tx.all("backup_rows")
            clock = await tx.one("backup_clock")
        self._ahead = clock["now"] - datetime.now(UTC) if clock else timedelta()
        rows = [BackupRow(**{**row, "key_ids": tuple(row["key_ids"])}) for row in found]
        return [replace(row, problem=MISSING) if row.missing_at and row.state == WHOLE else row for row in rows]

    def now(self) -> datetime:
        """By the database's clock, which the times of the rows are of, as it was when they were asked for."""
        return datetime.now(UTC) + self._ahead

    async def listed(self) -> list[BackupRow]:
        """The same without what was taken away."""
        return [row for row in await self.rows() if row.state != GONE]

    async def look(self) -> None:
        """
        Compare what is known with what lies in the place of backups.

        Raises:
            Unavailable: the place is out of reach. Then what is known stays.
        """
        await compare(self.db, self.place, await self.rows())

    async def compared(self, patience: float = PATIENCE) -> CompanyAgentsError | None:
        """The same, for so many seconds; returns why the place could not be looked at."""
        try:
            async with asyncio.timeout(patience):
                await self.look()
        except TimeoutError:
            return Unavailable("the place of backups does not answer", hint="what is known of it is shown")
        except CompanyAgentsError as error:
            return error
        return None

    async def forget(self, backup: UUID, who: str) -> BackupRow:
        """
        Give a backup up: it is taken from the place of backups, and keeps no key any more. A file elsewhere stays where it is.

        Raises:
            NotFound: there is no such backup.
            Conflict: it is being made.
        """
        row = await self.get(backup)
        if row.state == RUNNING:
            raise Conflict("this backup is being made just now", hint="stop its maker first")
        await self.audit.append(None, "backup.forgotten", actor=who, backup=row.id, file=row.file, place=row.place)
        # What failed before it was begun has no file.
        if row.place == self.place.address and is_backup_name(row.file):
            await self.place.delete(row.file)
        await self._note("backup_gone", backup)
        return row

    async def drilled(self, backup: UUID, problem: str) -> None:
        """Remember what came of a trial restore."""
        await self._note("backup_drilled", backup, problem)

    async def _note(self, statement: str, backup: UUID, problem: str | None = None) -> None:
        async with self.db.instance_transaction() as tx:
            await tx.run(statement, id=backup, **({} if problem is None else {"problem": problem}))

    def _folder(self) -> Path:
        return private_folder(self.home / "data", within=self.home)


def _made(manifest: Manifest, target: Target, size: int) -> Made:
    return Made(
        id=manifest.id,
        file=target.file,
        place=target.place,
        taken_at=manifest.taken_at,
        size=size,
        rows=manifest.rows,
        secrets=manifest.secrets,
        key_ids=[key.key_id for key in manifest.needed_keys],
        with_ring=bool(manifest.ring),
    )
