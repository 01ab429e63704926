"""
Where a sealed value belongs. The place is authenticated with the value (AES-GCM additional data).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

DOMAIN = b"company-agents/secret/v1"


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
        """
        The place as bytes: label ‖ company id ‖ secret id ‖ name ‖ key id, each field preceded by its
        length as four bytes, big-endian. docs/spec/sealing.md is the specification.
        """
        # Lengths, not separators: joined with a separator, ("a:b", "c") and ("a", "b:c") would be one place.
        fields = (
            DOMAIN,
            self.company_id.bytes if self.company_id else b"",
            self.secret_id.bytes,
            self.name.encode(),
            self.key_id.encode("ascii"),
        )
        return b"".join(struct.pack(">I", len(field)) + field for field in fields)
