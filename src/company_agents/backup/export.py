"""
Making a backup: every table as it was at one moment, while everything goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid4

from company_agents import __version__
from company_agents.audit.lines import Sign, head_line
from company_agents.backup.archive import HEADS, RING, ArchiveWriter
from company_agents.backup.manifest import DESTROYED, FORMAT, INSTANCE, UNKNOWN, KeyNeed, Manifest, Schema
from company_agents.backup.ring import wrap
from company_agents.backup.rows import STOPPED
from company_agents.backup.signature import sign
from company_agents.backup.tables import LEFT_OUT
from company_agents.backup.workspaces import add_workspaces
from company_agents.crypto.keyring import KeyRing
from company_agents.db.copying import CopySession
from company_agents.db.logins import Login
from company_agents.errors import CompanyAgentsError, Failed, MayNotStart, WrongUsage
from company_agents.sensitive import Sensitive

Progress = Callable[[str, int, int], None]
"""Told the step, how many bytes of it are done, and about how many there are (0: not known)."""

# Bytes between two signs of progress.
_SIGN_EVERY = 1024 * 1024


class Stopped(Failed):
    """it was stopped"""

    code = "stopped"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a backup goes to, as it is registered."""

    file: str
    place: str = ""
    scheduled: bool = False
    made_by: str = ""


@dataclass(frozen=True, slots=True)
class Heads:
    """The key that signs the ends of the chains: its number, and how to sign with it."""

    number: int
    sign: Sign


@dataclass(slots=True)
class Export:
    """
    One backup that is made, in a thread. `ring` signs it, and goes along, wrapped, where there is a `passphrase`; without
    a ring it is not signed. `workspaces` is the folder below which runs work, where that is to go along.
    """

    login: Login
    instance: UUID
    ring: KeyRing
    heads: Heads | None = None
    passphrase: Sensitive | None = None
    workspaces: Path | None = None
    say: Progress = lambda step, done, total: None
    id: UUID = field(default_factory=uuid4)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, file: BinaryIO, target: Target, finish: Callable[[], None] = lambda: None) -> Manifest:
        """
        Write it into a fresh file. It is registered before the snapshot is taken, so that no key that it needs is
        destroyed meanwhile; `finish` puts the file into its place, before it is registered as whole.

        Raises:
            OSError: the file cannot be written.
            MayNotStart: a key that is to go along is not here.
            Stopped: `stop` was set.
        """
        with CopySession.open(self.login) as session:
            session.all("backups_let_go")
            # Held by this session for as long as it lives.
            session.all("backup_hold", id=self.id)
            session.run(
                *("backup_begin",),
                id=self.id,
                file=target.file,
                place=target.place,
                scheduled=target.scheduled,
                with_ring=self.passphrase is not None,
                made_by=target.made_by,
            )
            needed: list[str] = []
            try:
                with session.snapshot():
                    manifest = self.write(session, file)
                needed = [key.key_id for key in manifest.needed_keys]
                size = file.seek(0, os.SEEK_END)
                # Before it has a name: killed right after that, it is known what it needs.
                session.run("backup_ready", id=self.id, key_ids=needed, size=size, rows=manifest.rows)
                finish()
            except BaseException as error:
                said = error.sentence if isinstance(error, CompanyAgentsError) else type(error).__name__
                said = STOPPED if self.stop.is_set() else said
                # It may have got its name: then it is found, and needs these. What is in a place is found anyway.
                kept = needed if target.place.startswith("/") else []
                with contextlib.suppress(CompanyAgentsError):
                    session.run("backup_failed", id=self.id, key_ids=kept, problem=said)
                raise
            session.run("backup_whole", id=self.id)
        return manifest

    def write(self, session: CopySession, file: BinaryIO) -> Manifest:
        """The archive itself, of what the session sees."""
        taken_at = datetime.now(UTC)
        keys = keys_of(session, taken_at)
        archive = ArchiveWriter(file)
        ring = self._add_ring(archive, keys)
        if self.heads is not None:
            archive.add(HEADS, self._signed_heads(session, taken_at))
        total, done = session.one("backup_estimate")["bytes"], 0
        for table in session.tables(but=tuple(LEFT_OUT)):
            archive.begin(f"tables/{table.name}", table.columns)
            self._go_on()
            said = done
            for row in session.out(table):
                archive.write(row, 1)
                done += len(row)
                if done - said >= _SIGN_EVERY:
                    said = done
                    self._go_on()
                    self.say("backup", done, max(done, total))
        if self.workspaces is not None:
            add_workspaces(archive, self.workspaces)
        manifest = Manifest(
            format=FORMAT,
            kind=INSTANCE,
            id=self.id,
            product=f"company-agents {__version__}",
            instance=self.instance,
            taken_at=taken_at,
            schema=schema_of(session),
            keys=keys,
            members=archive.members(),
            ring=ring,
            sequences={"master_key_seals": session.one("backup_sequences")["seals"]},
        )
        active = next((key.key_id for key in keys if key.state == "active"), None)
        text = manifest.text()
        archive.finish(text, sign(self.ring.get(active), text) if active in self.ring and active else None)
        return manifest

    def _go_on(self) -> None:
        if self.stop.is_set():
            raise Stopped("the backup was stopped", hint="nothing is left of it")

    def _add_ring(self, archive: ArchiveWriter, keys: tuple[KeyNeed, ...]) -> tuple[str, ...]:
        if self.passphrase is None:
            return ()
        needed = [key.key_id for key in keys if key.needed]
        missing = [key_id for key_id in needed if key_id not in self.ring]
        if missing:
            raise MayNotStart(
                f"the key {missing[0]} is not in the key source, so it cannot go along",
                hint="put it back; or make a backup without the key ring",
                code="key_missing",
            )
        self.say("wrapping", 0, 0)
        archive.add(RING, wrap(tuple(map(self.ring.get, needed)), self.passphrase))
        return tuple(needed)

    def _signed_heads(self, session: CopySession, at: datetime) -> bytes:
        assert self.heads is not None
        heads, moment = self.heads, at.isoformat(timespec="microseconds")
        lines = (
            head_line(row["chain"], row["seq"], row["mac"], moment, heads.number, heads.sign)
            for row in session.all("backup_heads")
        )
        return "".join(lines).encode()


