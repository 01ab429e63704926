"""
The background of webhooks: audit events become deliveries as the chains grow, and deliveries that are due are sent. Every
orchestrator does it; where the chains were read up to, and who has a delivery, stands in the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from company_agents.companies.scope import CompanyScope
from company_agents.db.database import Row
from company_agents.ending import ended
from company_agents.errors import CompanyAgentsError, Sealed
from company_agents.outbox import events
from company_agents.outbox.sending import CLAIM_TIME, Delivery, Sender
from company_agents.outbox.webhooks import Webhooks, queue, retire_previous

# Seconds between two looks, and between two removals of what is old.
EVERY = 1.0
FORGET_EVERY = 3600.0
# Sent at once: to one webhook, so that one that hangs takes nothing from the others, and to all.
AT_ONCE = 4
MOST_AT_ONCE = 64
# As many events are made deliveries in one transaction.
BATCH = 200
# As many deliveries are removed in one transaction.
FORGET = 1000

log = logging.getLogger(__name__)


@dataclass
class Deliverer:
    """Runs between `start` and `close`; under a seal it does nothing."""

    webhooks: Webhooks
    sender: Sender
    _loop: asyncio.Task[None] | None = None
    _sending: set[asyncio.Task[None]] = field(default_factory=set)
    _busy: Counter[UUID] = field(default_factory=Counter)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _forgot_at: float = float("-inf")

    def start(self) -> None:
        """Look, again and again, for what is to be sent."""
        self._loop = asyncio.create_task(self._run(), name="webhooks")

    async def close(self) -> None:
        """Stop. What was being sent is sent again by whoever runs next, under the same id."""
        await ended(*self._sending, *([self._loop] if self._loop else []))

    async def idle(self) -> None:
        """Wait until nothing is on its way."""
        while self._sending:
            await asyncio.wait(self._sending)

    def stop_sending(self) -> None:
        """The instance was sealed: what is on its way ends now."""
        for task in self._sending:
            task.cancel()

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception as error:
                # A database that is away for a moment; nothing is lost by looking later.
                log.warning("webhooks could not be looked after: %s", _said(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await self._wake.wait()
            self._wake.clear()

    async def look(self) -> None:
        """Once: read the chains, and begin to send what is due."""
        if self.webhooks.store.keys.sealed:
            return
        end = await self.webhooks.instance_end()
        for row in await self.webhooks.db.call("webhooks_due", (end,)):
            with _passed_over("the webhooks of a company"):
                await self._look_after(CompanyScope(row["company_id"], self.webhooks.db), end)
        if time.monotonic() - self._forgot_at >= FORGET_EVERY:
            self._forgot_at = time.monotonic()
            await self._forget()

    async def _look_after(self, scope: CompanyScope, end: int) -> None:
        async with scope.transaction() as tx:
            retiring = await tx.all("webhooks_retiring")
            rows = await tx.all("webhooks_behind")
        for row in retiring:
            with _passed_over(f"the previous secret of the webhook {row['id']}"):
                await retire_previous(self.webhooks.store, scope, row["id"])
        for row in rows:
            with _passed_over(f"the webhook {row['id']}"):
                if row["seq"] < row["head"] or row["instance_seq"] < end:
                    await self._gather(scope, row, end)
                await self._claim(scope, row["id"])

    async def _forget(self) -> None:
        """Remove what ended long ago, also of companies for which there is nothing else to do."""
        for row in await self.webhooks.db.call("deliveries_old", ()):
            with _passed_over("what ended long ago of a company"):
                scope, removed = CompanyScope(row["company_id"], self.webhooks.db), FORGET
                while removed == FORGET:
                    async with scope.transaction() as tx:
                        removed = await tx.run("deliveries_forget", limit=FORGET)

    async def _gather(self, scope: CompanyScope, row: Row, end: int) -> None:
        """Make deliveries of the events that a webhook wants, and move on past them, in one transaction."""
        of_instance = [name for name in row["events"] if name in events.KINDS and events.KINDS[name].of_instance]
        of_company = [name for name in row["events"] if name in events.KINDS and name not in of_instance]
        instance = self.webhooks.instance_id
        async with self.webhooks.db.transaction(None) as tx:
            found, instance_seq = await _wanted(tx, instance, row["instance_seq"], end, of_instance)
        messages = _messages(found, of_instance, instance, scope.company_id)
        async with scope.transaction() as tx:
            found, seq = await _wanted(tx, scope.company_id, row["seq"], row["head"], of_company)
            messages += _messages(found, of_company, scope.company_id, scope.company_id)
            moved = await tx.run(
                "webhook_move",
                id=row["id"],
                seq=seq,
                instance_seq=instance_seq,
                from_seq=row["seq"],
                from_instance_seq=row["instance_seq"],
            )
            for message in messages if moved else ():
                await queue(tx, row["id"], message)
        if seq < row["head"]:
            self._wake.set()

    async def _claim(self, scope: CompanyScope, webhook_id: UUID) -> None:
        room = min(AT_ONCE - self._busy[webhook_id], MOST_AT_ONCE - len(self._sending))
        if room <= 0:
            return
        claim = uuid4()
        async with scope.transaction() as tx:
            rows = await tx.all("delivery_claim", webhook_id=webhook_id, claim=claim, seconds=CLAIM_TIME, limit=room)
        for row in rows:
            self._busy[webhook_id] += 1
            task = asyncio.create_task(self._send(scope, Delivery(claim=claim, **row)))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, scope: CompanyScope, delivery: Delivery) -> None:
        try:
            await self.sender.deliver(scope, delivery)
        except Sealed:
            return
        except Exception as error:
            log.warning("what became of a webhook's message could not be written: %s", _said(error))
        finally:
            self._busy[delivery.webhook_id] -= 1
            if not self._busy[delivery.webhook_id]:
                del self._busy[delivery.webhook_id]
            # There may be more that waited for its turn.
            self._wake.set()


@contextlib.contextmanager
def _passed_over(what: str) -> Iterator[None]:
    """One that is amiss, for whatever reason, is no reason to leave those after it without."""
    try:
        yield
    except Exception as error:
        log.warning("%s could not be looked after: %s", what, _said(error))


async def _wanted(tx: Any, chain: UUID, after: int, end: int, kinds: list[str]) -> tuple[list[Row], int]:
    """The events of these kinds after one and up to an end, and up to which of them that is."""
    if not kinds or after >= end:
        return [], max(after, end)
    patterns = [events.pattern(kind) for kind in kinds]
    found = await tx.all("audit_wanted", chain=chain, after=after, upto=end, patterns=patterns, limit=BATCH)
    return found, found[-1]["seq"] if len(found) == BATCH else end


def _messages(rows: list[Row], kinds: list[str], chain: UUID, company_id: UUID) -> list[events.Message]:
    found = ((events.kind_of(row["record"], kinds), row) for row in rows)
    return [events.message(kind, chain, company_id, row["seq"], row["record"]) for kind, row in found if kind]


def _said(error: Exception) -> str:
    # What a foreign exception says of itself may hold anything.
    return error.sentence if isinstance(error, CompanyAgentsError) else type(error).__name__
