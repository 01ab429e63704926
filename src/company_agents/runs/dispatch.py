"""
Runs, executed by any number of orchestrators. A job says that a run is queued; whoever gets it claims the run for as long as
a lease, has the adapter of its agent execute it, renews, and writes down how it ended.

    queued ──job──► claim ──► adapter ──► finished, failed
                      │          └── stopped: cancelled · lease lost · time or budget over · this orchestrator stops
                      └── no room, paused, sealed: it stays queued, and is told of again

The lease is the truth, and the job is the messenger: each look finds leases that ran out, and runs that nobody tells of.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from company_agents.companies.scope import CompanyScope
from company_agents.db.database import Database, array_text
from company_agents.ending import ended
from company_agents.errors import CompanyAgentsError, Sealed
from company_agents.runs.adapters.base import Adapter
from company_agents.runs.claiming import Claims
from company_agents.runs.execution import Claimed, Execution, Stop
from company_agents.runs.jobs import Jobs
from company_agents.runs.model import LONGEST, RENEW_AT
from company_agents.runs.moves import Moves
from company_agents.runs.room import MOST_RUNNING
from company_agents.runs.schedules import Schedules
from company_agents.runs.sweeping import Sweeper
from company_agents.runs.workspaces import Workspaces

# Seconds between two looks at the runs that are executed here, and how long one may take.
BEAT = 1.0
BEAT_TIME = 3.0
# Seconds between two looks for what nobody holds or tells of.
LOOK = 2.0
# Seconds that a stop of this orchestrator waits for its adapters to end, and for the runs to be handed over.
STOP_TIME = 15.0
# Runs of one company that one look tells of.
MOST_TOLD = 50

log = structlog.stdlib.get_logger("company_agents.runs")


@dataclass
class Dispatcher:
    """
    Runs between `start` and `close`. `adapters` by their kind; `url` is how what runs here reaches this orchestrator; `clean`
    takes open values out of a text. At most `at_once` runs are executed here.
    """

    db: Database
    jobs: Jobs
    moves: Moves
    claims: Claims
    sweeper: Sweeper
    schedules: Schedules
    workspaces: Workspaces
    adapters: Mapping[str, Adapter]
    url: str
    at_once: int
    sealed: Callable[[], bool]
    clean: Callable[[str], str] = lambda text: text
    _running: dict[UUID, Execution] = field(default_factory=dict)
    _executing: set[asyncio.Task[None]] = field(default_factory=set)
    _loops: list[asyncio.Task[None]] = field(default_factory=list)
    _closing: bool = False
    _end: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Take runs, and look after them."""
        self.workspaces.open()
        self.jobs.deliver = self.deliver
        if self.at_once:
            self.jobs.start(self.at_once)
        self._loops = [
            asyncio.create_task(_every(BEAT, self.beat), name="runs under way"),
            asyncio.create_task(_every(LOOK, self.look), name="runs that wait"),
        ]

    async def close(self) -> None:
        """Take no more, stop what is under way, and hand it over: another orchestrator goes on within seconds."""
        if self._end is None:
            self._closing = True
            self._end = asyncio.create_task(self._close(), name="end of runs")
        await asyncio.shield(self._end)

    async def _close(self) -> None:
        await self.jobs.stop_taking()
        for execution in list(self._running.values()):
            execution.stop(Stop.HAND_OVER)
        if self._executing:
            await asyncio.wait(self._executing, timeout=STOP_TIME)
        await ended(*self._loops, *self._executing)
        await self.jobs.close()
        self.workspaces.close()

    def seal(self) -> None:
        """The instance was sealed: what is under way is stopped. Its lease runs out, and its work is queued again."""
        for execution in self._running.values():
            execution.stop(Stop.SEALED)

    @property
    def closing(self) -> bool:
        """Whether this orchestrator stops."""
        return self._closing

    @property
    def running(self) -> int:
        """How many runs are executed here."""
        return len(self._running)

    async def deliver(self, company_id: UUID, run_id: UUID) -> None:
        """
        A job has come: begin the run, if it may be begun now, and wait until this start of it has ended. A job that is broken
        off leaves the start alone.
        """
        if self._closing or self.sealed() or run_id in self._running:
            return
        try:
            claimed = await self.claims.begin(CompanyScope(company_id, self.db), run_id)
        except Exception as error:
            # It stays queued, and is told of again.
            said = error.reason if isinstance(error, CompanyAgentsError) else type(error).__name__
            log.warning("a run could not be begun", run=str(run_id), error=said)
            return
        if claimed is not None:
            task = asyncio.create_task(self._execute(claimed), name=f"execution of {run_id}")
            self._executing.add(task)
            task.add_done_callback(self._executing.discard)
            await asyncio.shield(task)

    async def _execute(self, claimed: Claimed) -> None:
        adapter = self.adapters[claimed.row["adapter"]]
        execution = Execution(claimed, adapter, self.moves, self.url, self.clean)
        self._running[claimed.run.id] = execution
        if self._closing:
            execution.stop(Stop.HAND_OVER)
        try:
            async with self.workspaces.made(execution.id, execution.fence) as workspace:
                await execution.run(workspace)
        except Exception as error:
            log.warning(
                "a run could not be executed", run=str(execution.id), error=type(error).__name__, exc_info=error
            )
        finally:
            self._running.pop(execution.id, None)
        if not self._closing:
            # There may be others that waited for its place.
            with contextlib.suppress(Exception):
                await self._tell(claimed.scope)

    async def beat(self) -> None:
        """
        Once: ask how the runs are that are executed here, stop those that are not ours any more or over their limits, and
        renew what is to be renewed.
        """
        watched = list(self._running.values())
        if not watched:
            return
        async with asyncio.timeout(BEAT_TIME):
            companies = array_text(execution.claimed.run.company_id for execution in watched)
            ids = array_text(execution.id for execution in watched)
            fences = array_text(execution.fence for execution in watched)
            rows = {row["n"]: row for row in await self.db.call("runs_watched", (companies, ids, fences))}
            # Side by side: one that hangs keeps none of the others from being renewed.
            await asyncio.gather(
                *(self._follow(execution, rows.get(n)) for n, execution in enumerate(watched, 1)),
                return_exceptions=True,
            )

    async def _follow(self, execution: Execution, row: Mapping[str, object] | None) -> None:
        if row is None or not row["holds"]:
            if row is not None and row["state"] in ("finished", "failed"):
                execution.let_go()
            else:
                execution.stop(Stop.OVER)
            return
        seconds = row["seconds"]
        if isinstance(seconds, float) and seconds <= 0:
            execution.stop(Stop.TIME)
        if row["is_spent"]:
            execution.stop(Stop.BUDGET)
        lease = self.moves.lease
        if execution.lease_ends - time.monotonic() > lease * (1 - RENEW_AT):
            return
        asked = time.monotonic()
        async with execution.claimed.scope.transaction() as tx:
            held = {"id": execution.id, "fence": execution.fence}
            if await tx.run("run_renew", lease=lease, longest=LONGEST, **held):
                execution.held_until(asked + lease)

    async def look(self) -> None:
        """Once, in all companies: end leases that ran out, start what is due, and tell of what waits and has no job."""
        if self.sealed() or self._closing:
            return
        for row in await self.db.call("runs_due", ()):
            scope = CompanyScope(row["company_id"], self.db)
            for work in (self.sweeper.end_late, self.schedules.start_due, self._tell):
                try:
                    await work(scope)
                except Sealed:
                    return
                except Exception as error:
                    said = error.reason if isinstance(error, CompanyAgentsError) else type(error).__name__
                    log.warning("the runs of a company could not be looked after", error=said)

    async def _tell(self, scope: CompanyScope) -> None:
        async with scope.transaction() as tx:
            rows = await tx.all("runs_to_tell", most=MOST_RUNNING, at_once=MOST_TOLD)
        await self.jobs.tell(scope, [row["id"] for row in rows])


async def _every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except Exception as error:
            # A database that is away for a moment; it is looked at again.
            log.warning("runs could not be looked after", error=type(error).__name__)
