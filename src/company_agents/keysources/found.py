"""
What a key source holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from company_agents.crypto.keyring import MasterKey


@dataclass(frozen=True, slots=True)
class Found:
    """The ring as the source has it now, and the key that its hint names (None: no hint there)."""

    keys: tuple[MasterKey, ...]
    current: MasterKey | None
