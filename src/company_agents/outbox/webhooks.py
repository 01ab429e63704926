"""
A company's webhooks: create, look at, rotate the secret, try, enable, delete.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from company_agents.audit.log import AuditLog
from company_agents.companies.scope import CompanyScope
from company_agents.db.database import Database, Tx
from company_agents.errors import Conflict, NotFound, WrongUsage
from company_agents.identity.paging import Page, cursor_params, page
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.outbox import events
from company_agents.outbox.sending import CLAIM_TIME, Delivery, Sender
from company_agents.outgoing.receiver import MOST_URL, Sent, check_url, host_of
from company_agents.outgoing.standard_webhooks import OVERLAP, Held, new_secret
from company_agents.secret_store.store import SecretStore
from company_agents.sensitive import Sensitive

__all__ = ["MOST_URL", "MOST_WEBHOOKS", "Attempted", "Webhook", "Webhooks", "queue", "retire_previous", "secret_name"]

MOST_WEBHOOKS = 20
MOST_DELIVERIES = 100


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where a company's events go to, and how that is: everything but the secret."""

    id: UUID
    company_id: UUID
    url: str
    events: list[str]
    status: str
    status_reason: str
    status_since: datetime
    failing_since: datetime | None
    waiting: int
    previous_until: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Attempted:
    """An event for a webhook, and what became of it."""

    id: UUID
    message_id: str
    type: str
    state: str
    attempts: int
    due_at: datetime
    tried_at: datetime | None
    answer: int | None
    error: str
    created_at: datetime


@dataclass(frozen=True)
class Webhooks:
    """The webhooks of a caller's company."""

    db: Database
    store: SecretStore
    audit: AuditLog
    sender: Sender = field(repr=False)
    instance_id: UUID

    async def create(
        self, caller: Caller, url: str, wanted: Sequence[str], *, allow_private_network: bool = False
    ) -> tuple[Webhook, Sensitive]:
        """
        Register an address for events from now on. Returns it with its signing secret, which is not shown again.

        Raises:
            WrongUsage: an address that will not do, or an event that there is not.
            Conflict: the company has as many as it may.
        """
        caller.require(Permission.WEBHOOK_MANAGE)
        checked = check_url(url, allow_private=allow_private_network)
        kinds = _known(wanted)
        secret, webhook_id = new_secret(), uuid4()
        held = Held(checked, allow_private_network, secret)
        instance_seq = await self.instance_end()
        async with caller.scope.transaction() as tx:
            counted = await tx.one("webhook_count")
            if counted is not None and counted["webhooks"] >= MOST_WEBHOOKS:
                raise Conflict(
                    f"a company has {MOST_WEBHOOKS} webhooks at most", hint="delete one that is not needed any more"
                )
            await tx.run(
                "webhook_insert",
                id=webhook_id,
                company_id=caller.scope.company_id,
                # For people. The query may hold a token of the receiver, and what is obeyed is sealed.
                url=checked.partition("?")[0],
                events=kinds,
                secret_id=await self.store.put(tx, secret_name(webhook_id), held.to_sealed()),
                instance_seq=instance_seq,
            )
            await self._record(caller, "webhook.created", webhook_id, host=host_of(checked), events=kinds)
        return await self.get(caller, webhook_id), secret

    async def list(self, caller: Caller, after: str | None = None, limit: int = 50) -> Page[Webhook]:
        """The webhooks of the company, oldest first."""
        caller.require(Permission.WEBHOOK_READ)
        params = cursor_params(after, limit)
        async with caller.scope.transaction() as tx:
            rows = await tx.all("webhook_list", **params)
        return page([Webhook(**row) for row in rows], limit)

    async def get(self, caller: Caller, webhook_id: UUID) -> Webhook:
        """
        Raises:
            NotFound: no such webhook in this company.
        """
        caller.require(Permission.WEBHOOK_READ)
        async with caller.scope.transaction() as tx:
            row = await tx.one("webhook_get", id=webhook_id)
        if row is None:
            raise _unknown()
        return Webhook(**row)

    async def deliveries(self, caller: Caller, webhook_id: UUID, limit: int = 20) -> Sequence[Attempted]:
        """
        The newest events for a webhook, and what became of each.

        Raises:
            NotFound: no such webhook in this company.
        """
        await self.get(caller, webhook_id)
        async with caller.scope.transaction() as tx:
            rows = await tx.all("delivery_list", webhook_id=webhook_id, limit=min(limit, MOST_DELIVERIES))
        return [Attempted(**row) for row in rows]

    async def rotate_secret(self, caller: Caller, webhook_id: UUID) -> tuple[Webhook, Sensitive]:
        """
        Give it a new signing secret, which is not shown again. The present one signs beside it for a day, one before
        that no more.

        Raises:
            NotFound: no such webhook in this company.
        """
        caller.require(Permission.WEBHOOK_MANAGE)
        secret, until = new_secret(), datetime.now(UTC) + OVERLAP
        async with caller.scope.transaction() as tx:
            await _held(tx, webhook_id)
            sealed = await tx.one("secret_by_name", company_id=tx.company_id, name=secret_name(webhook_id))
            if sealed is None:
                raise _unknown()
            held = Held.from_sealed(await self.store.open_row(sealed))
            await self.store.replace(tx, secret_name(webhook_id), held.rotated(secret, until).to_sealed())
            await tx.run("webhook_rotated", id=webhook_id, previous_until=until)
            await self._record(caller, "webhook.secret_rotated", webhook_id, previous_until=until.isoformat())
        return await self.get(caller, webhook_id), secret

    async def enable(self, caller: Caller, webhook_id: UUID) -> Webhook:
        """
        Send again to one that was disabled: what waits at once, then what happened meanwhile.

        Raises:
            NotFound: no such webhook in this company.
        """
        caller.require(Permission.WEBHOOK_MANAGE)
        async with caller.scope.transaction() as tx:
            await _held(tx, webhook_id)
            await tx.run("webhook_enable", id=webhook_id)
            await self._record(caller, "webhook.enabled", webhook_id)
        return await self.get(caller, webhook_id)

    async def delete(self, caller: Caller, webhook_id: UUID) -> None:
        """
        Delete it with its secret and what waits for it.

        Raises:
            NotFound: no such webhook in this company.
        """
        caller.require(Permission.WEBHOOK_MANAGE)
        async with caller.scope.transaction() as tx:
            held = await _held(tx, webhook_id)
            await tx.run("webhook_delete", id=webhook_id)
            await self.store.delete(tx, held["secret_id"])
            await self._record(caller, "webhook.deleted", webhook_id)

    async def test(self, caller: Caller, webhook_id: UUID) -> Sent:
        """
        Send a signed message now, once, also to one that is disabled. Returns what was answered.

        Raises:
            NotFound: no such webhook in this company.
        """
        caller.require(Permission.WEBHOOK_MANAGE)
        webhook = await self.get(caller, webhook_id)
        claim, delivery_id = uuid4(), uuid4()
        data = {"company": str(webhook.company_id), "webhook": str(webhook.id)}
        message = events.Message(
            f"evt_{secrets.token_hex(16)}",
            events.TEST,
            events.payload(events.TEST, datetime.now(UTC).isoformat(), data),
        )
        await self._record(caller, "webhook.tested", webhook_id, host=host_of(webhook.url))
        async with caller.scope.transaction() as tx:
            await queue(tx, webhook_id, message, delivery_id=delivery_id, claim=claim)
        delivery = Delivery(delivery_id, webhook_id, claim, message.id, message.type, message.payload, 1)
        return await self.sender.deliver(caller.scope, delivery, once=True)

    async def company_of(self, webhook_id: UUID) -> UUID:
        """
        In which company a webhook is. For the command line: it sees all companies.

        Raises:
            NotFound: there is no such webhook.
        """
        async with self.db.instance_transaction() as tx:
            row = await tx.one("locate_webhook", id=webhook_id)
        if row is None:
            raise _unknown()
        company_id: UUID = row["company_id"]
        return company_id

    async def instance_end(self) -> int:
        """The number of the newest event of the instance."""
        async with self.db.transaction(None) as tx:
            row = await tx.one("audit_head", chain=self.instance_id)
        return int(row["seq"]) if row else 0

    async def _record(self, caller: Caller, action: str, webhook_id: UUID, **facts: Any) -> None:
        await self.audit.append(caller.scope.company_id, action, actor=caller.label, webhook=webhook_id, **facts)