def keys_of(session: CopySession, now: datetime) -> tuple[KeyNeed, ...]:
    """The keys that there are, and those that are not but that a damaged row names."""
    rows = {row["key_id"]: row["rows"] for row in session.all("secrets_by_key")}
    facts = ("key_id", "state", "created_at", "activated_at", "archived_at")
    found = [
        KeyNeed(**{name: row[name] for name in facts}, rows=rows.pop(row["key_id"], 0))
        for row in session.all("master_keys_list")
        if row["state"] != DESTROYED or row["key_id"] in rows
    ]
    return (*found, *(KeyNeed(key_id, UNKNOWN, count, now) for key_id, count in rows.items()))


def schema_of(session: CopySession) -> Schema:
    """The schema that the database has."""
    row = session.one("backup_schema")
    return Schema(row["step"], hashlib.sha256(row["steps"].encode()).hexdigest())


def target_path(text: str) -> Path:
    """
    The file that a backup is to become.

    Raises:
        WrongUsage: its folder is not there, or it names one, or there cannot be such a file.
    """
    path = Path(text).expanduser().absolute()
    try:
        is_folder, is_nowhere = path.is_dir(), not path.parent.is_dir()
    except (OSError, ValueError) as error:
        why = (getattr(error, "strerror", "") or "it is no name of a file").lower()
        raise WrongUsage(f"there cannot be such a file: {why}", hint="name a new file") from error
    if is_folder or is_nowhere:
        raise WrongUsage(
            f"{path} is {'a folder' if is_folder else 'in a folder that does not exist'}", hint="name a new file"
        )
    return path
