"""
A WebSocket to a provider: opened with the credential like any other call, and each message searched before it is released.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from company_agents.errors import Refused, Unavailable
from company_agents.outgoing.failures import FOREIGN, explain
from company_agents.outgoing.reply import Explain, StreamedReply
from company_agents.outgoing.reply_search import Patterns, Searcher

# Seconds between two signs of life that the provider is asked for; and that its good-bye is waited for.
BEAT = 30.0
GOOD_BYE = 2.0

# What may stand in a closing frame (RFC 6455, 7.4, and the registry of IANA).
_CODES = frozenset({*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)})
_LONGEST_REASON = 123

GOING_AWAY = 1001
NOT_ALLOWED = 1008
TOO_BIG = 1009
BROKE_OFF = 1014


@dataclass(frozen=True, slots=True)
class Closed:
    """The other side has closed, with a code and a reason; `is_whole`: it said so."""

    code: int
    reason: str
    is_whole: bool


def sendable(code: int | None, otherwise: int) -> int:
    """A code as a closing frame may have it: some say only that there was no such frame."""
    return code if code is not None and code in _CODES else otherwise


def fitting(reason: str) -> str:
    """A reason, as long as a closing frame holds it."""
    return reason.encode()[:_LONGEST_REASON].decode(errors="ignore")


class Declined(Exception):
    """The provider did not open a WebSocket, but answered."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        super().__init__("no WebSocket")
        self.response = response


async def never_elsewhere(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """For a session that opens nothing but WebSockets: whatever is answered else, a redirect above all, ends it there."""
    response = await handler(request)
    if response.status != 101:
        raise Declined(response)
    return response


class SocketReply(StreamedReply):
    """
    An open WebSocket: `status` is 101, and there is no body. What comes is searched, message by message: one that is split
    over several cannot be recognised. `protocol` is the subprotocol that the provider chose.
    """

    def __init__(
        self, socket: aiohttp.ClientWebSocketResponse, host: str, patterns: Patterns, limit: int, explain: Explain
    ) -> None:
        self.status = 101
        self.headers = CIMultiDictProxy(CIMultiDict())
        self.protocol = socket.protocol
        self._socket = socket
        self._host = host
        self._most = limit
        self._explain = explain
        self._searcher = Searcher(patterns)
        self._is_left = False

    async def body(self) -> AsyncIterator[bytes]:
        """Nothing."""
        nothing: tuple[bytes, ...] = ()
        for piece in nothing:
            yield piece

    async def receive(self) -> str | bytes | Closed:
        """
        The next message, searched.

        Raises:
            Refused: it is too large to be searched as a whole.
            Unavailable: what came is no WebSocket.
        """
        message = await self._socket.receive()
        if message.type is aiohttp.WSMsgType.TEXT:
            data = message.data.encode()
            clean = self._searcher.scrub(data)
            text: str = message.data
            return text if clean is data else clean.decode(errors="replace")
        if message.type is aiohttp.WSMsgType.BINARY:
            return self._searcher.scrub(message.data)
        if message.type is aiohttp.WSMsgType.CLOSE:
            reason = self._searcher.scrub((message.extra or "").encode()).decode(errors="replace")
            return Closed(sendable(message.data, 1000), fitting(reason), is_whole=True)
        if message.type is aiohttp.WSMsgType.ERROR:
            if isinstance(message.data, aiohttp.WebSocketError) and message.data.code == TOO_BIG:
                raise Refused(f"a message of {self._host} is larger than {self._most} bytes", code="message_too_large")
            raise Unavailable(f"what {self._host} sent is no WebSocket")
        return Closed(GOING_AWAY if self._is_left else BROKE_OFF, "", is_whole=self._is_left)

    async def send(self, message: str | bytes) -> None:
        """
        Send one message; waits while the provider takes no more.

        Raises:
            Unavailable: the connection has ended.
        """
        try:
            if isinstance(message, str):
                await self._socket.send_str(message)
            else:
                await self._socket.send_bytes(message)
        except FOREIGN as exc:
            failure = self._explain(exc)
        else:
            return
        raise failure

    async def close(self, code: int, reason: str = "") -> None:
        """Close, and wait a moment for the other side to do so."""
        self._is_left = True
        await self._socket.close(code=sendable(code, GOING_AWAY), message=fitting(reason).encode())


@asynccontextmanager
async def opened(
    session: aiohttp.ClientSession,
    url: URL,
    headers: CIMultiDict[str],
    protocols: Sequence[str],
    patterns: Patterns,
    *,
    limit: int,
    reply_limit: int,
) -> AsyncIterator[StreamedReply]:
    """
    Ask for a WebSocket with what was decided and dressed before: a `SocketReply`, or what the provider answers instead.

    Args:
        session: one with `never_elsewhere`.
        limit: bytes of a message.
        reply_limit: bytes of the body of another answer.

    Raises:
        Refused, Unavailable: as for any call.
    """
    host = url.host or ""
    # What is compressed with what came before it cannot be searched apart from it.
    asked = session.ws_connect(
        url,
        headers=headers,
        protocols=protocols,
        heartbeat=BEAT,
        compress=0,
        # What reaches it is too large for this library.
        max_msg_size=limit + 1,
        timeout=aiohttp.ClientWSTimeout(ws_close=GOOD_BYE),
    )
    answer = await _answer(asked, host)
    try:
        if isinstance(answer, aiohttp.ClientResponse):
            yield StreamedReply(answer, host, patterns, reply_limit, lambda error: explain(error, host))
        else:
            yield SocketReply(answer, host, patterns, limit, lambda error: explain(error, host))
    finally:
        if isinstance(answer, aiohttp.ClientResponse):
            answer.close()
        else:
            await _left(answer)


async def _answer(
    asked: Awaitable[aiohttp.ClientWebSocketResponse], host: str
) -> aiohttp.ClientWebSocketResponse | aiohttp.ClientResponse:
    try:
        return await asked
    except Declined as declined:
        return declined.response
    except FOREIGN as exc:
        failure = explain(exc, host)
    raise failure


async def _left(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Whoever goes without a word: the provider is told, but not waited for."""
    if not socket.closed:
        try:
            async with asyncio.timeout(0.1):
                await socket.close(code=GOING_AWAY)
        except TimeoutError:
            pass
