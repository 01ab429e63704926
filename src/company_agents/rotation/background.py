"""
A rotation that was begun from a page or by a program: one at a time in this process. It goes on when whoever began it
goes away, and what came of it is kept to be looked at. How far it is stands in the database, for every replica.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from company_agents.errors import Busy, CompanyAgentsError, Failed
from company_agents.rotation.rotate import Rotated, Rotator

# How long whoever begins one waits to hear that it cannot begin (seconds).
PATIENCE = 3.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a rotation ended: with what it did, or with what it failed of."""

    at: datetime
    result: Rotated | None = None
    error: CompanyAgentsError | None = None


@dataclass
class Background:
    """Rotates in a task of its own. `last` is how the last one in this process ended."""

    rotator: Rotator
    last: Ended | None = None
    _task: asyncio.Task[Ended] | None = None

    @property
    def running(self) -> bool:
        """Whether one runs in this process."""
        return self._task is not None and not self._task.done()

    async def start(self, *, finish: bool, compromised: bool, who: str) -> None:
        """
        Begin one. Returns once it is under way, or done; what fails after that is in `last`.

        Raises:
            Busy: one runs already, here or elsewhere.
            Whatever `Rotator.rotate` raises before it has changed anything, if that is soon.
        """
        if self.running:
            raise Busy(
                "the master key is being rotated or pruned just now",
                hint="`company-agents key status` shows how far it is; try again when it is done",
                code="key_busy",
            )
        begun = asyncio.Event()
        self.last = None
        task = self._task = asyncio.create_task(self._run(begun, finish, compromised, who), name="rotation")
        waiting = asyncio.create_task(begun.wait())
        try:
            await asyncio.wait({task, waiting}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if task.done() and not task.cancelled() and (error := task.result().error) is not None:
            raise error

    async def ended(self) -> None:
        """Wait until none runs here."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def stop(self) -> None:
        """End it where it is: what was begun is found in the states of the keys, and can be finished from there."""
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """End it, and wait until it has let go of the fence."""
        self.stop()
        await self.ended()

    async def _run(self, begun: asyncio.Event, finish: bool, compromised: bool, who: str) -> Ended:
        try:
            result = await self.rotator.rotate(
                finish=finish, compromised=compromised, who=who, say=lambda step, done, total: begun.set()
            )
            self.last = Ended(datetime.now(UTC), result)
        except CompanyAgentsError as error:
            log.warning("a rotation of the master key did not succeed: %s", error.sentence)
            self.last = Ended(datetime.now(UTC), error=error)
        except Exception as error:
            # What a foreign exception says of itself may hold anything.
            log.error("a rotation of the master key failed: %s", type(error).__name__)
            failed = Failed("something went wrong on our side", hint="the log says what")
            self.last = Ended(datetime.now(UTC), error=failed)
        return self.last
