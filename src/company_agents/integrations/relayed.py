"""
A reply on its way to the caller.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID

from multidict import CIMultiDictProxy

from company_agents.integrations.approval_forms import KeptReply
from company_agents.integrations.provider import Provider
from company_agents.integrations.spending import Tally
from company_agents.integrations.streams import Hold
from company_agents.outgoing.destination import Destination
from company_agents.outgoing.reply import StreamedReply

# Bytes of a reply that are read before it is passed on, where they may say that the credential is refused.
LOOKED_AT = 64 * 1024


@dataclass
class Relayed:
    """
    A reply on its way to the caller. Its body is read once, and is whole when `body` ends; what was read of it before,
    to see what it says of the credential, comes first.
    """

    integration_id: UUID
    provider: Provider
    destination: Destination
    reply: StreamedReply | KeptReply
    costs: Tally | None = None
    hold: Hold | None = None
    size: int = 0
    # Whether the last byte was read.
    ended: bool = False
    _first: list[bytes] = field(default_factory=list)
    _rest: AsyncIterator[bytes] | None = None

    @property
    def status(self) -> int:
        """The status of HTTP."""
        return self.reply.status

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The headers that are for the caller, searched."""
        return self.reply.headers

    @property
    def has_arrived(self) -> bool:
        """Whether all of the body is here, so that reading it waits for nobody."""
        return not isinstance(self.reply, StreamedReply) or self.reply.has_arrived

    @property
    def length(self) -> int | None:
        """To HEAD: how many bytes GET would have, where that is known."""
        return self.reply.length if isinstance(self.reply, StreamedReply) else None

    async def body(self) -> AsyncIterator[bytes]:
        """
        The body, decoded and searched, in pieces.

        Raises:
            Refused: it is larger than the limit, or not what its content encoding says.
            Refused: whoever asked for it is no longer allowed to (`stream_cut`).
            Unavailable: it broke off.
        """
        while self._first:
            yield self._first.pop(0)
        async for piece in self._pieces():
            yield piece

    async def whole(self) -> bytes:
        """
        All of the body.

        Raises: like `body`.
        """
        return b"".join([piece async for piece in self.body()])

    async def beginning(self) -> bytes:
        """What comes first of the body, as far as it is looked at; `body` gives it all the same."""
        taken = sum(map(len, self._first))
        while taken < LOOKED_AT and (piece := await anext(self._pieces(), None)) is not None:
            self._first.append(piece)
            taken += len(piece)
        return b"".join(self._first)

    def _pieces(self) -> AsyncIterator[bytes]:
        if self._rest is None:
            self._rest = self._read()
        return self._rest

    async def _read(self) -> AsyncIterator[bytes]:
        async for piece in self.reply.body():
            if self.hold is not None and self.hold.must_ask:
                await self.hold.go_on()
            self.size += len(piece)
            if self.costs is not None:
                self.costs.feed(piece)
            yield piece
        if self.costs is not None:
            # Before whoever reads knows that this was all: their next call is compared with what this one cost.
            await self.costs.ended()
        self.ended = True
