"""
One company out of a file. First the whole file is read and every secret in it opened; then everything is written in one
transaction in the scope of that company, in which row-level security takes no row of another one, whatever the file says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from company_agents.audit.chain import START, link
from company_agents.backup import ring, signature
from company_agents.backup.archive import HEADS, RING, ArchiveReader, Opened, open_archive, opened_file
from company_agents.backup.company_changes import Changes
from company_agents.backup.company_export import Say, our_schema, schema_at
from company_agents.backup.company_tables import EVENTS, FOLDER, SECRETS, TRAVELS
from company_agents.backup.manifest import COMPANY, Manifest, Member, Newer, broken
from company_agents.crypto.batch import SealedRow, check, reseal
from company_agents.crypto.cipher import NONCE_BYTES
from company_agents.crypto.keyring import KeyRing, MasterKey
from company_agents.db.database import Tx
from company_agents.db.moving import Columns, Inserting, NotOurs, Values, lines, tables
from company_agents.errors import MayNotStart, Tampered, WrongUsage
from company_agents.secret_store.keys import HeldKeys
from company_agents.sensitive import Sensitive

MOST_RING = 64 * 1024
_BY_MEMBER = {each.member: each for each in TRAVELS}


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain of a company ended on the instance that it came from, and how much was wrong with it."""

    seq: int
    mac: str
    faults: int


@dataclass(frozen=True, slots=True)
class AgentOfToken:
    """An agent whose token is good here too."""

    id: UUID
    name: str


@dataclass(frozen=True, slots=True)
class Imported:
    """
    A company that is here now. `tokens`: the agents whose tokens are good on both instances. `unsandboxed`: those that are back
    in the sandbox, and `without_adapter`: those whose adapter opened it, and was left behind. `chain_faults`: what was wrong
    with its audit chain where it came from, which does not show here any more.
    """

    company: UUID
    name: str
    archive: UUID
    instance: UUID
    rows: int
    secrets: int
    tokens: list[AgentOfToken]
    schedules_paused: int
    webhooks_disabled: int
    runs_ended: int
    approvals_ended: int
    unsandboxed: list[str]
    without_adapter: list[str]
    providers: list[str]
    chain_faults: int


@dataclass(frozen=True)
class CompanyFile:
    """An archive that was read from its first to its last byte, and found whole."""

    file: BinaryIO
    opened: Opened
    company: UUID
    keys: KeyRing
    head: Head

    @property
    def manifest(self) -> Manifest:
        """What it says of itself."""
        return self.opened.manifest


@contextlib.asynccontextmanager
async def whole_file(path: Path, passphrase: Sensitive, say: Say) -> AsyncIterator[CompanyFile]:
    """
    An archive of a company, proved: each checksum, its signature, and that every secret opens.

    Raises:
        Broken: it is not whole, or none of a company.
        Newer: it is of a later version.
        WrongPassphrase: the passphrase is not its own.
        Tampered: it was altered.
    """
    with opened_file(path) as file:
        yield await asyncio.to_thread(_proved, file, passphrase, say)


def _proved(file: BinaryIO, passphrase: Sensitive, say: Say) -> CompanyFile:
    opened = open_archive(file)
    company = _checked(opened.manifest)
    wrapped, head = _read(file, opened, say)
    # What is damaged is said to be, and not that the passphrase is wrong.
    keys = ring.unwrap(wrapped, passphrase)
    if not signature.check(keys, opened):
        raise broken("it is not signed with the key that lies in it")
    reader = ArchiveReader(file, opened)
    for member, content in reader.pieces():
        say("opening", reader.done, reader.size)
        if member.name == SECRETS.member:
            _open_all([_sealed(member, row, company) for row in _rows(member, content)], keys)
    return CompanyFile(file, opened, company, keys, _head(head, company))


