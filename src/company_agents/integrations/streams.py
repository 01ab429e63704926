"""
Open streams: replies and connections that go on for longer than a moment. Whoever opened one was allowed to; each is checked
again every second, and ends when that is no longer so.

    held       one stream, from before its request is sent to its end
    check      all of this process: one round trip, with each company's rows seen in its own scope
    closed_everywhere
               waits until every replica has closed what it must

A process that could not check for `PATIENCE` seconds ends its streams, and one that was stopped for that long relays nothing
until it has checked: nothing hangs on a message that arrives. What is known of the replicas stands in the database: the first
stream of one is announced before it relays a byte, and the announcement stays for a while after the last.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from company_agents.errors import CompanyAgentsError, Refused, Unavailable
from company_agents.identity.principal import Caller
from company_agents.secret_store.store import SecretStore

# Seconds: after so many without a check, a stream ends. The schema's comment says the same.
PATIENCE = 4.0
# Seconds after which such a replica is no longer waited for, by the database's clock; and how long any is waited for.
GIVEN_UP = PATIENCE + 0.5
MOST_WAIT = 5.0
ASK_EVERY = 0.1
# Seconds for which a replica that has no stream any more still says that it may have one: the next is not announced anew.
QUIET = 30.0

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

log = logging.getLogger(__name__)


def now() -> float:
    """Seconds, going on also while this process or its machine is stopped."""
    return time.clock_gettime(_CLOCK)


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment between two checks: what was found after it was found after every check before `round`."""

    round: int | None
    at: float


@dataclass(frozen=True, slots=True)
class _Opened:
    """By whom, and for what: what is checked. Many streams may have it in common."""

    company_id: UUID
    agent_id: UUID
    run_id: UUID | None
    fence: int | None
    integration_id: UUID
    version: int | None
    token_at: datetime | None
    rules: bytes | None


