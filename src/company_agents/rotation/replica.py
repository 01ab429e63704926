"""
The sign of life of an orchestrator. It says which keys it holds, learns which it should hold, and whether the instance
was sealed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid4

from company_agents import __version__
from company_agents.db.database import Database, array_text
from company_agents.ending import ended
from company_agents.errors import CompanyAgentsError
from company_agents.secret_store.keys import HeldKeys

# Seconds between two signs. A replica that was silent for ALIVE is not waited for.
BEAT = 1.0
ALIVE = 10.0

log = logging.getLogger(__name__)


@dataclass
class Replica:
    """This orchestrator among the others. `on_seal` is called when the instance is sealed, and `on_unseal` after."""

    db: Database
    held: HeldKeys
    on_seal: Callable[[], Awaitable[None]]
    on_unseal: Callable[[], Awaitable[None]]
    instance: UUID
    id: UUID = field(default_factory=uuid4)
    problem: str = ""
    # Called every second, each after the other, also while a beat waits for a slow key source.
    checks: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Give the first sign, and one every second from now on."""
        # Those that were killed said no good-bye.
        async with self.db.transaction(None) as tx:
            await tx.run("replicas_forget", id=self.id)
        await self.beat()
        self._tasks = [
            asyncio.create_task(_every(BEAT, self.beat, "no sign of life could be given"), name="replica"),
            asyncio.create_task(_every(BEAT, self._check, "a check failed"), name="replica checks"),
        ]

    async def close(self) -> None:
        """Give no more signs, and say good-bye."""
        await ended(*self._tasks)
        try:
            async with self.db.transaction(None) as tx:
                await tx.run("replicas_forget", id=self.id)
        except CompanyAgentsError:
            log.warning("this orchestrator could not say good-bye")

    async def beat(self) -> None:
        """
        Give one sign, and follow what is answered.

        Raises:
            Unavailable: the database does not answer.
        """
        sealed_at, wanted, instance = await self._said()
        if instance != self.instance:
            await self._end()
            return
        await self._follow(sealed_at)
        for key_id in [key.key_id for key in self.held.ring.keys if key.key_id not in wanted]:
            # Destroyed by another process: what it sealed must not open here either.
            self.held.drop(key_id)
        missing = [] if self.held.sealed else [key_id for key_id in wanted if key_id not in self.held.ring]
        if missing:
            # Before the switch, so that nobody waits for it then.
            await self._fetch(missing)
            await self._said()
        elif not self.held.sealed:
            self.problem = ""

    async def _check(self) -> None:
        for check in self.checks:
            await check()

    async def _end(self) -> None:
        """What is there now was restored from a backup: it is not ours to work on, and nothing of ours belongs into it."""
        log.error("the instance was restored from a backup: this orchestrator ends; start it again")
        self.held.seal()
        await self.on_seal()
        signal.raise_signal(signal.SIGTERM)

    async def _said(self) -> tuple[datetime | None, list[str], UUID]:
        held = array_text(key.key_id for key in self.held.ring.keys)
        params = (self.id, socket.gethostname()[:100], os.getpid(), __version__, held, self.problem)
        row = (await self.db.call("replica_beat", params))[0]
        return row["sealed_at"], row["wanted"], row["instance"]

    async def _follow(self, sealed_at: datetime | None) -> None:
        if sealed_at is not None and not self.held.sealed:
            log.warning("the instance was sealed: keys are dropped")
            await self.on_seal()
        elif sealed_at is None and self.held.sealed:
            await self.on_unseal()
            log.warning("the instance was unsealed")

    async def _fetch(self, missing: list[str]) -> None:
        try:
            await self.held.refresh()
        except CompanyAgentsError as error:
            self.problem = error.sentence
            return
        lost = [key_id for key_id in missing if key_id not in self.held.ring]
        self.problem = f"the key {lost[0]} is not in the key source" if lost else ""


async def _every(seconds: float, work: Callable[[], Awaitable[None]], else_say: str) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except Exception as error:
            log.warning("%s: %s", else_say, type(error).__name__)