def _read(file: BinaryIO, opened: Opened, say: Say) -> tuple[bytes, bytes]:
    """Every member once: it is whole, and its rows are rows. Returns the wrapped key, and the head of the chain."""
    reader = ArchiveReader(file, opened)
    small, counted = {}, dict.fromkeys((member.name for member in opened.manifest.members), 0)
    for member, content in reader.pieces():
        say("reading", reader.done, reader.size)
        if member.name in _BY_MEMBER:
            counted[member.name] += len(_rows(member, content))
        else:
            small[member.name] = content
    if any(counted[member.name] != member.rows for member in opened.manifest.members):
        raise broken("it has not as many rows as its manifest says")
    return small[RING], small[HEADS]


def _checked(manifest: Manifest) -> UUID:
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
    if schema_at(manifest.schema.step) != manifest.schema:
        raise Newer(
            f"step {manifest.schema.step} of the schema of that instance is not the one that this program knows",
            hint="import it with the version that exported it; nothing was changed",
        )
    names = [member.name for member in manifest.members]
    known = [RING, HEADS, *(name for name in _BY_MEMBER if name in names)]
    missing = [name for name in _BY_MEMBER if name not in names]
    # What an older version had no table for is not in its files.
    if names != known or (missing and manifest.schema == ours):
        raise broken("its members are not those of a company")
    for name in (RING, HEADS):
        member = manifest.member(name)
        if member is None or member.pieces != 1 or member.bytes > MOST_RING or member.rows:
            raise broken("its members are not those of a company")
    if (first := manifest.member(f"{FOLDER}companies")) is None or first.rows != 1:
        raise broken("it does not hold one company")
    return manifest.company


def _rows(member: Member, content: bytes) -> list[Values]:
    try:
        rows = list(lines(content))
    except ValueError:
        raise broken(f"{member.name} holds something that is no row") from None
    if any(len(row) != len(member.columns) for row in rows):
        raise broken(f"{member.name} holds a row of another length")
    return rows


def _sealed(member: Member, row: Values, company: UUID) -> SealedRow:
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


def _open_all(rows: list[SealedRow], keys: KeyRing) -> None:
    if bad := check(rows, keys):
        raise Tampered(
            f"a secret in the file does not open: {bad[0].name} ({bad[0].problem})",
            hint="nothing was changed; export the company again",
        )


