"""
What is done about credentials without being asked: refreshes ahead of expiry, probes, reminders, statuses that time has
changed. A loop in every orchestrator; what one does, no other does too.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from company_agents.companies.scope import CompanyScope, InstanceScope
from company_agents.ending import ended
from company_agents.errors import CompanyAgentsError
from company_agents.integrations.checks import Checks
from company_agents.integrations.endings import said_of
from company_agents.integrations.provider import Providers
from company_agents.integrations.refresh import ASK_AGAIN, Refresher
from company_agents.integrations.status import CONNECTED, EXPIRING, NEEDS_ATTENTION, OLD_HINT
from company_agents.secret_store.store import SecretStore

# How often it looks for what is due (seconds).
TICK = 1.0
# And how often for what changes by the day.
SWEEP = 30.0
# Probes that are under way at once.
MOST_PROBES = 4
# Rows that one look changes in one company.
MOST_ROWS = 200

log = logging.getLogger(__name__)


@dataclass
class Upkeep:
    """
    `most` refreshes are under way at once, and of one company three quarters of them: another's need not wait for a provider
    that does not answer. `probe_every` is in hours; 0: no probes.
    """

    store: SecretStore
    providers: Providers
    refresher: Refresher
    checks: Checks
    most: int
    probe_every: int
    tick: float = TICK
    sweep: float = SWEEP
    _busy: dict[asyncio.Task[bool], UUID] = field(default_factory=dict)
    _probing: set[asyncio.Task[None]] = field(default_factory=set)
    _freed: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        """Begin to look."""
        self._tasks = [
            asyncio.create_task(self._over_and_over(self.refresh_due, self._rested), name="refresher"),
            asyncio.create_task(self._over_and_over(self.look_after, self._swept), name="upkeep"),
        ]

    async def close(self) -> None:
        """Look no more, and wait for the refreshes that are under way."""
        await ended(*self._tasks, *self._probing)
        await self.refresher.close()

    async def refresh_due(self) -> int:
        """Begin refreshes of what is due, as many as there is room for. Returns how many were begun."""
        if self.store.keys.sealed or self.most <= len(self._busy):
            return 0
        async with InstanceScope(self.store.db).transaction() as tx:
            companies = [row["company_id"] for row in await tx.all("refresh_companies")]
        begun = 0
        for company_id, share in self._shares(companies):
            scope = CompanyScope(company_id, self.store.db)
            for attempt in await self.refresher.attempts.claim(scope, share):
                self._went(self.refresher.start(scope, attempt), company_id)
                begun += 1
        return begun

    async def look_after(self) -> None:
        """Begin the probes that are due, remind of what is old, and write the statuses that time has changed."""
        if self.store.keys.sealed:
            return
        every = timedelta(hours=self.probe_every) if self.probe_every else None
        async with InstanceScope(self.store.db).transaction() as tx:
            companies = [row["company_id"] for row in await tx.all("upkeep_companies", every=every)]
        for company_id in companies:
            scope = CompanyScope(company_id, self.store.db)
            for work in (self._remind, self._judge_ends):
                await work(scope)
            if every is not None:
                await self._probe(scope, every)

    def _shares(self, companies: list[UUID]) -> list[tuple[UUID, int]]:
        """How many each company may begin: in turn, and no company has all of the room."""
        room = self.most - len(self._busy)
        under_way = list(self._busy.values())
        limit = max(1, self.most * 3 // 4)
        left = {company: max(0, limit - under_way.count(company)) for company in companies}
        shares = dict.fromkeys(companies, 0)
        # Beginning with who has least under way.
        for company in itertools.cycle(sorted(companies, key=lambda company: under_way.count(company))):
            if room <= 0 or not any(left.values()):
                break
            if left[company]:
                shares[company], left[company], room = shares[company] + 1, left[company] - 1, room - 1
        return [(company, share) for company, share in shares.items() if share]

    def _went(self, task: asyncio.Task[bool], company_id: UUID) -> None:
        self._busy[task] = company_id

        def ended(task: asyncio.Task[bool]) -> None:
            self._busy.pop(task, None)
            self._freed.set()
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("a refresh failed: %s", type(error).__name__)

        task.add_done_callback(ended)

    async def _remind(self, scope: CompanyScope) -> None:
        async with scope.transaction() as tx:
            for row in await tx.all("rotation_remind", hint=OLD_HINT):
                # Committed before the mark is: rather twice than never.
                await self.store.audit.append(
                    scope.company_id,
                    "integration.rotation_due",
                    integration=row["id"],
                    version=row["version"],
                    days=row["age"],
                    period=row["rotate_every"],
                )

    async def _judge_ends(self, scope: CompanyScope) -> None:
        async with scope.transaction() as tx:
            rows = await tx.all("upkeep_endings", most=MOST_ROWS)
        for row in rows:
            with contextlib.suppress(CompanyAgentsError):
                status, reason, hint = self._judged(row)
                await self.refresher.attempts.statuses.seen(
                    scope, row["id"], row["version"], status, reason, hint, seen_by="refresh"
                )

    def _judged(self, row: dict[str, Any]) -> tuple[str, str, str]:
        title = row["provider"]
        with contextlib.suppress(CompanyAgentsError):
            title = self.providers.get(title).title
        if row["ended"]:
            return (
                NEEDS_ATTENTION,
                f"the consent has ended: {said_of(row['ends_because'], title, row['ends_at'])}",
                ASK_AGAIN,
            )
        if row["dead"]:
            return NEEDS_ATTENTION, f"its token has ended, and {title} has given no new one yet", ""
        if row["soon"]:
            return EXPIRING, said_of(row["ends_because"], title, row["ends_at"]), ASK_AGAIN
        return CONNECTED, "", ""

    async def _probe(self, scope: CompanyScope, every: timedelta) -> None:
        room = MOST_PROBES - len(self._probing)
        async with scope.transaction() as tx:
            await tx.run("probe_plan", every=every)
            rows = await tx.all("probe_claim", every=every, most=room) if room > 0 else []
        for row in rows:
            task = asyncio.create_task(self._probed(scope, row["id"]), name="probe")
            self._probing.add(task)
            task.add_done_callback(self._probing.discard)

    async def _probed(self, scope: CompanyScope, integration_id: UUID) -> None:
        try:
            await self.checks.check(scope, integration_id)
        except CompanyAgentsError as error:
            # It says nothing of the credential; the next one may.
            log.info("a probe brought nothing: %s", error.reason)
        except Exception as error:
            log.error("a probe failed: %s", type(error).__name__)

    async def _over_and_over(
        self, work: Callable[[], Awaitable[Any]], rest: Callable[[Any], Coroutine[Any, Any, None]]
    ) -> None:
        while True:
            found: Any = None
            try:
                found = await work()
            except Exception as error:
                # A database that is away for a moment, as a rule.
                log.warning("what is due could not be looked for: %s", type(error).__name__)
            await rest(found)

    async def _rested(self, begun: int | None) -> None:
        """Until there may be something to begin: after a while, or, where all of the room was used, once some is free."""
        self._freed.clear()
        if begun:
            # Several at once: each look costs a few statements.
            until = time.monotonic() + self.tick
            while len(self._busy) > self.most // 2 and (left := until - time.monotonic()) > 0:
                self._freed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._freed.wait(), left)
            return
        await asyncio.sleep(self.tick)

    async def _swept(self, _: None) -> None:
        await asyncio.sleep(self.sweep)
