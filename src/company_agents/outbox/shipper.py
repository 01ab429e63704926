"""
Sending the chains out to one sink: as they grow here, and every second what grew elsewhere. Whoever may not go on before an
event is out waits here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from company_agents.audit.log import SinkDown
from company_agents.db.database import Row
from company_agents.ending import ended
from company_agents.errors import CompanyAgentsError
from company_agents.outbox.addresses import SinkAddress
from company_agents.outbox.source import Source

# Seconds between two looks at all chains, and at one that another orchestrator is sending.
EVERY = 1.0
AGAIN = 0.05
# How long a use waits for its event to be out (seconds).
PATIENCE = 20.0
# After a failure nothing is tried for so long (seconds), twice as long after the next, and so on.
PAUSE, MOST_PAUSE = 1.0, 30.0
# At a stop, what is still to leave has so long (seconds).
LAST_TIME = 5.0
# The row that says how the sink is, is written this often at most (seconds), and when that changes.
SAID_EVERY = 10.0

log = logging.getLogger(__name__)


class Sink(Protocol):
    """What lines can be written to."""

    async def behind(self, ends: list[Row]) -> set[UUID]: ...
    async def ship(self, chains: Iterable[UUID]) -> tuple[dict[UUID, int], set[UUID]]: ...
    async def close(self) -> None: ...


@dataclass(slots=True)
class _Waiting:
    chain: UUID
    seq: int
    out: asyncio.Future[None]


@dataclass
class Shipper:
    """Runs between `start` and `close`."""

    source: Source
    address: SinkAddress
    sink: Sink
    _wanted: set[UUID] = field(default_factory=set)
    _waiting: list[_Waiting] = field(default_factory=list)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None
    _closing: bool = False
    _looked_at: float = float("-inf")
    _failures: int = 0
    _not_before: float = 0.0
    _problem: SinkDown | None = None
    _said: tuple[str, float] = ("never", float("-inf"))

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self._run(), name="audit-sink")

    async def close(self) -> None:
        """Send what is still to leave, if that is soon, and stop."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            _, left = await asyncio.wait([self._task], timeout=LAST_TIME)
            await ended(*left)
        await self.sink.close()

    def grown(self, chains: Iterable[UUID]) -> None:
        """These chains have new events."""
        self._wanted.update(chains)
        self._wake.set()

    async def reached(self, chain: UUID, seq: int) -> None:
        """
        Wait until a chain has left up to an event.

        Raises:
            SinkDown: it cannot be written.
        """
        # Also where that number was out before: a database that went back, to a replica that was behind, gives it again.
        if self._problem is not None and time.monotonic() < self._not_before:
            raise _refused(self._problem)
        out = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(chain, seq, out))
        self.grown([chain])
        try:
            async with asyncio.timeout(PATIENCE):
                await out
        except TimeoutError:
            raise _refused(SinkDown(f"the audit sink {self.address.shown} does not keep up")) from None

    async def _run(self) -> None:
        pause = 0.0
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause or EVERY):
                    await self._wake.wait()
            self._wake.clear()
            pause = await self._guarded()
        await self._guarded(last=True)

    async def _guarded(self, *, last: bool = False) -> float:
        try:
            return await self._look(last=last)
        except Exception as error:
            # Nothing ends this but `close`: where it ended, a sink that is required would refuse every use for ever.
            log.warning("the audit sink %s could not be looked after: %s", self.address.shown, type(error).__name__)
            return PAUSE

    async def _look(self, *, last: bool = False) -> float:
        """Once. Returns after how long to look again, where that is sooner than usual."""
        self._waiting = [waiting for waiting in self._waiting if not waiting.out.done()]
        if self.source.head_keys.store.keys.sealed:
            # What signs is not there; nobody uses a credential either.
            return 0.0
        now = time.monotonic()
        if now < self._not_before and not last:
            return self._not_before - now
        chains, self._wanted = self._wanted, set()
        # Of who asks from here on, the event may be newer than what is read now.
        asked = list(self._waiting)
        try:
            if now - self._looked_at >= EVERY or last:
                chains |= await self.sink.behind(await self.source.db.call("audit_ends", (self.address.id,)))
                self._looked_at = now
            reached, more = await self.sink.ship(chains) if chains else ({}, set[UUID]())
        except Exception as error:
            self._wanted |= chains
            await self._failed(error)
            return self._not_before - time.monotonic()
        self._wanted |= more
        self._problem, self._failures = None, 0
        self._tell(asked, reached)
        if chains:
            await self._say("")
        return AGAIN if more else 0.0

    def _tell(self, asked: Iterable[_Waiting], reached: dict[UUID, int]) -> None:
        """Those who had asked before, and whose events are out."""
        for waiting in asked:
            if not waiting.out.done() and reached.get(waiting.chain, 0) >= waiting.seq:
                waiting.out.set_result(None)
        self._waiting = [waiting for waiting in self._waiting if not waiting.out.done()]

    async def _failed(self, error: Exception) -> None:
        # What a foreign exception says of itself may hold anything.
        said = error.sentence if isinstance(error, CompanyAgentsError) else type(error).__name__
        hint = error.hint if isinstance(error, CompanyAgentsError) else ""
        problem = (
            error
            if isinstance(error, SinkDown)
            else SinkDown(f"the audit sink {self.address.shown} cannot be written: {said}", hint=hint)
        )
        if self._problem is None:
            log.warning("%s", problem.sentence)
        self._problem, self._failures = problem, self._failures + 1
        most = PAUSE if self.address.required else MOST_PAUSE
        self._not_before = time.monotonic() + min(PAUSE * 2 ** (self._failures - 1), most)
        for waiting in self._waiting:
            if not waiting.out.done():
                waiting.out.set_exception(_refused(problem))
        self._waiting = []
        await self._say(problem.sentence)

    async def _say(self, problem: str) -> None:
        """How the sink is, for those who look from elsewhere. Where that cannot be written, it is said the next time."""
        said, at = self._said
        if said == problem and time.monotonic() - at < SAID_EVERY:
            return
        with contextlib.suppress(Exception):
            async with self.source.db.transaction(None) as tx:
                await tx.run("audit_sink_said", sink=self.address.id, address=self.address.shown, problem=problem[:500])
            self._said = (problem, time.monotonic())


def _refused(problem: SinkDown) -> SinkDown:
    return SinkDown(
        f"no credential is used while {problem.sentence.removesuffix('.')}",
        hint=problem.hint or "`company-agents audit sinks` shows how each sink is",
    )
