"""
What nobody waits for: leases that ran out are ended, work of theirs is queued again, runs of retired agents are cancelled,
old runs are deleted, and versions that no run holds any more are retired and revoked. Any replica does it, for all.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from company_agents.companies.scope import CompanyScope
from company_agents.db.database import Database
from company_agents.errors import Sealed
from company_agents.integrations.versions import Versions
from company_agents.runs.adapters.http import NOBODY as UNCLAIMED
from company_agents.runs.adapters.http import PATIENCE
from company_agents.runs.moves import NOBODY, Moves

# Days for which a run that has ended is kept (0005_runs.sql looks for older ones), and how many of a company one sweep deletes.
KEPT_DAYS = 90
MOST_SWEPT = 1000
# Seconds between two sweeps of a replica.
SWEEP_EVERY = 10.0

log = structlog.stdlib.get_logger("company_agents.runs")


@dataclass(frozen=True)
class Sweeper:
    """Sweeps every company; what one company's trouble is keeps none of the others waiting."""

    db: Database
    moves: Moves
    versions: Versions

    async def sweep(self) -> None:
        """Once, all that there is."""
        for row in await self.db.call("companies_to_sweep", ()):
            scope = CompanyScope(row["company_id"], self.db)
            try:
                await self.sweep_company(scope)
            except Sealed:
                return
            except Exception as error:
                log.warning("a company could not be swept", company=str(scope.company_id), error=type(error).__name__)

    async def sweep_company(self, scope: CompanyScope) -> None:
        """The same for one company."""
        await self.end_late(scope)
        async with scope.transaction() as tx:
            await tx.run("runs_prune", days=KEPT_DAYS, most=MOST_SWEPT)
            draining = await tx.all("integrations_draining", integrations=None)
        for row in draining:
            await self.versions.settle_now(scope, row["id"], NOBODY)
        await self.versions.revoke_retired(scope, NOBODY)

    async def end_late(self, scope: CompanyScope) -> None:
        """End the runs whose lease is over, those of retired agents, and those that nobody will begin."""
        while True:
            async with scope.transaction() as tx:
                rows = await self.moves.expired(tx)
            if not rows:
                break
            for row in rows:
                await self.moves.let_go(scope, row["left"], NOBODY)
        async with scope.transaction() as tx:
            for row in await tx.all("runs_retired"):
                await self.moves.cancelled(tx, row["id"], "its agent was retired", NOBODY)
            for row in await tx.all("runs_hopeless", patience=PATIENCE.total_seconds(), unclaimed=UNCLAIMED):
                await self.moves.given_up(tx, row["id"], row["reason"])
