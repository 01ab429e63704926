"""
One company out of a file that was read and proved: everything is written in one transaction in the scope of that company, in
which row-level security takes no row of another one, whatever the file says.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from company_agents.audit.chain import START, link
from company_agents.backup.archive import ArchiveReader
from company_agents.backup.company_changes import Changes
from company_agents.backup.company_checks import rows_of
from company_agents.backup.company_export import Say
from company_agents.backup.company_file import BY_MEMBER, CompanyFile, event_number, sealed_row
from company_agents.backup.company_sealed import Goes
from company_agents.backup.company_tables import EVENTS, FOLDER, SECRETS, TRAVELS
from company_agents.backup.manifest import Member, broken
from company_agents.backup.threads import in_thread
from company_agents.crypto.batch import reseal
from company_agents.crypto.cipher import NONCE_BYTES
from company_agents.crypto.keyring import MasterKey
from company_agents.db.database import Tx
from company_agents.db.moving import Inserting, NotOurs, Values
from company_agents.errors import MayNotStart
from company_agents.secret_store.keys import HeldKeys
from company_agents.sensitive import Sensitive


@dataclass(frozen=True, slots=True)
class AgentOfToken:
    """An agent whose token is good here too."""

    id: UUID
    name: str


@dataclass(frozen=True, slots=True)
class Imported:
    """
    A company that is here now. `tokens`: the agents whose tokens are good on both instances. `unsandboxed`: those that are back
    in the sandbox, and `without_adapter`: those whose adapter opened it, and was left behind. `goes`: where its credentials, and
    what it signs, are sent to. `held_back`: the integrations, and `private_adapters`: the agents with an adapter, that would have
    sent into the private network of this instance, which nobody here has allowed. `chain_faults`: what was wrong with its audit
    chain where it came from, which does not show here any more.
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
    goes: list[Goes]
    held_back: list[str]
    private_adapters: list[str]


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

    async def write(self) -> None:
        """
        Write every row.

        Raises:
            Broken: the file is another than it was a moment ago, or has not the columns that are changed here.
            NotOurs: it has a row of another company, or one that cannot be.
            Conflict: something of it is here already.
        """
        reader = ArchiveReader(self.source.file, self.source.opened)
        pieces = reader.pieces()
        inserting: Inserting | None = None
        of: Member | None = None
        while (piece := await in_thread(lambda: _next(pieces), threading.Event())) is not None:
            member, content = piece
            self.say("writing", reader.done, reader.size)
            if member.name not in BY_MEMBER:
                continue
            if member is not of:
                inserting, of = self._into(member), member
            assert inserting is not None
            for rows in rows_of(member, content):
                await self._insert(member, inserting, rows)
                if member.name == f"{FOLDER}runs":
                    await self._end_runs()
        await self._refers_to_its_own()

    async def _refers_to_its_own(self) -> None:
        """Where the key of a reference has no company in it, Postgres takes what is another's; here it is not to be seen."""
        for row in await self.tx.all("company_move_references", tables=[each.table for each in TRAVELS]):
            async with self.tx.aside() as connection:
                found = await (await connection.execute(row["statement"].encode())).fetchone()
            if found is not None:
                raise NotOurs(
                    f"a row of {row['name']} refers to something that is not of this company",
                    hint="nothing was changed",
                )

    def _into(self, member: Member) -> Inserting:
        return Inserting(self.tx, self.source.tables[BY_MEMBER[member.name].table], member.columns)

    async def _insert(self, member: Member, inserting: Inserting, given: list[Values]) -> None:
        table = BY_MEMBER[member.name].table
        try:
            rows = self.changes.apply(table, member.columns, given)
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
        sealed = [sealed_row(member, row, self.source.company) for row in rows]
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
            seq, record = event_number(found, self.seq), found["record"]
            if record is None or "mac" not in found or "audit_key" not in found:
                raise broken("it holds an event that is none")
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
