"""
The moves of a run, each in one transaction with its event. Nothing else changes a run's state; docs/runs.md draws them.

A run is owned by whoever has its token, for as long as its lease: that is decided by the database's clock, on each call.
Whoever writes to it names the fencing token that they began with. What ends a start deletes its token, and then retires the
credential versions that only it still held; should the process die in between, the sweep does that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.companies.scope import CompanyScope
from company_agents.db.database import Row, Tx
from company_agents.identity.tokens import new_run_token
from company_agents.integrations.versions import Versions
from company_agents.runs.model import LEASE, LONGEST, MOST_LOST, Run, facts_of, run_in, token_name
from company_agents.secret_store.store import SecretStore
from company_agents.sensitive import Sensitive

# What nobody did, the orchestrator does: the record names no actor then.
NOBODY = None


@dataclass(frozen=True)
class Moves:
    """
    How runs come from one state to another. `lease` is in seconds. `announce` tells of each that is queued, in the
    transaction that queues it.
    """

    store: SecretStore
    audit: AuditLog
    versions: Versions
    announce: Callable[[Tx, UUID], Awaitable[None]]
    lease: float = LEASE

    async def queued(self, tx: Tx, actor: str, **given: Any) -> Run:
        """A new run that waits to be executed."""
        await tx.run("run_queue", company_id=tx.company_id, started_by=actor, **given)
        run = await run_in(tx, given["id"])
        await self.announce(tx, run.id)
        await self.audit.append(tx.company_id, "run.started", actor=actor, **facts_of(run))
        return run

    async def opened(self, tx: Tx, actor: str, **given: Any) -> tuple[Run, Sensitive]:
        """A new run that its agent executes itself: it begins as running."""
        await tx.run("run_insert", company_id=tx.company_id, lease=self.lease, **given)
        token, run = await self._held(tx, given["id"], given["agent_id"])
        await self.audit.append(tx.company_id, "run.opened", actor=actor, pins=len(run.pins), **facts_of(run))
        return run, token

    async def begun(
        self, tx: Tx, run_id: UUID, agent_id: UUID, replica: UUID | None, actor: str | None
    ) -> tuple[Run, Sensitive]:
        """
        queued → running: a new start, with a higher fencing token, a new run token, and pins to what is current now. The run
        has to be locked and queued.
        """
        await tx.run("run_begin", id=run_id, lease=self.lease, longest=LONGEST, replica=replica)
        token, run = await self._held(tx, run_id, agent_id)
        action = "run.claimed" if run.fencing_token == 1 else "run.taken_over"
        facts = {"fence": run.fencing_token, "pins": len(run.pins), "replica": replica}
        await self.audit.append(tx.company_id, action, actor=actor, **facts, **facts_of(run))
        return run, token

    async def finished(
        self, tx: Tx, run_id: UUID, fence: int, outcome: str, reason: str, actor: str | None
    ) -> Sequence[UUID] | None:
        """running → finished or failed, for who still holds it; None: nobody does with this fencing token."""
        if not await tx.run("run_end", id=run_id, fence=fence, state=outcome, reason=reason):
            return None
        return await self._ended(tx, run_id, f"run.{outcome}", actor, fence=fence)

    async def cancelled(self, tx: Tx, run_id: UUID, reason: str, actor: str | None) -> Sequence[UUID] | None:
        """queued or running → cancelled; None: it has ended."""
        if not await tx.run("run_cancel", id=run_id, reason=reason):
            return None
        return await self._ended(tx, run_id, "run.cancelled", actor)

    async def given_up(self, tx: Tx, run_id: UUID, reason: str) -> None:
        """queued → failed: nobody will ever begin it."""
        if await tx.run("run_give_up", id=run_id, reason=reason):
            await self._ended(tx, run_id, "run.failed", NOBODY, reason=reason)

    async def expired(self, tx: Tx) -> list[Row]:
        """
        running → expired, of all whose lease is over, a hundred at a time; and at once → queued, where somebody here is to
        execute it again. The integrations that each was pinned to are in `left`, whether it is queued again in `again`.
        """
        rows = await tx.all("runs_expire", longest=LONGEST, most=MOST_LOST)
        for row in rows:
            facts = {"agent": row["agent_id"], "fence": row["fence"], "again": row["again"]}
            row["left"] = await self._ended(tx, row["id"], "run.expired", NOBODY, **facts)
            if row["again"]:
                await self._requeued(tx, row["id"], lost=1)
        return rows

    async def handed_over(self, tx: Tx, run_id: UUID, fence: int) -> bool:
        """running → expired → queued, by its holder, which stops: another may begin it at once."""
        if not await tx.run("run_end", id=run_id, fence=fence, state="expired", reason="its orchestrator stopped"):
            return False
        await self._ended(tx, run_id, "run.handed_over", NOBODY, fence=fence)
        await self._requeued(tx, run_id, lost=0)
        return True

    async def let_go(self, scope: CompanyScope, integrations: Sequence[UUID], actor: str | None) -> None:
        """Retire what no run holds any more, of what those that have ended were pinned to."""
        # In transactions of their own: whoever rotates locks the integration first, and looks at its runs then.
        with contextlib.suppress(Exception):
            async with scope.transaction() as tx:
                left = await tx.all("integrations_draining", integrations=[*integrations])
            for row in left:
                await self.versions.settle_now(scope, row["id"], actor)

    async def _requeued(self, tx: Tx, run_id: UUID, *, lost: int) -> None:
        await tx.run("run_requeue", id=run_id, lost=lost)
        await self.announce(tx, run_id)

    async def _held(self, tx: Tx, run_id: UUID, agent_id: UUID) -> tuple[Sensitive, Run]:
        """What a run under way has: a token, and pins."""
        assert tx.company_id is not None
        token = new_run_token(tx.company_id, run_id)
        await self.store.put(tx, token_name(run_id), token)
        await self.versions.pin(tx, run_id, agent_id)
        return token, await run_in(tx, run_id)

    async def _ended(self, tx: Tx, run_id: UUID, action: str, actor: str | None, **facts: Any) -> Sequence[UUID]:
        """Take what only a run under way has. Returns the integrations that it was pinned to."""
        token = await tx.one("secret_by_name", company_id=tx.company_id, name=token_name(run_id))
        if token is not None:
            await self.store.delete(tx, token["id"])
        left = await tx.all("pins_drop", run_id=run_id)
        await self.audit.append(tx.company_id, action, actor=actor, run=run_id, **facts)
        return [row["integration_id"] for row in left]
