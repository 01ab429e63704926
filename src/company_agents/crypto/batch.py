"""
Many sealed rows at once, as a rotation has them: opened, and sealed again under another key. What comes out is the same
as from `seal` and `unseal`, row by row; what is spared is everything around them.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from cryptography.exceptions import InvalidTag

from company_agents.crypto.cipher import NONCE_BYTES
from company_agents.crypto.keyring import KeyRing, MasterKey, UnknownKey
from company_agents.crypto.place import additional_data

# secret id, company id (None: the instance's own), name, value, nonce, key id
SealedRow = tuple[bytes, bytes | None, str, bytes, bytes, str]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A secret that does not open, and why: `altered`, `unknown key` or `wrong key`."""

    id: UUID
    company_id: UUID | None
    name: str
    key_id: str
    problem: str


@dataclass(slots=True)
class Resealed:
    """Rows under a new key: their ids, old and new nonces and values end to end, and the lengths of the values."""

    ids: bytes = b""
    old_nonces: bytes = b""
    new_nonces: bytes = b""
    lengths: list[int] = field(default_factory=list)
    values: bytes = b""
    bad: list[BadRow] = field(default_factory=list)


def check(rows: Iterable[SealedRow], ring: KeyRing) -> list[BadRow]:
    """Open every row, forget what was in it, and name those that do not open."""
    bad: list[BadRow] = []
    for row in rows:
        _opened(row, ring, bad)
    return bad


def reseal(rows: Iterable[SealedRow], ring: KeyRing, new: MasterKey) -> Resealed:
    """Open every row and seal it for the same place under another key, each with a fresh nonce."""
    rows = list(rows)
    result = Resealed()
    # One call for all: the bytes are as random as from one call each.
    nonces = secrets.token_bytes(NONCE_BYTES * len(rows))
    encrypt, new_id = new.aead.encrypt, new.key_id.encode()
    ids, old_nonces, new_nonces, values = [], [], [], []
    for number, row in enumerate(rows):
        plain = _opened(row, ring, result.bad)
        if plain is None:
            continue
        nonce = nonces[number * NONCE_BYTES : (number + 1) * NONCE_BYTES]
        values.append(encrypt(nonce, plain, additional_data(row[1], row[0], row[2].encode(), new_id)))
        ids.append(row[0])
        old_nonces.append(row[4])
        new_nonces.append(nonce)
    result.ids, result.old_nonces, result.new_nonces = b"".join(ids), b"".join(old_nonces), b"".join(new_nonces)
    result.values, result.lengths = b"".join(values), list(map(len, values))
    return result


def _opened(row: SealedRow, ring: KeyRing, bad: list[BadRow]) -> bytes | None:
    secret, company, name, value, nonce, key_id = row
    try:
        data = additional_data(company, secret, name.encode(), key_id.encode())
        return ring.get(key_id).aead.decrypt(nonce, value, data)
    except UnknownKey:
        problem = "unknown key"
    except (InvalidTag, ValueError):
        problem = _why(row, ring)
    bad.append(BadRow(UUID(bytes=secret), UUID(bytes=company) if company else None, name, key_id, problem))
    return None


def _why(row: SealedRow, ring: KeyRing) -> str:
    """A row that another key of the ring opens names the wrong key; one that none opens was altered."""
    secret, company, name, value, nonce, _ = row
    for key in ring.keys:
        try:
            key.aead.decrypt(nonce, value, additional_data(company, secret, name.encode(), key.key_id.encode()))
        except (InvalidTag, ValueError):
            continue
        return "wrong key"
    return "altered"
