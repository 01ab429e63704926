"""
A file of one company, read from its first to its last byte before anything is written: it is whole, it was signed with the key
that lies in it, every secret opens, and every row is one that a program here would have written.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from company_agents.backup import ring, signature
from company_agents.backup.archive import HEADS, RING, ArchiveReader, Opened, open_archive, opened_file
from company_agents.backup.company_checks import MOST_SEQ, RowChecks, check_columns, rows_of
from company_agents.backup.company_export import Say
from company_agents.backup.company_sealed import KINDS, Gathered, Places, sealed_place
from company_agents.backup.company_tables import EVENTS, FOLDER, SECRETS, TRAVELS, kind_of_secret
from company_agents.backup.manifest import COMPANY, Manifest, Member, Newer, broken
from company_agents.backup.schema import our_schema, schema_at
from company_agents.backup.threads import in_thread
from company_agents.crypto.batch import SealedRow, check
from company_agents.crypto.cipher import Sealed, unseal
from company_agents.crypto.keyring import KeyRing
from company_agents.crypto.place import Place
from company_agents.db.moving import Columns, NotOurs, Values
from company_agents.errors import Failed, Tampered, WrongUsage
from company_agents.identity.directory import good_name
from company_agents.sensitive import Sensitive

MOST_RING = 64 * 1024
_MOST_SHOWN = 200
BY_MEMBER = {each.member: each for each in TRAVELS}

# The tables as the catalog has them, by their names.
Tables = Mapping[str, Columns]


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain of a company ended on the instance that it came from, and how much was wrong with it."""

    seq: int
    mac: str
    faults: int


@dataclass(frozen=True)
class CompanyFile:
    """An archive that was read from its first to its last byte, and found whole."""

    file: BinaryIO
    opened: Opened
    company: UUID
    name: str
    keys: KeyRing
    head: Head
    tables: Tables
    places: Places

    @property
    def manifest(self) -> Manifest:
        """What it says of itself."""
        return self.opened.manifest


@contextlib.asynccontextmanager
async def whole_file(path: Path, passphrase: Sensitive, tables: Tables, say: Say) -> AsyncIterator[CompanyFile]:
    """
    An archive of a company, proved: each checksum, its signature, that every secret opens, and that its rows fit into these
    tables.

    Raises:
        Broken: it is not whole, or none of a company.
        Newer: it is of a later version.
        WrongPassphrase: the passphrase is not its own.
        Tampered: it was altered.
    """
    with opened_file(path) as file:
        stop = threading.Event()
        yield await in_thread(lambda: _Reading(file, tables, say, stop).proved(passphrase), stop)


@dataclass(frozen=True)
class _Reading:
    file: BinaryIO
    tables: Tables
    say: Say
    stop: threading.Event

    def proved(self, passphrase: Sensitive) -> CompanyFile:
        opened = open_archive(self.file)
        company, name = _checked(opened.manifest, self.tables)
        wrapped, head = self._read(opened)
        # What is damaged is said to be, and not that the passphrase is wrong.
        keys = ring.unwrap(wrapped, passphrase)
        if not signature.check(keys, opened):
            raise broken("it is not signed with the key that lies in it")
        places = self._opened(opened, company, keys)
        return CompanyFile(self.file, opened, company, name, keys, _head(head, company), self.tables, places)

    def _read(self, opened: Opened) -> tuple[bytes, bytes]:
        """Every member once, to see that it is whole. Returns the wrapped key, and the head of the chain."""
        reader = ArchiveReader(self.file, opened)
        small = {}
        for member, content in reader.pieces():
            self._at("reading", reader)
            if member.name not in BY_MEMBER:
                small[member.name] = content
        return small[RING], small[HEADS]

    def _opened(self, opened: Opened, company: UUID, keys: KeyRing) -> Places:
        """Every secret is opened, and every row looked at."""
        reader, gathered, seq = ArchiveReader(self.file, opened), Gathered(), 0
        for member, content in reader.pieces():
            self._at("opening", reader)
            if (each := BY_MEMBER.get(member.name)) is None:
                continue
            checks = RowChecks(member, self.tables[each.table])
            for rows in rows_of(member, content):
                found = [checks.check(row) for row in rows]
                if each is SECRETS:
                    _open_all([sealed_row(member, row, company) for row in rows], keys, gathered)
                for row in found:
                    gathered.row(each.table, row)
                    if each is EVENTS:
                        seq = event_number(row, seq)
        return gathered.places()

    def _at(self, step: str, reader: ArchiveReader) -> None:
        self.say(step, reader.done, reader.size)
        if self.stop.is_set():
            raise Failed("the import was stopped", hint="nothing was changed")


