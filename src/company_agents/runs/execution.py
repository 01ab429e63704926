"""
One start of a run, executed here: its adapter, its workspace, its log, and how it ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog

from company_agents.companies.scope import CompanyScope
from company_agents.db.database import Row
from company_agents.ending import ended
from company_agents.errors import Busy, CompanyAgentsError, Unavailable
from company_agents.runs.adapters.base import Adapter, Outcome, Work
from company_agents.runs.model import MOST_TEXT, Run
from company_agents.runs.moves import Moves
from company_agents.runs.output import RunLog
from company_agents.sensitive import Sensitive

# Seconds between two attempts to write down how it ended, where the database is away.
AGAIN = 1.0
# Seconds that an adapter has to go by itself, after its agent has finished the run over the API.
GRACE = 5.0
# Seconds before the end of its lease at which a start is stopped that could not renew it, and at most this part of the lease:
# another may take it on then.
MARGIN = 2.0
MARGIN_PART = 0.1
# Seconds that an adapter has to end what it has started, before it is told once more: a cancellation can be lost.
PATIENCE = 20.0

log = structlog.stdlib.get_logger("company_agents.runs")


class Stop(StrEnum):
    """Why the adapter of a start is stopped."""

    OVER = "over"
    TIME = "time"
    BUDGET = "budget"
    HAND_OVER = "hand over"
    SEALED = "sealed"


@dataclass(frozen=True, slots=True)
class Claimed:
    """A start that was claimed for this orchestrator. `row` says of its agent and its task what the run does not."""

    scope: CompanyScope
    run: Run
    token: Sensitive = field(repr=False)
    row: Row
    prompt: str
    # Of the monotonic clock: when the lease ends at the earliest.
    lease_ends: float


@dataclass
class Execution:
    """
    From its claim to its end. Who renews its lease is the dispatcher, who also says when it is to stop. Where nobody renews it,
    it stops by the clock of this process, whatever hangs, and a moment before another could take it on.
    """

    claimed: Claimed
    adapter: Adapter
    moves: Moves
    url: str
    clean: Callable[[str], str]
    lease_ends: float = 0.0
    stopped: Stop | None = None
    _adapter_task: asyncio.Task[Outcome] | None = None
    _told_at: float = -PATIENCE
    _grace: asyncio.TimerHandle | None = None
    _end_of_lease: asyncio.TimerHandle | None = None

    @property
    def id(self) -> UUID:
        """The run's."""
        return self.claimed.run.id

    @property
    def fence(self) -> int:
        """The fencing token that it began with."""
        return self.claimed.run.fencing_token

    def stop(self, why: Stop) -> None:
        """Stop the adapter, which ends what it has started. The first reason counts, but for one that leaves nothing to write."""
        if self.stopped is None or why in (Stop.OVER, Stop.SEALED):
            self.stopped = why
        # Once: what it awaits while it ends something is not to be broken off.
        now = time.monotonic()
        if self._adapter_task is not None and not self._adapter_task.done() and now - self._told_at > PATIENCE:
            self._told_at = now
            self._adapter_task.cancel()

    def held_until(self, lease_ends: float) -> None:
        """Until when it is held, by the monotonic clock."""
        self.lease_ends = lease_ends
        if self._end_of_lease is not None:
            self._end_of_lease.cancel()
        left = lease_ends - time.monotonic() - min(MARGIN, self.moves.lease * MARGIN_PART)
        self._end_of_lease = asyncio.get_running_loop().call_later(max(left, 0), self.stop, Stop.OVER)

    def let_go(self) -> None:
        """Its agent has ended the run over the API: what executes it may go by itself, and is stopped where it does not."""
        if self._grace is None:
            self._grace = asyncio.get_running_loop().call_later(GRACE, self.stop, Stop.OVER)

    async def run(self, workspace: Path) -> None:
        """Execute it, and write down how it ended."""
        claimed = self.claimed
        self.held_until(claimed.lease_ends)
        output = RunLog(claimed.scope, self.id, self.fence, claimed.token, self.clean)
        try:
            await output.start()
            outcome = await self._executed(workspace, output)
            await output.close()
            await self._end(outcome)
        finally:
            for timer in (self._grace, self._end_of_lease):
                if timer is not None:
                    timer.cancel()

    async def _executed(self, workspace: Path, output: RunLog) -> Outcome:
        run = self.claimed.run
        if self.stopped is not None:
            return Outcome("failed", "it was stopped before it began")
        work = Work(
            *(run.id, run.company_id, run.agent_id, self.claimed.row["agent_name"], run.fencing_token),
            prompt=self.claimed.prompt,
            task_id=run.task_id,
            config=self.claimed.row["adapter_config"],
            unsandboxed=self.claimed.row["unsandboxed"],
            token=self.claimed.token,
            workspace=workspace,
            url=self.url,
            seconds=max(self.claimed.row["seconds"], 1.0),
        )
        task = self._adapter_task = asyncio.create_task(self.adapter.execute(work, output), name=f"run {run.id}")
        try:
            await asyncio.wait({task})
        finally:
            await ended(task)
        if task.cancelled():
            return Outcome("failed", "its execution was broken off")
        error = task.exception()
        if error is None:
            return task.result()
        if isinstance(error, CompanyAgentsError):
            return Outcome("failed", error.sentence)
        # What a foreign exception says of itself may hold anything.
        log.error("an adapter failed", run=str(run.id), error=type(error).__name__, exc_info=error)
        return Outcome("failed", f"its adapter failed ({type(error).__name__})")

    async def _end(self, outcome: Outcome) -> None:
        # Once: what stops it while its end is being written comes too late.
        why = self.stopped
        if why in (Stop.OVER, Stop.SEALED):
            return
        # One that was done in the same moment is done.
        if outcome.state == "finished":
            why = None
        limit = self.claimed.run.time_limit
        if why is Stop.TIME:
            outcome = Outcome("failed", f"its time of {limit} seconds was over")
        elif why is Stop.BUDGET:
            outcome = Outcome("failed", "its budget is spent")
        while time.monotonic() < self.lease_ends:
            try:
                await self._write_end(outcome, hands_over=why is Stop.HAND_OVER)
                return
            except (Unavailable, Busy):
                # The lease is renewed meanwhile, as soon as the database is back.
                await asyncio.sleep(AGAIN)
        log.warning("how a run ended could not be written down", run=str(self.id))

    async def _write_end(self, outcome: Outcome, *, hands_over: bool) -> None:
        scope, left = self.claimed.scope, None
        async with scope.transaction() as tx:
            if hands_over:
                await self.moves.handed_over(tx, self.id, self.fence)
                return
            facts: tuple[Any, ...] = (outcome.state, _kept(self.clean(outcome.reason)), f"run:{self.id}")
            left = await self.moves.finished(tx, self.id, self.fence, *facts)
        await self.moves.let_go(scope, left or (), f"run:{self.id}")


def _kept(reason: str) -> str:
    """A reason that can be stored and shown, whoever said it: a model may say anything."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in reason)[:MOST_TEXT]
