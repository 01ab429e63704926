"""
The panic button: sealed, an instance holds no key, on no replica, and answers nothing until an owner unseals it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

from company_agents.audit.log import AuditLog
from company_agents.crypto.keyring import KeyRing
from company_agents.db.database import Database
from company_agents.errors import Sealed, TooMany
from company_agents.secret_store.keys import HeldKeys

# How long one attempt to unseal waits for those before it (seconds).
TURN_TIME = 10.0


async def sealed_since(db: Database) -> datetime | None:
    """Since when the instance is sealed, or None."""
    async with db.transaction(None) as tx:
        row = await tx.one("instance_sealed")
    assert row is not None
    moment: datetime | None = row["sealed_at"]
    return moment


# How long a seal waits for its own record (seconds).
RECORD_TIME = 2.0


@dataclass(frozen=True)
class Panic:
    """
    Seals and unseals. Every replica follows with its next sign of life. `forget` drops what was opened with the keys, and
    `unlock` reads them anew, with all that a start asks of them. `followers` are called once the keys are dropped.
    """

    db: Database
    audit: AuditLog
    held: HeldKeys
    forget: Callable[[], None]
    unlock: Callable[[], Awaitable[KeyRing]]
    followers: list[Callable[[], None]] = field(default_factory=list)
    _turns: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def seal(self, who: str) -> bool:
        """Seal the instance. Returns whether it was open; one that is sealed already stays as it is."""
        # Written down before: afterwards there is no key to link it with. It is no condition: who seals is in a hurry.
        writing = asyncio.create_task(self.audit.append(None, "instance.sealed", actor=who))
        await asyncio.wait([writing], timeout=RECORD_TIME)
        # What it came to is asked, so that nothing is said to be lost; it may also be written later, on its own.
        writing.add_done_callback(lambda task: task.cancelled() or task.exception())
        async with self.db.transaction(None) as tx:
            done = await tx.run("instance_seal", by=who[:100]) == 1
        await self.drop()
        return done

    async def unseal(self, who: str) -> bool:
        """Unseal it, and hold the keys here again. Returns whether it was sealed."""
        async with self.db.transaction(None) as tx:
            done = await tx.run("instance_unseal") == 1
        if done:
            if self.held.sealed:
                await self.restore()
            await self.audit.append(None, "instance.unsealed", actor=who)
        return done

    async def drop(self) -> None:
        """Forget every key in this process, and everything that was opened with one."""
        self.held.seal()
        self.forget()
        for follower in self.followers:
            follower()

    async def restore(self) -> None:
        """
        Hold the keys again.

        Raises:
            MayNotStart: they cannot be had.
            Sealed: the instance was sealed again meanwhile.
        """
        ring = await self.unlock()
        # The source may be slow, and somebody was in a hurry.
        if await sealed_since(self.db):
            raise Sealed
        self.held.unseal(ring)

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """
        One attempt to unseal after the other, in the order in which they come.

        Raises:
            TooMany: there are too many before this one.
        """
        try:
            async with asyncio.timeout(TURN_TIME):
                await self._turns.acquire()
        except TimeoutError:
            raise TooMany("too many try to unseal the instance at this moment", retry_after=5) from None
        try:
            yield
        finally:
            self._turns.release()