def secret_name(webhook_id: UUID) -> str:
    """What the sealed secret of a webhook is called."""
    return f"webhook/{webhook_id}"


async def queue(
    tx: Tx,
    webhook_id: UUID,
    message: events.Message,
    *,
    delivery_id: UUID | None = None,
    claim: UUID | None = None,
) -> None:
    """Put a message where it waits for a webhook; with a claim, whoever has it sends it."""
    await tx.run(
        "delivery_insert",
        id=delivery_id or uuid4(),
        company_id=tx.company_id,
        webhook_id=webhook_id,
        message_id=message.id,
        type=message.type,
        payload=message.payload,
        claim=claim,
        claim_seconds=CLAIM_TIME if claim else 0,
    )


async def retire_previous(store: SecretStore, scope: CompanyScope, webhook_id: UUID) -> None:
    """
    Forget the secret of a webhook that signed beside a newer one long enough.

    Raises:
        CompanyAgentsError: it cannot be opened, or not now.
    """
    async with scope.transaction() as tx:
        row = await tx.one("webhook_hold", id=webhook_id)
        if row is None or not row["retiring"]:
            # It was deleted or rotated meanwhile, or another orchestrator was faster.
            return
        sealed = await tx.one("secret_by_name", company_id=tx.company_id, name=secret_name(webhook_id))
        if sealed is not None:
            held = Held.from_sealed(await store.open_row(sealed))
            await store.replace(tx, secret_name(webhook_id), held.alone().to_sealed())
        await tx.run("webhook_rotated", id=webhook_id, previous_until=None)


def _known(wanted: Sequence[str]) -> list[str]:
    unknown = [name for name in wanted if name not in events.KINDS]
    if unknown or not wanted:
        raise WrongUsage(
            "there is no such event" if unknown else "name at least one event",
            hint="there are " + ", ".join(events.KINDS),
        )
    return list(dict.fromkeys(wanted))


async def _held(tx: Tx, webhook_id: UUID) -> dict[str, Any]:
    row = await tx.one("webhook_hold", id=webhook_id)
    if row is None:
        raise _unknown()
    return row


def _unknown() -> NotFound:
    return NotFound("this webhook does not exist", hint="`company-agents webhook list --company ID` shows them")
