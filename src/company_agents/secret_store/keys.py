"""
The keys that this process holds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from company_agents.crypto.cipher import SEALS_LIMIT
from company_agents.crypto.keyring import KeyRing, MasterKey, UnknownKey
from company_agents.errors import Busy, CompanyAgentsError, Refused, Sealed

# A row may name a key that there never was. The source is not asked for the same one more often than this (seconds).
REREAD_EVERY = 1.0
MOST_REMEMBERED = 100


@dataclass
class HeldKeys:
    """
    The key ring of a process. A row may name a key that another replica has brought since: then the source is
    read once more, by `reread`. Sealed, it holds nothing and reads nothing.
    """

    ring: KeyRing
    reread: Callable[[], Awaitable[KeyRing]]
    sealed: bool = False
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _not_there: dict[str, float] = field(default_factory=dict)
    _fetching: asyncio.Task[None] | None = None

    async def get(self, key_id: str) -> MasterKey:
        """
        Raises:
            Sealed: the instance is sealed.
            UnknownKey: neither this process nor the source has the key.
            SourceUnavailable: this process has it not, and the source cannot be reached.
        """
        if self.sealed:
            raise Sealed
        if key_id not in self.ring:
            await self.refresh(unless=key_id)
        return self.ring.get(key_id)

    def for_sealing(self, key_id: str, seals: int) -> MasterKey:
        """
        The active key, which has sealed `seals` values, this one counted. Called under the writers' lock, so it
        waits for nothing: a key that is not here yet is fetched beside it.

        Raises:
            Sealed: the instance is sealed.
            Busy: the master key was rotated, and this process does not have the new one yet.
            Refused: more than 2^32 values (NIST SP 800-38D, 8.3).
        """
        if self.sealed:
            raise Sealed
        if seals > SEALS_LIMIT:
            raise Refused(
                "the master key has sealed as many values as is safe",
                hint="what is sealed still opens; `company-agents key rotate` brings a new one",
                code="key_worn_out",
            )
        try:
            return self.ring.get(key_id)
        except UnknownKey as error:
            if self._fetching is None or self._fetching.done():
                self._fetching = asyncio.create_task(self._fetch(key_id))
            raise Busy(
                "the master key was rotated, and this orchestrator does not have the new one yet",
                hint="try again in a moment; `company-agents key status` says what it waits for",
                code="key_not_here_yet",
            ) from error

    async def refresh(self, *, unless: str | None = None) -> None:
        """Read the source again; not where another has just done so, or has brought this key meanwhile."""
        async with self._lock:
            if self.sealed or unless in self.ring:
                return
            if time.monotonic() - self._not_there.get(unless or "", float("-inf")) < REREAD_EVERY:
                return
            ring = await self.reread()
            if not self.sealed:
                self.ring = ring
            if unless is not None and unless not in ring:
                if len(self._not_there) >= MOST_REMEMBERED:
                    self._not_there.clear()
                self._not_there[unless] = time.monotonic()

    def drop(self, key_id: str) -> None:
        """Forget a key that was destroyed."""
        self.ring = KeyRing(tuple(key for key in self.ring.keys if key.key_id != key_id))

    def seal(self) -> None:
        """Forget every key, until `unseal`."""
        self.sealed, self.ring = True, KeyRing()

    def unseal(self, ring: KeyRing) -> None:
        """Hold keys again."""
        self.ring, self.sealed = ring, False

    async def _fetch(self, key_id: str) -> None:
        try:
            await self.refresh(unless=key_id)
        except CompanyAgentsError:
            # The next sign of life tries again, and says what is wrong.
            return
