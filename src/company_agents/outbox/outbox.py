"""
The parts of the outbox, built together.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.outbox.addresses import read_sinks
from company_agents.outbox.deliverer import Deliverer
from company_agents.outbox.sending import SEND_TIME, Sender
from company_agents.outbox.sinks import Sinks
from company_agents.outbox.source import Source
from company_agents.outbox.webhooks import Webhooks
from company_agents.outgoing.exchange import Exchange
from company_agents.secret_store.head_keys import HeadKeys
from company_agents.secret_store.store import SecretStore
from company_agents.settings import Settings


@dataclass(frozen=True)
class Outbox:
    """What goes out as the audit chains grow."""

    webhooks: Webhooks
    deliverer: Deliverer
    sinks: Sinks
    head_keys: HeadKeys

    def seal(self) -> None:
        """The instance was sealed: nothing goes out from now on."""
        self.head_keys.forget()
        self.deliverer.stop_sending()


@contextlib.asynccontextmanager
async def open_outbox(
    settings: Settings, store: SecretStore, audit: AuditLog, instance_id: UUID, *, long_lived: bool
) -> AsyncIterator[Outbox]:
    """
    The outbox, whose sinks are written from now on; the audit log closes before it. The deliverer is the caller's to start.

    Raises:
        MayNotStart: the setting of the sinks cannot be used.
    """
    head_keys = HeadKeys(store.db, store)
    exchange = Exchange(networks=settings.networks, ca_file=settings.ca_file, call_time=SEND_TIME)
    source = Source(store.db, instance_id, head_keys)
    sinks = Sinks(source, read_sinks(settings.audit_sinks), exchange, settings.ca_file)
    sender = Sender(store, audit, exchange)
    webhooks = Webhooks(store.db, store, audit, sender, instance_id)
    await exchange.start()
    try:
        sinks.start(long_lived=long_lived)
        if sinks.active:
            audit.grown = sinks.grown
        if sinks.required:
            audit.out = sinks.out
        yield Outbox(webhooks, Deliverer(webhooks, sender), sinks, head_keys)
    finally:
        await sinks.close()
        await exchange.close()