def _head(content: bytes, company: UUID) -> Head:
    try:
        found = json.loads(content)
        head = Head(int(found["seq"]), bytes.fromhex(found["mac"]).hex(), len(found["faults"]))
        chain = UUID(found["chain"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise broken("the head of its audit chain cannot be read") from None
    if chain != company:
        raise broken("the head of its audit chain is another company's")
    return head


@dataclass
class CompanyImport:
    """One import: `write` once, in a transaction of the scope of the company."""

    tx: Tx
    held: HeldKeys
    source: CompanyFile
    changes: Changes
    audit_number: int
    audit_key: Sensitive
    say: Say
    seq: int = 0
    mac: bytes = START
    secrets: int = 0
    _active: MasterKey | None = None
    _columns: dict[str, Columns] = field(default_factory=dict)

    async def write(self) -> None:
        """
        Write every row.

        Raises:
            Broken: the file is another than it was a moment ago, or has columns that there are not.
            NotOurs: it has a row of another company, or one that cannot be.
            Conflict: something of it is here already.
        """
        self._columns = await tables(self.tx, [each.table for each in TRAVELS])
        reader = ArchiveReader(self.source.file, self.source.opened)
        pieces = reader.pieces()
        inserting: Inserting | None = None
        of: Member | None = None
        while (piece := await asyncio.to_thread(_next, pieces)) is not None:
            member, content = piece
            self.say("writing", reader.done, reader.size)
            if member.name not in _BY_MEMBER:
                continue
            if member is not of:
                inserting, of = self._into(member), member
            assert inserting is not None
            await self._insert(member, inserting, content)
            if member.name == f"{FOLDER}runs":
                await self._end_runs()

    def _into(self, member: Member) -> Inserting:
        columns = self._columns[_BY_MEMBER[member.name].table]
        given = [name for name in member.columns if name in columns.types]
        owner = _BY_MEMBER[member.name].owner
        # Fewer are those of an older version: what a later step has added takes its default.
        if len(given) != len(member.columns) or len(set(given)) != len(given) or owner not in given:
            raise broken(f"{member.name} has columns that this version does not know")
        return Inserting(self.tx, columns, given)

    async def _insert(self, member: Member, inserting: Inserting, content: bytes) -> None:
        table = _BY_MEMBER[member.name].table
        try:
            rows = self.changes.apply(table, member.columns, _rows(member, content))
        except (KeyError, ValueError):
            raise broken(f"{member.name} has not the columns that it has to have") from None
        if table == SECRETS.table:
            rows = await self._resealed(member, rows)
        elif table == EVENTS.table:
            rows = self._linked(member, rows)
        await inserting.rows(rows)

    async def _resealed(self, member: Member, rows: list[Values]) -> list[Values]:
        if not rows:
            return rows
        new = await self._sealing(len(rows))
        sealed = [_sealed(member, row, self.source.company) for row in rows]
        found = await asyncio.to_thread(reseal, sealed, self.source.keys, new)
        if found.bad:
            raise broken("a secret in it does not open any more")
        places = {name: number for number, name in enumerate(member.columns)}
        start, result = 0, []
        for number, row in enumerate(rows):
            value = found.values[start : start + found.lengths[number]]
            nonce = found.new_nonces[number * NONCE_BYTES : (number + 1) * NONCE_BYTES]
            start += len(value)
            changed = list(row)
            changed[places["value"]], changed[places["nonce"]] = f"\\x{value.hex()}", f"\\x{nonce.hex()}"
            changed[places["key_id"]] = new.key_id
            result.append(changed)
        self.secrets += len(rows)
        return result

    async def _sealing(self, count: int) -> MasterKey:
        """The active key, under the writers' lock, with so many seals counted before there is one."""
        row = await self.tx.one("secrets_writer")
        if row is None:
            raise MayNotStart("there is no active master key", hint="run `company-agents key status`")
        await self.tx.one("company_move_seals", more=count - 1)
        return self.held.for_sealing(row["key_id"], row["seals"] + count - 1)

    def _linked(self, member: Member, rows: list[Values]) -> list[Values]:
        result = []
        for row in rows:
            found = dict(zip(member.columns, row, strict=True))
            try:
                seq, record = int(found["seq"] or ""), found["record"]
            except (ValueError, KeyError):
                raise broken("it holds an event that is none") from None
            if record is None or not self.seq < seq < 2**63 or "mac" not in found or "audit_key" not in found:
                raise broken("it holds an event that is none, or not in its order")
            self.mac = link(self.audit_key, self.source.company, seq, self.mac, record)
            self.seq = seq
            found |= {"audit_key": str(self.audit_number), "mac": f"\\x{self.mac.hex()}"}
            result.append([found[name] for name in member.columns])
        return result

    async def _end_runs(self) -> None:
        runs, self.changes.runs = self.changes.runs, type(self.changes.runs)()
        if runs.begin:
            await self.tx.run("company_runs_begin", ids=runs.begin)
        if runs.ids:
            await self.tx.run(
                "company_runs_end",
                ids=runs.ids,
                states=runs.states,
                started=runs.started,
                leases=runs.leases,
                ended=runs.ended,
            )

    async def end_chain(self, record: str) -> None:
        """Append one more event, and write where the chain ends."""
        self.seq += 1
        self.mac = link(self.audit_key, self.source.company, self.seq, self.mac, record)
        at = {"chain": self.source.company, "seq": self.seq, "audit_key": self.audit_number, "mac": self.mac}
        await self.tx.run("company_last_event_insert", record=record, **at)
        await self.tx.run("company_head_insert", **at)


def _next(pieces: Iterator[tuple[Member, bytes]]) -> tuple[Member, bytes] | None:
    return next(pieces, None)
