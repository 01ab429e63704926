"""
What a key source holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from company_agents.crypto.keyring import KeyRing, MasterKey


@dataclass(frozen=True, slots=True)
class Found:
    """
    The ring as the source had it when it was read, and the key that its hint names (None: no hint there).
    `kept` are the ids of the keys that lie at an address of their own; the others are bare, as an operator put them
    there. `owner` is the instance that claimed the source. `version` is the source's own affair: what a write with
    check-and-set must still find there.
    """

    keys: tuple[MasterKey, ...]
    current: MasterKey | None
    kept: frozenset[str] = frozenset()
    owner: UUID | None = None
    version: Any = field(default=None, repr=False, compare=False)

    @property
    def ring(self) -> KeyRing:
        """Every key, for opening."""
        return KeyRing(self.keys)
