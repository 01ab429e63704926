"""
One company into a file: its rows as of one moment, in its own scope, and its secrets sealed anew under a key that lies in the
file, wrapped by a passphrase.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO
from uuid import UUID

from company_agents import __version__
from company_agents.audit.verify import Verified, verify_chain
from company_agents.backup import ring, signature
from company_agents.backup.archive import HEADS, RING, ArchiveWriter
from company_agents.backup.company_tables import SECRETS, SECRETS_THAT_STAY, TRAVELS
from company_agents.backup.manifest import COMPANY, FORMAT, KeyNeed, Manifest
from company_agents.backup.schema import our_schema
from company_agents.crypto.batch import BadRow, SealedRow, reseal
from company_agents.crypto.cipher import NONCE_BYTES
from company_agents.crypto.keyring import KeyRing, MasterKey
from company_agents.db.database import Row, Tx
from company_agents.db.moving import line, rows_out, tables
from company_agents.errors import Failed
from company_agents.sensitive import Sensitive

Say = Callable[[str, int, int], None]

# Secrets that are opened and sealed at once, and in memory together.
BATCH = 500
# The columns of `secrets`, as they are written here.
_SECRET = ("id", "company_id", "name", "value", "nonce", "created_at", "updated_at", "last_used_at", "key_id")
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Exported:
    """A company in a file. `chain_faults`: what is wrong with its audit chain, which went out as it is."""

    company: UUID
    name: str
    file: str
    archive: UUID
    bytes: int
    rows: int
    secrets: int
    chain_faults: int


@dataclass
class CompanyExport:
    """One export. Call `write` once, in a transaction of the company's scope that sees one moment."""

    tx: Tx
    company: UUID
    instance: UUID
    keys: KeyRing
    audit_keys: dict[int, Sensitive]
    archive: UUID
    say: Say

    async def write(self, file: BinaryIO, name: str, passphrase: Sensitive) -> Exported:
        """
        Write it whole.

        Raises:
            Failed: secrets that do not open.
        """
        transport = MasterKey.generate()
        wrapped = await asyncio.to_thread(ring.wrap, (transport,), passphrase)
        out = ArchiveWriter(file)
        out.add(RING, wrapped)
        lost = await self.tx.one("audit_keys_lost")
        verified = await verify_chain(self.tx, self.company, self.audit_keys, lost["number"] if lost else 0)
        out.add(HEADS, await self._head(verified))
        found = await tables(self.tx, [each.table for each in TRAVELS])
        sealed = 0
        for number, each in enumerate(TRAVELS):
            self.say("tables", number, len(TRAVELS))
            columns = found[each.table]
            if each is SECRETS:
                out.begin(each.member, _SECRET)
                async with contextlib.aclosing(self._secrets(transport)) as batches:
                    async for batch in batches:
                        for row in batch:
                            out.write(row, 1)
                        sealed += len(batch)
                continue
            out.begin(each.member, tuple(columns.types))
            async with contextlib.aclosing(rows_out(self.tx, columns, each.owner, each.sorted_by)) as rows_of_it:
                async for row in rows_of_it:
                    out.write(row, 1)
        manifest = self._manifest(name, transport, sealed, out)
        text = manifest.text()
        await asyncio.to_thread(out.finish, text, signature.sign(transport, text))
        return Exported(
            self.company,
            name,
            "",
            self.archive,
            os.fstat(file.fileno()).st_size,
            manifest.rows,
            sealed,
            len(verified.faults),
        )

    async def _head(self, verified: Verified) -> bytes:
        head = await self.tx.one("company_head", chain=self.company)
        said = {
            "chain": str(self.company),
            "instance": str(self.instance),
            "seq": head["seq"] if head else 0,
            "mac": head["mac"].hex() if head else "",
            "audit_key": head["audit_key"] if head else 0,
            "faults": [{"seq": fault.seq, "what": fault.what} for fault in verified.faults],
        }
        return json.dumps(said).encode() + b"\n"

    def _manifest(self, name: str, transport: MasterKey, sealed: int, out: ArchiveWriter) -> Manifest:
        now = datetime.now(UTC)
        return Manifest(
            format=FORMAT,
            kind=COMPANY,
            id=self.archive,
            product=__version__,
            instance=self.instance,
            taken_at=now,
            schema=our_schema(),
            keys=(KeyNeed(transport.key_id, "active", sealed, now, now),),
            members=out.members(),
            ring=(transport.key_id,),
            company=self.company,
            company_name=name,
        )

    async def _secrets(self, transport: MasterKey) -> AsyncGenerator[list[bytes], None]:
        batch: list[Row] = []
        stream = self.tx.stream("company_secrets", company_id=self.company, but=list(SECRETS_THAT_STAY))
        async for row in stream:
            batch.append(row)
            if len(batch) == BATCH:
                yield await asyncio.to_thread(self._resealed, batch, transport)
                batch = []
        if batch:
            yield await asyncio.to_thread(self._resealed, batch, transport)

    def _resealed(self, rows: list[Row], transport: MasterKey) -> list[bytes]:
        found = reseal([_sealed(row, self.company) for row in rows], self.keys, transport)
        if found.bad:
            raise _closed(found.bad)
        place, lines = 0, []
        for number, row in enumerate(rows):
            value = found.values[place : place + found.lengths[number]]
            nonce = found.new_nonces[number * NONCE_BYTES : (number + 1) * NONCE_BYTES]
            place += len(value)
            times = (row["created_at"], row["updated_at"], row["last_used_at"])
            lines.append(
                line(
                    (
                        *(str(row["id"]), str(self.company), row["name"], f"\\x{value.hex()}", f"\\x{nonce.hex()}"),
                        *(*times, transport.key_id),
                    )
                )
            )
        return lines


def _sealed(row: Row, company: UUID) -> SealedRow:
    return row["id"].bytes, company.bytes, row["name"], bytes(row["value"]), bytes(row["nonce"]), row["key_id"]


def _closed(bad: list[BadRow]) -> Failed:
    names = ", ".join(f"{row.name} ({row.problem})" for row in bad[:_NAMED])
    more = f", and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return Failed(
        f"secrets of this company do not open: {names}{more}",
        hint="nothing was written; `company-agents key verify` names them all: replace them, or delete what they are of",
        code="secrets_closed",
    )


async def keys_of(tx: Tx, company: UUID) -> list[str]:
    """The ids of the keys that the secrets of a company need."""
    return [row["key_id"] for row in await tx.all("company_secret_keys", company_id=company)]
