"""
Reading the chains: page by page, as they grow, and to prove them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from company_agents.audit.against import Check, Compared, Comparison, opened
from company_agents.audit.verify import Verified, following, newest, verify_chain
from company_agents.db.database import Database, Tx
from company_agents.errors import NotFound, WrongUsage
from company_agents.sensitive import Sensitive


@dataclass(frozen=True)
class AuditEvents:
    """The events of one company, or (None) of the instance. Who may see them is decided by the caller of this."""

    db: Database
    keys: Callable[[], Awaitable[dict[int, Sensitive]]]
    instance_id: UUID
    head_checks: Callable[[], Awaitable[dict[int, Check]]]
    # A chain is read whole, and keeps a connection for as long as that takes. Everybody who may see a chain may have it
    # proved, as often as they like: one at a time, so that nobody runs out of connections for it.
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False, compare=False)

    async def newest(
        self, company_id: UUID | None, *, limit: int = 50, before: int | None = None
    ) -> list[dict[str, Any]]:
        """The newest events, newest first; `before` is the number of the last one that was seen."""
        if not 1 <= limit <= 1000:
            raise WrongUsage(f"limit is {limit}; it may be 1 to 1000")
        async with self.db.transaction(company_id) as tx:
            return await newest(tx, company_id or self.instance_id, limit=limit, before=before)

    async def after(self, company_id: UUID | None, seq: int) -> list[dict[str, Any]]:
        """The events after one, oldest first, at most a thousand."""
        async with self.db.transaction(company_id) as tx:
            return [event async for event in following(tx, company_id or self.instance_id, seq)]

    async def linked(self, company_id: UUID | None) -> AsyncIterator[dict[str, Any]]:
        """Every event of a chain, oldest first, with the exact text that was linked and its MAC (hex)."""
        async with self.db.transaction(company_id) as tx:
            async for row in tx.stream("audit_chain", chain=company_id or self.instance_id):
                yield {**row, "mac": row["mac"].hex()}

    async def verify(self, company_id: UUID | None) -> Verified:
        """Prove one chain from its first event."""
        async with self._turn:
            return await self._verify(company_id)

    async def _verify(self, company_id: UUID | None) -> Verified:
        keys = await self.keys()
        async with self.db.transaction(company_id) as tx:
            await tx.run("audit_one_moment")
            return await verify_chain(tx, company_id or self.instance_id, keys, await _lost(tx))

    async def verify_all(self) -> list[Verified]:
        """Prove every chain of the instance, its own first. For the command line."""
        keys = await self.keys()
        async with self._instance() as tx:
            await tx.run("audit_one_moment")
            lost = await _lost(tx)
            chains = [self.instance_id, *(row["id"] for row in await tx.all("companies_all"))]
            known = set(chains)
            # A chain of no company is either left over or planted; it is shown, not passed over.
            chains += [row["chain"] for row in await tx.all("audit_chains") if row["chain"] not in known]
            return [await verify_chain(tx, chain, keys, lost) for chain in chains]

    async def compare(self, path: Path) -> Compared:
        """
        Compare the chains with a file of what left of them. For the command line.

        Raises:
            WrongUsage: the file cannot be read.
        """
        keys, checks = await self.keys(), await self.head_checks()
        # First the file: what stands in it by then was committed before.
        with opened(path) as (file, size):
            async with self._instance() as tx:
                await tx.run("audit_one_moment")
                return await Comparison(keys, checks).run(tx, file, size)

    async def company_exists(self, company_id: UUID) -> None:
        """
        Raises:
            NotFound: there is no such company.
        """
        async with self.db.transaction(company_id) as tx:
            if await tx.one("company_get", id=company_id) is None:
                raise NotFound("this company does not exist", hint="`company-agents company list` shows them")

    def _instance(self) -> AbstractAsyncContextManager[Tx]:
        return self.db.instance_transaction()


async def _lost(tx: Tx) -> int:
    """Up to which number audit keys were left out by a restore."""
    row = await tx.one("audit_keys_lost")
    return int(row["number"]) if row else 0