class Hold:
    """One open stream. `closed`: why it has to end; None as long as it may go on."""

    __slots__ = ("_cancelling", "_good_at", "_is_cancelled", "_streams", "_task", "closed", "opened")

    def __init__(self, streams: Streams, opened: _Opened, good_at: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._streams = streams
        self._task = task
        self._cancelling = task.cancelling()
        self._is_cancelled = False
        self._good_at = good_at
        self.opened = opened
        self.closed: CompanyAgentsError | None = None

    @property
    def must_ask(self) -> bool:
        """Whether `go_on` has to be awaited before anything more is relayed."""
        return self.closed is not None or self.is_stale

    @property
    def is_stale(self) -> bool:
        """Whether it was not checked for so long that it may not go on without."""
        return now() - max(self._good_at, self._streams.checked_at) > PATIENCE

    async def go_on(self) -> None:
        """
        To be asked before each piece, in either direction.

        Raises:
            Refused: whoever opened it is no longer allowed to (`stream_cut`).
            Unavailable: that cannot be found out.
        """
        if self.closed is None and self.is_stale:
            try:
                await self._streams.check(self)
            except Exception as error:
                log.warning("a stream could not be checked: %s", type(error).__name__)
                self.close(_not_checked())
        if self.closed is not None:
            raise self.closed

    async def watched(self, body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """A body of which no piece passes once this has ended."""
        async for piece in body:
            if self.must_ask:
                await self.go_on()
            yield piece

    def close(self, why: CompanyAgentsError) -> None:
        """End it now: whatever its task waits for."""
        if self.closed is not None:
            return
        self.closed = why
        # Who asks for itself is told by what `go_on` raises.
        if self._task is not asyncio.current_task():
            self._is_cancelled = self._task.cancel()

    def takes(self) -> bool:
        """Whether a cancellation was that of `close`, and nobody else's as well."""
        return self._is_cancelled and self._task.uncancel() <= self._cancelling


class Streams:
    """
    The open streams of this process. `replica` is its id among the others; a process that is none, as on the command line,
    checks its own when they are stale.
    """

    def __init__(self, store: SecretStore) -> None:
        self.replica: UUID | None = None
        self.checked_at = 0.0
        self._store = store
        self._holds: set[Hold] = set()
        self._lock = asyncio.Lock()
        self._round = 0
        self._is_checking = False
        self._is_announced = False
        self._last_open = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def mark(self) -> Mark:
        """To be taken before an integration is looked up for a stream, and kept beside what was found."""
        return Mark(None if self._is_checking else self._round, now())

    @contextlib.asynccontextmanager
    async def held(
        self, caller: Caller, integration_id: UUID, version: int | None, found: Mark, rules: bytes | None = None
    ) -> AsyncIterator[Hold]:
        """
        One stream, for as long as it is open; from before anything is sent. `version` is that of the credential that it
        uses, `rules` tells those that allowed it from others; `found` was taken before these were looked up.

        Raises:
            Refused: the caller is no longer allowed to (`stream_cut`); also while it is open.
            Unavailable: that cannot be found out; also while it is open.
        """
        hold = Hold(self, _opened(caller, integration_id, version, rules), found.at)
        self._holds.add(hold)
        try:
            if self.replica is not None and not self._is_announced:
                await self._announce()
                await self._verify(hold)
            elif found.round != self._round:
                # A check has come in between, and was told to somebody who waits for it.
                await self._verify(hold)
            yield hold
        except asyncio.CancelledError:
            if not hold.takes():
                raise
            assert hold.closed is not None
            raise hold.closed from None
        finally:
            self._holds.discard(hold)
            self._last_open = now()

    async def check(self, stale: Hold | None = None) -> None:
        """
        Check all, and end those that may not go on. `stale`: only where that one still is, once it is its turn.

        Raises:
            Unavailable: the database does not answer. They go on for as long as the last check is good.
        """
        async with self._lock:
            if (stale is None or stale.is_stale) and (self._holds or self._is_announced):
                await self._check()

    async def closed_everywhere(self) -> None:
        """
        Wait until no replica relays what is no longer allowed since this was called; to be called after the commit. At once
        where no replica has streams, and at most `MOST_WAIT` seconds: whoever has not said that it has checked by then, has
        closed all of its own.
        """
        began = now()
        try:
            async with asyncio.timeout(MOST_WAIT):
                await self._waited_for()
        except TimeoutError:
            log.warning("an orchestrator did not say that it has closed its streams")
        except CompanyAgentsError:
            # Nor can the others ask: they close theirs.
            await asyncio.sleep(max(0.0, began + GIVEN_UP - now()))

    def close(self) -> None:
        """The process ends: nothing is waited for any more."""
        if self._timer is not None:
            self._timer.cancel()

    async def _waited_for(self) -> None:
        since: datetime | None = None
        while True:
            row = (await self._store.db.call("streams_waited_for", (since, GIVEN_UP)))[0]
            if not row["waited"]:
                return
            if since is None:
                since = row["moment"]
                await self.check()
            else:
                await asyncio.sleep(ASK_EVERY)

    async def _announce(self) -> None:
        async with self._lock:
            if not self._is_announced:
                began = now()
                await self._say(1, None)
                # There was none, so each of them was good.
                self.checked_at, self._is_announced = began, True
                self._set_timer()

    async def _verify(self, hold: Hold) -> None:
        _, gone = await self._ask([hold.opened])
        if gone:
            raise _not_allowed()

    async def _check(self) -> None:
        began = now()
        holds = list(self._holds)
        self._round += 1
        self._is_checking = True
        try:
            moment, gone = await self._ask(hold.opened for hold in holds)
        finally:
            self._is_checking = False
        for hold in holds:
            if hold.opened in gone:
                hold.close(_not_allowed())
        self.checked_at = began
        self._set_timer()
        if self.replica is None:
            return
        if not self._holds and now() - self._last_open > QUIET:
            # First here: whoever opens one meanwhile announces it, once this is said.
            self._is_announced = False
            await self._say(0, moment)
        else:
            await self._say(max(1, len(self._holds)), moment)

    async def _ask(self, opened: Iterable[_Opened]) -> tuple[datetime, set[_Opened]]:
        """Which of these may not go on, and the moment as of which that is so."""
        asked = sorted(set(opened), key=lambda one: one.company_id)
        counts: dict[UUID, int] = {}
        for one in asked:
            counts[one.company_id] = counts.get(one.company_id, 0) + 1
        columns: list[list[Any]] = [list(counts), list(counts.values())]
        for name in ("agent_id", "run_id", "fence", "integration_id", "version", "token_at", "rules"):
            columns.append([getattr(one, name) for one in asked])
        row = (await self._store.db.call_ahead("streams_check", columns))[0]
        return row["moment"], {asked[number - 1] for number in row["gone"]}

    async def _say(self, amount: int, checked: datetime | None) -> None:
        said = await self._store.db.call_ahead("streams_say", (self.replica, amount, checked))
        if not said[0]["known"]:
            raise Unavailable("this orchestrator is not known to the others just now", hint="try again in a moment")

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.replica is not None and (self._holds or self._is_announced):
            delay = max(0.0, self.checked_at + PATIENCE - now())
            self._timer = asyncio.get_running_loop().call_later(delay, self._give_up)

    def _give_up(self) -> None:
        """Nobody could check for too long."""
        self._timer = None
        stale = [hold for hold in self._holds if hold.is_stale]
        if stale:
            log.warning("%d streams end: whether they are still allowed could not be checked", len(stale))
        for hold in stale:
            hold.close(_not_checked())
        if self._holds:
            # One that was found since then has its own time.
            self._timer = asyncio.get_running_loop().call_later(PATIENCE / 4, self._give_up)


def _opened(caller: Caller, integration_id: UUID, version: int | None, rules: bytes | None) -> _Opened:
    principal = caller.principal
    return _Opened(
        caller.scope.company_id,
        caller.agent_id(),
        principal.run_id,
        principal.fence,
        integration_id,
        version,
        principal.token_at,
        rules,
    )


def _not_allowed() -> Refused:
    return Refused(
        "this call was cut off: whoever made it is no longer allowed to",
        hint="an agent was paused, a token replaced, a run ended or cut off, the integration taken away, or its rules changed",
        code="stream_cut",
    )


def _not_checked() -> Unavailable:
    return Unavailable(
        "this call was cut off: whether it is still allowed could not be checked", hint="try again in a moment"
    )
