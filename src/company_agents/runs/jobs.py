"""
The messenger: says to the orchestrators that a run is queued. One job of the engine (`procrastinate`) per start of a run,
with nothing in it but ids; it lasts as long as the start, so that no orchestrator takes more than it can do.

A job decides nothing. One that is lost, told twice, or handed on while the run goes on does neither lose nor double it: the
run's row says who may begin it, and what is queued and has no job is told anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from company_agents.companies.scope import CompanyScope
from company_agents.db.database import Database, Tx
from company_agents.db.job_engine import connector
from company_agents.ending import ended

if TYPE_CHECKING:
    import procrastinate
    from procrastinate.worker import Worker

QUEUE, TASK = "runs", "run"
# Seconds between two signs of life of a worker; who gave none for STALLED has died, and its jobs are told anew.
BEAT = 3.0
STALLED = 10.0
# Seconds between two looks for jobs: a new one is announced, one that is told anew is not.
POLL = 2.0
# Seconds before the engine is tried again, where it failed.
PAUSE = 2.0

Deliver = Callable[[UUID, UUID], Awaitable[None]]

log = structlog.stdlib.get_logger("company_agents.runs")


@dataclass
class Jobs:
    """Tells, and between `start` and `close` listens: `deliver` is called with the ids of a company and a run."""

    db: Database
    deliver: Deliver | None = None
    _app: procrastinate.App | None = None
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _worker: Worker | None = None

    async def defer(self, tx: Tx, run_id: UUID) -> None:
        """Tell of a run in the transaction that queues it. Where the engine does not take it, it is found later."""
        try:
            async with tx.aside() as connection:
                await tx.run("jobs_reach")
                told = self.app.configure_task(TASK, queue=QUEUE, queueing_lock=str(run_id), connection=connection)
                await told.defer_async(company=str(tx.company_id), run=str(run_id))
        except Exception as error:
            log.warning("the job engine took no job", run=str(run_id), error=type(error).__name__)

    async def tell(self, scope: CompanyScope, runs: Sequence[UUID]) -> None:
        """Tell of queued runs of which no job tells."""
        if not runs:
            return
        async with scope.transaction() as tx:
            told = {row["id"] for row in await tx.all("jobs_told", ids=[str(run_id) for run_id in runs])}
            for run_id in runs:
                if run_id not in told:
                    await self.defer(tx, run_id)

    @property
    def app(self) -> procrastinate.App:
        """The library, loaded when it is needed first."""
        if self._app is None:
            import procrastinate

            # Its lines quote what a failure says of itself; what matters of them is logged here.
            logging.getLogger("procrastinate").setLevel(logging.CRITICAL)
            self._app = procrastinate.App(connector=connector(self.db.logins.jobs or self.db.logins.serve))
            self._app.task(name=TASK, queue=QUEUE)(self._delivered)
            manager: Any = self._app.job_manager
            manager.finish_job = self._finished(manager.finish_job)
        return self._app

    def start(self, at_once: int) -> None:
        """Listen, and take so many jobs at once; and tell anew of those whose orchestrator died."""
        # Loaded now: later, calls would wait for it.
        _ = self.app
        self._tasks = [
            asyncio.create_task(self._again(lambda: self._listen(at_once)), name="jobs"),
            asyncio.create_task(self._again(self._reap), name="stalled jobs"),
        ]

    async def stop_taking(self) -> None:
        """Take no more jobs. What was taken goes on."""
        await ended(*self._tasks)

    async def close(self) -> None:
        """Stop, and let go of the connections."""
        await self.stop_taking()
        if self._app is not None:
            with contextlib.suppress(Exception):
                await self._app.close_async()

    async def _delivered(self, company: str, run: str) -> None:
        assert self.deliver is not None
        await self.deliver(UUID(company), UUID(run))

    def _finished(self, finish: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def finished(**given: Any) -> None:
            try:
                await finish(**given)
            except Exception as error:
                # It was told anew while we stood still, or the database is away; then it is told anew later.
                log.info("a job could not be ended", error=type(error).__name__)

        return finished

    async def _again(self, work: Callable[[], Awaitable[Any]]) -> None:
        while True:
            try:
                await self.app.open_async()
                await work()
            except Exception as error:
                # A database that is away for a moment. Nothing is lost: the runs are not in the jobs.
                log.warning("the job engine is away", error=type(error).__name__)
            await asyncio.sleep(PAUSE)

    async def _listen(self, at_once: int) -> None:
        from procrastinate.worker import Worker

        self._worker = Worker(
            self.app,
            queues=[QUEUE],
            concurrency=at_once,
            fetch_job_polling_interval=POLL,
            update_heartbeat_interval=BEAT,
            stalled_worker_timeout=STALLED,
            # What a job waits for goes on without it: a start of a run does not hang on the engine.
            shutdown_graceful_timeout=0,
            delete_jobs="always",
            install_signal_handlers=False,
        )
        try:
            await self._worker.run()  # type: ignore[no-untyped-call]
        finally:
            self._worker = None

    async def _reap(self) -> None:
        manager = self.app.job_manager
        while True:
            # Also here: the library does not notice when its own sign of life has failed once.
            if self._worker is not None and self._worker.worker_id is not None:
                await manager.update_heartbeat(self._worker.worker_id)
            for job in await manager.get_stalled_jobs(queue=QUEUE, seconds_since_heartbeat=STALLED):
                try:
                    await manager.retry_job(job)
                except Exception:
                    # Another was faster, or another job tells of the same run.
                    with contextlib.suppress(Exception):
                        await self._drop(job)
            await asyncio.sleep(BEAT)

    async def _drop(self, job: Any) -> None:
        from procrastinate.jobs import Status

        if await self.app.job_manager.get_job_status_async(job.id) == Status.DOING:
            await self.app.job_manager.finish_job(job, status=Status.FAILED, delete_job=True)
