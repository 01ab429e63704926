"""
One message to one webhook: signed, sent, and what came of it written down.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.companies.scope import CompanyScope
from company_agents.errors import CompanyAgentsError, Sealed
from company_agents.outgoing.exchange import Exchange
from company_agents.outgoing.receiver import Sent, judged
from company_agents.outgoing.standard_webhooks import Held
from company_agents.secret_store.store import SecretStore

# How long a receiver has to answer, and how long nobody else sends what was claimed (seconds).
SEND_TIME = 15.0
CLAIM_TIME = 40.0
# How long after each failure it is tried again (seconds): Standard Webhooks, "Delivery and retries". The last is repeated.
SCHEDULE = (5, 300, 1800, 7200, 18000, 36000)
JITTER = 0.2
# A webhook that takes nothing for so long is disabled, and a message that is not taken for so long is given up; neither
# before so many attempts of one message: for some of that time there may have been nobody who sent.
PATIENCE = timedelta(days=5)
LEAST_ATTEMPTS = 3
GONE = 410

__all__ = ["CLAIM_TIME", "SCHEDULE", "SEND_TIME", "Delivery", "Sender", "Sent", "wait_after"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that was claimed to be sent; `attempts` has this one counted."""

    id: UUID
    webhook_id: UUID
    claim: UUID
    message_id: str
    type: str
    payload: str
    attempts: int
    first_tried_at: datetime | None = None


@dataclass(frozen=True)
class Sender:
    """Sends what was claimed."""

    store: SecretStore
    audit: AuditLog
    exchange: Exchange

    async def deliver(self, scope: CompanyScope, delivery: Delivery, *, once: bool = False) -> Sent:
        """
        Send a message and write down what came of it; `once`: it is not tried again.

        Raises:
            Sealed: the instance is sealed; the claim ends by itself.
            Unavailable: what came of it could not be written down. Then it is sent again, under the same id.
        """
        sent = await self._send(scope, delivery)
        if sent.delivered:
            await self._end(scope, delivery, sent, "delivered", 0)
            return sent
        tried_for = datetime.now(UTC) - (delivery.first_tried_at or datetime.now(UTC))
        over = tried_for >= PATIENCE and delivery.attempts >= LEAST_ATTEMPTS
        state = "given up" if once or over else "waiting"
        wait = max(wait_after(delivery.attempts), sent.retry_after)
        await self._end(scope, delivery, sent, state, wait, once=once)
        return sent

    async def _send(self, scope: CompanyScope, delivery: Delivery) -> Sent:
        try:
            sealed = await self.store.open_own(scope, f"webhook/{delivery.webhook_id}")
            if sealed is None:
                return Sent(None, "the webhook is not there any more")
            held = Held.from_sealed(sealed)
            body = delivery.payload.encode()
            signed = held.signed(delivery.message_id, datetime.now(UTC), body)
            answer = await self.exchange.send(
                "POST", held.url, headers=signed, body=body, allow_private=held.allow_private
            )
        except Sealed:
            raise
        except CompanyAgentsError as error:
            return Sent(None, error.sentence)
        return judged(answer)

    async def _end(
        self, scope: CompanyScope, delivery: Delivery, sent: Sent, state: str, wait: float, *, once: bool = False
    ) -> None:
        async with scope.transaction() as tx:
            # First the webhook, then what is sent to it: in one order with whoever deletes it.
            row = await tx.one("webhook_hold", id=delivery.webhook_id)
            if row is None:
                return
            ended = await tx.run(
                "delivery_ended",
                id=delivery.id,
                claim=delivery.claim,
                state=state,
                wait=wait,
                answer=sent.answer,
                error=sent.error[:500],
            )
            if not ended:
                # Another has it by now: what it says is newer.
                return
            if sent.delivered:
                await tx.run("webhook_succeeded", id=delivery.webhook_id)
                return
            gone, for_long = sent.answer == GONE, False
            if not once:
                # A message that somebody asked for, to see whether it arrives, says nothing of the events.
                seconds = PATIENCE.total_seconds()
                failed = await tx.one(
                    "webhook_failed", id=delivery.webhook_id, seconds=seconds, attempts=LEAST_ATTEMPTS
                )
                for_long = failed is not None and failed["for_long"]
            if row["status"] != "enabled" or not (gone or for_long):
                return
            reason = "the receiver says that it is gone (410)" if gone else f"nothing arrived for {PATIENCE.days} days"
            if await tx.run("webhook_disable", id=delivery.webhook_id, reason=reason):
                facts = {"webhook": delivery.webhook_id, "reason": reason}
                await self.audit.append(scope.company_id, "webhook.disabled", **facts)


def wait_after(attempts: int) -> float:
    """Seconds until the next attempt, after so many: as the schedule says, spread."""
    planned = SCHEDULE[min(max(attempts, 1), len(SCHEDULE)) - 1]
    return planned * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 — nothing hangs on its being unguessable
