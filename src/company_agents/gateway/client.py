"""
The two ends of a client's connection: the body of its request as it comes, and the moment in which it has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Bytes of a body of known length that is taken whole: such a call can be made again, as when its credential was just renewed.
TAKEN_WHOLE = 1024 * 1024

# Seconds of a call in which nobody looks whether its client is still there.
UNWATCHED = 0.05


class HasGone(Exception):
    """The client has hung up."""


class Client:
    """
    One request's client. Whoever has read its body begins to watch for its end; until then, the body's end says so.
    """

    def __init__(self, headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> None:
        self._receive = receive
        # Bytes of the body, where that is said; else it comes in chunks, or there is none.
        self.length: int | None = None
        self._chunked = False
        for name, value in headers:
            if name == b"content-length":
                self.length = int(value)
            elif name == b"transfer-encoding":
                self._chunked = True
        self._watching: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._call = asyncio.current_task()
        # Whether all of the body is here, whether an answer is complete, and whether there is nobody to give one to.
        self.is_read = not self._chunked and not self.length
        self.is_answered = False
        self.has_gone = False

    async def body(self) -> bytes | AsyncIterator[bytes]:
        """
        The body: as bytes where it is short or here already, else as a stream that waits for whoever reads it.

        Raises:
            HasGone: before it was here.
        """
        length = self.length
        if self.is_read:
            self._watch()
            return b""
        if length is not None and length > TAKEN_WHOLE:
            return self._stream(None)
        first = await self._next()
        if length is None and first.get("more_body"):
            return self._stream(first)
        body = [first.get("body", b"")]
        while first.get("more_body"):
            first = await self._next()
            body.append(first.get("body", b""))
        self._watch()
        return body[0] if len(body) == 1 else b"".join(body)

    async def _stream(self, first: Message | None) -> AsyncIterator[bytes]:
        message = first or await self._next()
        while True:
            if piece := message.get("body"):
                yield piece
            if not message.get("more_body"):
                break
            message = await self._next()
        self._watch()

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.has_gone = True
            raise HasGone
        return message

    def _watch(self) -> None:
        self.is_read = True
        # Most calls are over by then, and a task costs more than a timer.
        self._timer = asyncio.get_running_loop().call_later(UNWATCHED, self._begin)

    def _begin(self) -> None:
        self._watching = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self.is_answered and self._call is not None:
            self.has_gone = True
            self._call.cancel()

    def close(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()
