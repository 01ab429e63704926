"""
Claiming a queued run for an orchestrator: whether it may be begun now, and handing it over to a remote agent where that
executes it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from company_agents.companies.scope import CompanyScope
from company_agents.db.database import Row, Tx
from company_agents.runs.adapters.base import Adapter
from company_agents.runs.adapters.http import Handover, HttpAdapter, wait_after
from company_agents.runs.execution import Claimed
from company_agents.runs.model import MOST_TEXT
from company_agents.runs.moves import NOBODY, Moves
from company_agents.runs.room import room

# Seconds for which a delivery is left to whoever makes it: more than one takes at most.
DELIVERY_TIME = 30


@dataclass(frozen=True)
class Claims:
    """Begins runs in the name of this orchestrator, `replica`."""

    moves: Moves
    adapters: Mapping[str, Adapter]
    replica: UUID

    async def begin(self, scope: CompanyScope, run_id: UUID) -> Claimed | None:
        """
        A new start of a queued run, as ours. None where there is none to be begun here and now: it has ended, somebody has
        it, its agent is paused, there is no room for it, or its agent executes it elsewhere and was told.

        Raises:
            Sealed: the instance is sealed.
        """
        asked = time.monotonic()
        async with scope.transaction() as tx:
            row = await self._beginnable(tx, run_id)
            if row is None:
                return None
            # Whoever is to begin one locks the company first, and the run then.
            found = await room(tx, row["agent_id"])
            await tx.run("run_hold", id=run_id)
            row = await self._beginnable(tx, run_id)
            if row is None:
                return None
            await tx.run("run_adapter_set", id=run_id, adapter=row["adapter"])
            if row["adapter"] != "http":
                ahead = await tx.one("runs_ahead", id=run_id)
                if ahead is None or found.left <= ahead["count"]:
                    return None
                prompt = await _prompt(tx, row)
                run, token = await self.moves.begun(tx, run_id, row["agent_id"], self.replica, NOBODY)
                return Claimed(scope, run, token, row, prompt, asked + self.moves.lease)
        await self._hand_over(scope, row)
        return None

    async def _beginnable(self, tx: Tx, run_id: UUID) -> Row | None:
        row = await tx.one("run_look", id=run_id)
        if row is None or row["state"] != "queued" or row["agent_state"] != "active" or not row["is_due"]:
            return None
        return row if row["adapter"] in self.adapters else None

    async def _hand_over(self, scope: CompanyScope, row: Row) -> None:
        adapter = self.adapters["http"]
        assert isinstance(adapter, HttpAdapter)
        async with scope.transaction() as tx:
            turn = await tx.one("run_deliver", id=row["id"], wait=DELIVERY_TIME)
            prompt = await _prompt(tx, row)
        if turn is None:
            return
        handover = Handover(
            *(row["id"], scope.company_id, row["agent_id"], row["agent_name"], row["fence"]),
            prompt=prompt,
            task_id=row["task_id"],
            queued_at=row["queued_at"],
        )
        sent = await adapter.deliver(scope, handover)
        said = "" if sent.delivered else f"its agent did not take it yet: {sent.error}"
        async with scope.transaction() as tx:
            wait = wait_after(turn["delivered"], sent)
            await tx.run("run_delivered", id=row["id"], fence=row["fence"], wait=wait, reason=said[:MOST_TEXT])


async def _prompt(tx: Tx, row: Row) -> str:
    """What the agent is told: what was asked for; for a task, what that says."""
    task = await tx.one("task_get", id=row["task_id"]) if row["task_id"] else None
    if task is None:
        return str(row["prompt"])
    said = [
        row["prompt"],
        f"Your task, {task['id']}: {task['title']}",
        task["description"],
        "Say how it went in a comment on the task, and set its status when you are done.",
    ]
    return "\n\n".join(text for text in said if text.strip())
