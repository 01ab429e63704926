"""
Where a sealed value belongs. The place is authenticated with the value (AES-GCM additional data).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

DOMAIN = b"company-agents/secret/v1"


def _field(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


_LABEL = _field(DOMAIN)
_ID_LENGTH = struct.pack(">I", 16)
_NO_COMPANY = _field(b"")


def additional_data(company: bytes | None, secret: bytes, name: bytes, key_id: bytes) -> bytes:
    """
    A place as bytes: label ‖ company id ‖ secret id ‖ name ‖ key id, each field preceded by its length as four bytes,
    big-endian; ids as their 16 bytes, no company as an empty field. docs/spec/sealing.md is the specification.
    """
    # Lengths, not separators: joined with a separator, ("a:b", "c") and ("a", "b:c") would be one place.
    whose = _ID_LENGTH + company if company else _NO_COMPANY
    return b"".join((_LABEL, whose, _ID_LENGTH, secret, _field(name), _field(key_id)))


@dataclass(frozen=True, slots=True)
class Place:
    """
    One row of `secrets`: its company (None: the instance itself), its id, its name, and the key that seals it.
    """

    company_id: UUID | None
    secret_id: UUID
    name: str
    key_id: str

    def additional_data(self) -> bytes:
        """The place as bytes."""
        company = self.company_id.bytes if self.company_id else None
        return additional_data(company, self.secret_id.bytes, self.name.encode(), self.key_id.encode("ascii"))
