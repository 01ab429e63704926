"""
The master key in an environment variable. For development: whatever shows an environment shows the key.
"""

from __future__ import annotations

import re
from uuid import UUID

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import MayNotStart
from company_agents.keysources.failures import SourceReadOnly, malformed
from company_agents.keysources.found import Found
from company_agents.keysources.text import key_from
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class EnvSource:
    """One key, as base64, base64url or hex. It can be read, and nothing else."""

    claims_alone = False
    after_destroy = ""

    def __init__(self, name: str, value: Sensitive | None) -> None:
        self.address = f"env://{name}"
        self._value = value

    @classmethod
    def at(cls, rest: str, settings: Settings) -> EnvSource:
        """The source of `env://<rest>`."""
        if not _NAME.fullmatch(rest):
            raise malformed("env", "env://NAME")
        value = settings.key_value
        return cls(rest, Sensitive(value.get_secret_value()) if value else None)

    async def read(self) -> Found:
        """The one key."""
        if self._value is None:
            raise MayNotStart(
                f"the variable of {self.address} is not set", hint="set it to the key, as base64", code="key_missing"
            )
        key = key_from(self._value.reveal(), self.address)
        # By its id nowhere, and nobody's: an environment can be copied.
        return Found((key,), key)

    async def check_writable(self, seen: Found) -> None:
        """It is not."""
        raise self._refusal()

    async def claim(self, instance: UUID, seen: Found) -> None:
        """It cannot be."""
        raise self._refusal()

    async def add(self, key: MasterKey, seen: Found) -> None:
        """Not possible; the one key is there already."""
        if key not in seen.keys:
            raise self._refusal()

    async def make_current(self, key_id: str, seen: Found) -> None:
        """Not possible; the one key is current already."""
        if seen.current is None or seen.current.key_id != key_id:
            raise self._refusal()

    async def destroy(self, key_id: str, seen: Found) -> None:
        """Not possible."""
        raise self._refusal()

    def _refusal(self) -> SourceReadOnly:
        return SourceReadOnly(
            f"{self.address} is a variable, and nothing can be written back to it",
            hint="put its 32 bytes into a file, set MASTER_KEY_PATH to it and unset MASTER_KEY_SOURCE; then rotate",
        )
