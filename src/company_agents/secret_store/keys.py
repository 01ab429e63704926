"""
The keys that this process holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from company_agents.crypto.cipher import SEALS_LIMIT
from company_agents.crypto.keyring import KeyRing, MasterKey, UnknownKey
from company_agents.errors import Refused


@dataclass
class HeldKeys:
    """
    The key ring of a process. A row may name a key that another replica has brought since: then the source is
    read once more, by `reread`.
    """

    ring: KeyRing
    reread: Callable[[], Awaitable[KeyRing]]
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def get(self, key_id: str) -> MasterKey:
        """
        Raises:
            UnknownKey: neither this process nor the source has the key.
        """
        try:
            return self.ring.get(key_id)
        except UnknownKey:
            async with self._lock:
                if key_id not in self.ring:
                    self.ring = await self.reread()
            return self.ring.get(key_id)

    async def for_sealing(self, key_id: str, seals: int) -> MasterKey:
        """
        The active key, which has sealed `seals` values, this one counted.

        Raises:
            Refused: more than 2^32 values (NIST SP 800-38D, 8.3).
        """
        if seals > SEALS_LIMIT:
            raise Refused(
                "the master key has sealed as many values as is safe",
                hint="what is sealed still opens; a new instance has a new key: connect the integrations there",
                code="key_worn_out",
            )
        return await self.get(key_id)
