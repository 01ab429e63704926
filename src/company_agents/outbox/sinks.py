"""
Every sink of an orchestrator, as the audit log knows them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID

from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Principal
from company_agents.outbox.addresses import FILE, WEBHOOK, SinkAddress
from company_agents.outbox.file_sink import FileSink
from company_agents.outbox.net_sinks import NetSink, Receiver
from company_agents.outbox.shipper import Shipper, Sink
from company_agents.outbox.source import Source
from company_agents.outbox.syslog import Syslog
from company_agents.outgoing.exchange import Exchange


@dataclass(frozen=True, slots=True)
class SinkState:
    """How a sink is, as the orchestrator says that wrote to it last."""

    address: str
    required: bool
    written_at: datetime | None
    problem: str


@dataclass
class Sinks:
    """
    Those of the setting. A process that lives only for one command sends what it must before a credential is used, and
    leaves the rest to the orchestrators.
    """

    source: Source
    addresses: tuple[SinkAddress, ...]
    exchange: Exchange
    ca_file: Path | None
    _shippers: list[Shipper] = field(default_factory=list)

    def start(self, *, long_lived: bool) -> None:
        """Begin to send."""
        for address in self.addresses:
            if long_lived or address.required:
                shipper = Shipper(self.source, address, self._sink(address))
                self._shippers.append(shipper)
                shipper.start()

    async def close(self) -> None:
        """Send what is still to leave, if that is soon, and stop."""
        shippers, self._shippers = self._shippers, []
        await asyncio.gather(*(shipper.close() for shipper in shippers))

    @property
    def active(self) -> bool:
        """Whether anything is sent by this process."""
        return bool(self._shippers)

    @property
    def required(self) -> bool:
        """Whether a use of a credential waits until its event is out."""
        return any(shipper.address.required for shipper in self._shippers)

    def grown(self, chains: Iterable[UUID]) -> None:
        """These chains have new events."""
        for shipper in self._shippers:
            shipper.grown(chains)

    async def out(self, chain: UUID, seq: int) -> None:
        """
        Wait until an event is out at every sink that is required.

        Raises:
            SinkDown: one of them cannot be written.
        """
        waiting = [shipper.reached(chain, seq) for shipper in self._shippers if shipper.address.required]
        if len(waiting) == 1:
            await waiting[0]
        elif waiting:
            await asyncio.gather(*waiting)

    async def states(self, principal: Principal) -> list[SinkState]:
        """How each sink is."""
        principal.require(Permission.INSTANCE_AUDIT)
        async with self.source.db.transaction(None) as tx:
            rows = {row["sink"]: row for row in await tx.all("audit_sinks_all")}
        return [
            SinkState(
                address.shown,
                address.required,
                rows[address.id]["written_at"] if address.id in rows else None,
                rows[address.id]["problem"] if address.id in rows else "nothing was written to it yet",
            )
            for address in self.addresses
        ]

    def _sink(self, address: SinkAddress) -> Sink:
        if address.kind == FILE:
            return FileSink(self.source, address.path)
        if address.kind == WEBHOOK:
            return NetSink(self.source, address.id, Receiver(self.source, self.exchange, address.address))
        return NetSink(self.source, address.id, Syslog(address, self.ca_file))
