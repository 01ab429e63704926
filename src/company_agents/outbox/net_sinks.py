"""
Sinks on a network: how far a chain has left stands in the database. While it is written by one orchestrator, its row there is
held, so that no other writes it too; where that one dies, the row is free, and what was not confirmed is sent again.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

from company_agents.audit.log import SinkDown
from company_agents.db.database import Row, Tx
from company_agents.errors import CompanyAgentsError
from company_agents.outbox.source import Left, Part, Source
from company_agents.outgoing.exchange import Exchange
from company_agents.outgoing.standard_webhooks import headers, signed_text


class Transport(Protocol):
    """Hands the lines of a part to the other side."""

    async def send(self, part: Part) -> None: ...
    async def close(self) -> None: ...


class NetSink:
    """A sink that is written over a connection."""

    def __init__(self, source: Source, sink_id: str, transport: Transport) -> None:
        self._source = source
        self._id = sink_id
        self._transport = transport

    async def behind(self, ends: list[Row]) -> set[UUID]:
        """The chains of which something is to leave."""
        return {row["chain"] for row in ends if row["sent"] != row["seq"]}

    async def ship(self, chains: Iterable[UUID]) -> tuple[dict[UUID, int], set[UUID]]:
        """
        Send what is to leave of these chains. Returns up to which event each has left, and those of which there is more, or
        which another orchestrator is sending just now.

        Raises:
            SinkDown: it could not be sent; what was confirmed before stays so.
        """
        reached: dict[UUID, int] = {}
        more: set[UUID] = set()
        for chain in sorted(chains):
            async with self._source.db.transaction(self._source.scope(chain)) as tx:
                left, held = await self._hold(tx, chain)
                part = await self._source.part(tx, chain, left) if held else None
                if part is not None:
                    await self._transport.send(part)
                    await tx.run("audit_sink_moved", sink=self._id, chain=chain, seq=part.end.seq, mac=part.end.mac)
                    left = part.end
            # Once it is committed: not before is it certain that nobody sends it again behind what comes next.
            reached[chain] = left.seq
            if not held or (part is not None and part.more):
                more.add(chain)
        return reached, more

    async def close(self) -> None:
        """Close the connection."""
        await self._transport.close()

    async def _hold(self, tx: Tx, chain: UUID) -> tuple[Left, bool]:
        # An orchestrator that stands still while it holds the row loses it.
        await tx.run("audit_sink_hold_time")
        given = {"sink": self._id, "chain": chain}
        row = await tx.one("audit_sink_cursor", **given)
        if row is None:
            await tx.run("audit_sink_begin", **given)
        row = await tx.one("audit_sink_hold", **given)
        if row is not None:
            return Left(row["seq"], bytes(row["mac"])), True
        row = await tx.one("audit_sink_cursor", **given)
        return (Left(row["seq"], bytes(row["mac"])) if row else Left()), False


class Receiver:
    """
    A webhook that gets the lines as they would stand in a file. Signed by Standard Webhooks with the head key (`v1a`), so that
    there is no secret to be shared.
    """

    def __init__(self, source: Source, exchange: Exchange, url: str) -> None:
        self._source = source
        self._exchange = exchange
        self._url = url

    async def send(self, part: Part) -> None:
        """
        Raises:
            SinkDown: the receiver did not take it.
        """
        body = "".join(part.lines).encode()
        message_id, timestamp = _message_id(part), int(datetime.now(UTC).timestamp())
        _, sign = await self._source.head_keys.newest()
        signature = "v1a," + base64.b64encode(sign(signed_text(message_id, timestamp, body))).decode()
        sent = {**headers(message_id, timestamp, [signature]), "Content-Type": "application/x-ndjson"}
        try:
            answer = await self._exchange.send("POST", self._url, headers=sent, body=body, allow_private=True)
        except CompanyAgentsError as error:
            raise SinkDown(f"an audit sink cannot be written: {error.sentence}") from error
        if not 200 <= answer.status < 300:
            raise SinkDown(f"an audit sink cannot be written: its receiver answered {answer.status}")

    async def close(self) -> None:
        """Nothing is kept open."""


def _message_id(part: Part) -> str:
    text = f"{part.chain} {part.first} {part.end.seq} {part.end.mac.hex()}"
    return "aud_" + hashlib.sha256(text.encode()).hexdigest()[:32]