def _checked(manifest: Manifest, tables: Tables) -> tuple[UUID, str]:
    if manifest.kind != COMPANY or manifest.company is None:
        raise WrongUsage(
            "this is a backup of a whole instance, not of one company",
            hint="`company-agents backup restore FILE` restores it",
        )
    ours = our_schema()
    if manifest.schema.step > ours.step:
        raise Newer(
            f"the company comes from a newer version: its schema is at step {manifest.schema.step}, this program's at {ours.step}",
            hint="bring this instance up to that version first; nothing was changed",
        )
    if manifest.schema.step < 1:
        raise broken("it names a step of the schema that there never was")
    if schema_at(manifest.schema.step) != manifest.schema:
        raise Newer(
            f"step {manifest.schema.step} of the schema of that instance is not the one that this program knows",
            hint="import it with the version that exported it; nothing was changed",
        )
    names = [member.name for member in manifest.members]
    known = [RING, HEADS, *(name for name in BY_MEMBER if name in names)]
    missing = [name for name in BY_MEMBER if name not in names]
    # What an older version had no table for is not in its files.
    if names != known or (missing and manifest.schema == ours):
        raise broken("its members are not those of a company")
    for member in manifest.members:
        if (each := BY_MEMBER.get(member.name)) is not None:
            check_columns(member, tables[each.table], each.owner, every=manifest.schema == ours)
        elif member.pieces != 1 or member.bytes > MOST_RING or member.rows:
            raise broken("its members are not those of a company")
    if (first := manifest.member(f"{FOLDER}companies")) is None or first.rows != 1:
        raise broken("it does not hold one company")
    try:
        return manifest.company, good_name(manifest.company_name, "a company")
    except WrongUsage:
        raise broken("its company has a name that none can have") from None


def event_number(row: Mapping[str, str | None], after: int) -> int:
    """
    The number of an event, which comes after another.

    Raises:
        Broken: it does not, or a chain cannot go on from it.
    """
    seq = int(row["seq"] or 0)
    if not after < seq < MOST_SEQ:
        raise broken("it holds an event that is not in its order")
    return seq


def sealed_row(member: Member, row: Values, company: UUID) -> SealedRow:
    """
    A row of secrets, as it is opened.

    Raises:
        Broken: it is none.
        NotOurs: it is another company's.
    """
    found = dict(zip(member.columns, row, strict=True))
    try:
        secret, owner = UUID(found["id"] or ""), UUID(found["company_id"] or "")
        name, key_id = found["name"] or "", found["key_id"] or ""
        value, nonce = _bytes(found["value"]), _bytes(found["nonce"])
    except (ValueError, KeyError):
        raise broken("it holds a secret that is none") from None
    if owner != company:
        raise NotOurs(f"a row of {SECRETS.table} is not of this company", hint="nothing was changed")
    return secret.bytes, owner.bytes, name, value, nonce, key_id


def _bytes(text: str | None) -> bytes:
    if text is None or not text.startswith("\\x"):
        raise ValueError
    return bytes.fromhex(text[2:])


def _open_all(rows: list[SealedRow], keys: KeyRing, gathered: Gathered) -> None:
    if bad := check(rows, keys):
        name = (
            bad[0].name
            if bad[0].name.isprintable() and len(bad[0].name) <= _MOST_SHOWN
            else "one whose name does not show"
        )
        raise Tampered(
            f"a secret in the file does not open: {name} ({bad[0].problem})",
            hint="nothing was changed; export the company again",
        )
    for secret, owner, name, value, nonce, key_id in rows:
        if kind_of_secret(name) in KINDS and owner is not None:
            place = Place(UUID(bytes=owner), UUID(bytes=secret), name, key_id)
            opened = unseal(keys.get(key_id), place, Sealed(nonce, value))
            gathered.sealed[str(place.secret_id)] = sealed_place(name, opened.reveal())


def _head(content: bytes, company: UUID) -> Head:
    try:
        found = json.loads(content)
        seq, chain = found["seq"], UUID(found["chain"])
        if type(seq) is not int or not 0 <= seq < MOST_SEQ or type(found["faults"]) is not list:
            raise ValueError
        head = Head(seq, bytes.fromhex(found["mac"]).hex(), len(found["faults"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise broken("the head of its audit chain cannot be read") from None
    if chain != company:
        raise broken("the head of its audit chain is another company's")
    return head
