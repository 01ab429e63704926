"""
Calls that are under way: so many of one company at once, and never so many that another's find no way out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID

from company_agents.errors import TooMany


@dataclass
class Turns:
    """`each` calls of one company go out at once; the next wait for `patience` seconds at most."""

    each: int
    patience: float
    what: str = "calls"
    _ways: dict[UUID, _Ways] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def of(self, company_id: UUID) -> AsyncIterator[Turn]:
        """
        A turn of a company, in the order in which they came.

        Raises:
            TooMany: none came in time.
        """
        ways = self._ways.setdefault(company_id, _Ways(asyncio.Semaphore(self.each)))
        ways.users += 1
        try:
            turn = Turn(self, ways.free)
            await turn.take()
            try:
                yield turn
            finally:
                turn.give()
        finally:
            ways.users -= 1
            if not ways.users:
                del self._ways[company_id]


@dataclass
class Turn:
    """One call's turn."""

    turns: Turns
    free: asyncio.Semaphore
    is_taken: bool = False

    async def take(self) -> None:
        """
        Raises:
            TooMany: none came in time.
        """
        try:
            if self.free.locked():
                async with asyncio.timeout(self.turns.patience):
                    await self.free.acquire()
            else:
                await self.free.acquire()
        except TimeoutError:
            raise TooMany(
                f"{self.turns.each} {self.turns.what} of this company are under way, as many as may be", retry_after=5
            ) from None
        self.is_taken = True

    def give(self) -> None:
        """Another's turn; once is enough."""
        if self.is_taken:
            self.is_taken = False
            self.free.release()

    @contextlib.asynccontextmanager
    async def aside(self) -> AsyncIterator[None]:
        """
        Let others go first for as long as a person is waited for.

        Raises:
            TooMany: afterwards, none came in time.
        """
        self.give()
        yield
        await self.take()


@dataclass
class _Ways:
    free: asyncio.Semaphore
    users: int = 0
