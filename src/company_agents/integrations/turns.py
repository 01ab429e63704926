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
    _ways: dict[UUID, _Ways] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def of(self, company_id: UUID) -> AsyncIterator[None]:
        """
        A turn of a company, in the order in which they came.

        Raises:
            TooMany: none came in time.
        """
        ways = self._ways.setdefault(company_id, _Ways(asyncio.Semaphore(self.each)))
        ways.users += 1
        try:
            try:
                async with asyncio.timeout(self.patience):
                    await ways.free.acquire()
            except TimeoutError:
                raise TooMany(
                    f"{self.each} calls of this company are under way, as many as may be", retry_after=5
                ) from None
            try:
                yield
            finally:
                ways.free.release()
        finally:
            ways.users -= 1
            if not ways.users:
                del self._ways[company_id]


@dataclass
class _Ways:
    free: asyncio.Semaphore
    users: int = 0
