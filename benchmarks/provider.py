"""
A provider that costs next to nothing: it answers from memory, checks the bearer, and streams.

    GET /small          a small JSON object
    GET /stream         server-sent events: the first at once, then one each tenth of a second, three in all
    GET /open           server-sent events: the first at once, and then nothing until the client goes
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys

import uvloop

TOKEN = "bench-token-0123456789"
EVENT = b"d\r\ndata: hello\n\n\r\n"
EVENTS, PAUSE = 3, 0.1
SMALL = json.dumps({"id": "ch_123", "object": "charge", "amount": 1000, "currency": "usd", "paid": True}).encode()
_SMALL = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(SMALL), SMALL)
_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_REFUSED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"


class _Answers(asyncio.Protocol):
    def connection_made(self, transport) -> None:
        self._transport = transport
        self._held = b""
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_lost(self, exc) -> None:
        for task in self._tasks:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        self._held += data
        while b"\r\n\r\n" in self._held:
            head, _, self._held = self._held.partition(b"\r\n\r\n")
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        if b"bearer " + TOKEN.encode() not in head.lower():
            self._transport.write(_REFUSED)
            return
        path = head.split(b" ", 2)[1]
        if path == b"/small":
            self._transport.write(_SMALL)
            return
        self._transport.write(_STREAM + EVENT)
        if path == b"/stream":
            task = asyncio.get_running_loop().create_task(self._events())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _events(self) -> None:
        for _ in range(EVENTS - 1):
            await asyncio.sleep(PAUSE)
            self._transport.write(EVENT)
        self._transport.write(b"0\r\n\r\n")


async def serve() -> None:
    """Serve until standard input ends; the port is printed first."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = await asyncio.get_running_loop().create_server(_Answers, sock=listening)
    print(json.dumps({"port": listening.getsockname()[1]}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(serve())
