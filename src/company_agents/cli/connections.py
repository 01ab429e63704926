"""
One connection of the server under `up`, as anybody can open it: what can be sent before it is known who sends it has
an end, in size and in time, and so has the number of connections. With the server's own there is none of these.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# Bytes that are kept without any of them being handed on: of a head, or of what follows a body in chunks.
MOST_KEPT = 64 * 1024
# Seconds until the head of a request is there, and then the whole of it, or the next piece of so many bytes.
HEAD_TIME = 30.0
BODY_TIME = 300.0
PIECE = 1024 * 1024

# Connections at once; fewer where fewer files may be open, see `make_room`.
MOST_CONNECTIONS = 20_000
most_connections = 500

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def make_room() -> None:
    """
    Let this process have as many open files as it needs and may, half of them connections: whoever opens as many as they can
    must not take from us those to the database and to providers.
    """
    global most_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 2 * MOST_CONNECTIONS if hard == resource.RLIM_INFINITY else min(2 * MOST_CONNECTIONS, hard)
    if resource.RLIM_INFINITY != soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    most_connections = files // 2


class Connection(HttpToolsProtocol):
    """Hangs up on who sends a request without an end."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._kept = self._of_piece = 0
        self._in_head = self._in_request = False
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request, but not for ever."""
        super().connection_made(transport)
        if len(self.connections) > most_connections:
            transport.close()
            return
        self._patience = self.loop.call_later(HEAD_TIME, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is waited for any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take it, unless more has come than is kept."""
        self._kept += len(data)
        super().data_received(data)
        if self._kept > MOST_KEPT and not self.transport.is_closing():
            # Where an earlier request is still being answered, nothing may come in between.
            if not self._is_answering():
                self.transport.write(_TOO_LARGE)
            self.transport.close()
        elif self._in_request and self._patience is None:
            self._patience = self.loop.call_later(HEAD_TIME if self._in_head else BODY_TIME, self._give_up)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = self._in_request = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of the head. What comes behind a body is no header: whoever stands before us has not looked at it."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head is there."""
        self._kept, self._in_head = 0, False
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body, whose size is the door's to bound."""
        self._kept = 0
        self._of_piece += len(body)
        if self._of_piece >= PIECE:
            self._of_piece = 0
            self._stop_waiting()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is whole."""
        self._kept, self._in_request = 0, False
        self._stop_waiting()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """From here on it is a WebSocket, which asks for a sign of life itself."""
        self._in_head = self._in_request = False
        self._stop_waiting()
        super().handle_websocket_upgrade()

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience = None
        # Not on one that sent more behind a whole request, and has its answer coming.
        if self.pipeline or (self._in_head and self._is_answering()):
            self._patience = self.loop.call_later(HEAD_TIME, self._give_up)
        else:
            self.transport.close()


class Socket(WebSocketsSansIOProtocol):
    """A WebSocket. What its library says of each is said by our own log, with less of what others have written."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.logger = _QUIET


_QUIET = logging.getLogger("company_agents.websockets")
_QUIET.setLevel(logging.WARNING)
# It takes an answer in place of a connection, and then misses the connection.
_QUIET.addFilter(lambda record: "without completing handshake" not in str(record.msg))
