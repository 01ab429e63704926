"""
What there is to know about the master key: its states, and whether it opens everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from company_agents.crypto.cipher import SEALS_LIMIT, SEALS_URGE_ROTATION, Sealed, unseal
from company_agents.crypto.keyring import UnknownKey
from company_agents.crypto.place import Place
from company_agents.db.database import Database
from company_agents.errors import Tampered
from company_agents.keysources.base import KeySource
from company_agents.secret_store.keys import HeldKeys


@dataclass(frozen=True, slots=True)
class KeyState:
    """One master key."""

    key_id: str
    state: str
    source: str
    created_at: datetime
    activated_at: datetime | None
    archived_at: datetime | None
    ends_at: datetime | None
    seals: int
    rows: int
    in_ring: bool


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """The source and every key of the instance."""

    source: str
    keys: list[KeyState]
    seals_limit: int = SEALS_LIMIT
    seals_urge_rotation: int = SEALS_URGE_ROTATION

    @property
    def active(self) -> KeyState:
        """The key that seals."""
        return next(key for key in self.keys if key.state == "active")


@dataclass(frozen=True, slots=True)
class BadRow:
    """A secret that does not open, and why: `altered` or `unknown key`."""

    id: UUID
    company_id: UUID | None
    name: str
    key_id: str
    problem: str


@dataclass(frozen=True, slots=True)
class KeysVerified:
    """How many secrets were opened, and those that were not."""

    opened: int
    bad: list[BadRow]


@dataclass(frozen=True)
class Keys:
    """The master key, looked at. For the command line and for owners; it shows no key."""

    db: Database
    source: KeySource
    held: HeldKeys

    async def status(self) -> KeyStatus:
        """Every registered key, with the rows that it seals."""
        async with self.db.instance_transaction() as tx:
            rows = {row["key_id"]: row["rows"] for row in await tx.all("secrets_by_key")}
            registered: list[dict[str, Any]] = await tx.all("master_keys_list")
        keys = [
            KeyState(**row, rows=rows.get(row["key_id"], 0), in_ring=row["key_id"] in self.held.ring)
            for row in registered
        ]
        return KeyStatus(self.source.address, keys)

    async def verify(self) -> KeysVerified:
        """Open every secret, in memory, and forget it."""
        opened, bad = 0, []
        async with self.db.instance_transaction() as tx:
            async for row in tx.stream("secrets_all"):
                place = Place(row["company_id"], row["id"], row["name"], row["key_id"])
                try:
                    key = self.held.ring.get(row["key_id"])
                    unseal(key, place, Sealed(bytes(row["nonce"]), bytes(row["value"])))
                    opened += 1
                except (UnknownKey, Tampered) as error:
                    problem = "unknown key" if isinstance(error, UnknownKey) else "altered"
                    bad.append(BadRow(row["id"], row["company_id"], row["name"], row["key_id"], problem))
        return KeysVerified(opened, bad)
