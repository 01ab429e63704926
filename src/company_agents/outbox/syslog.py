"""
A syslog server, or the one of this machine: RFC 5424 messages over datagrams (RFC 5426), TCP (RFC 6587, with lengths), TLS
(RFC 5425) or a socket in the file system.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

from company_agents.audit.log import SinkDown
from company_agents.outbox.addresses import TCP, TLS, UDP, UNIX, SinkAddress
from company_agents.outbox.source import Part
from company_agents.outgoing.client import tls_context

# Facility 13 (log audit), severity 6 (informational).
PRIORITY = 13 * 8 + 6
# Until a connection stands, and until what was sent is taken (seconds).
PATIENCE = 10.0


class Syslog:
    """One connection, kept; made anew where the other side has closed it."""

    def __init__(self, address: SinkAddress, ca_file: Path | None) -> None:
        self._address = address
        self._ca_file = ca_file
        self._tls: ssl.SSLContext | None = None
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._datagrams: socket.socket | None = None

    async def send(self, part: Part) -> None:
        """
        Hand over the lines of a part.

        Raises:
            SinkDown: it did not come to that; some may have arrived.
        """
        failure: str
        try:
            async with asyncio.timeout(PATIENCE):
                await self._send([_message(line) for line in part.lines])
                return
        except TimeoutError:
            failure = f"it took longer than {PATIENCE:g} seconds"
        except ssl.SSLCertVerificationError as error:
            failure = f"its certificate is not good: {error.verify_message}"
        except OSError as error:
            failure = os.strerror(error.errno).lower() if error.errno else "the connection broke off"
        await self.close()
        raise SinkDown(f"the audit sink {self._address.address} cannot be written: {failure}")

    async def close(self) -> None:
        """Close what is open."""
        if self._datagrams is not None:
            self._datagrams.close()
            self._datagrams = None
        if self._stream is not None:
            self._stream[1].close()
            self._stream = None

    async def _send(self, messages: list[bytes]) -> None:
        if self._stream is not None and self._is_over(self._stream):
            await self.close()
        if self._stream is None and self._datagrams is None:
            await self._connect()
        if self._stream is not None:
            # With its length before it, since a message may hold anything.
            self._stream[1].write(b"".join(b"%d %s" % (len(message), message) for message in messages))
            await self._stream[1].drain()
            return
        assert self._datagrams is not None
        for message in messages:
            await asyncio.get_running_loop().sock_sendall(self._datagrams, message)

    @staticmethod
    def _is_over(stream: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bool:
        return stream[0].at_eof() or stream[0].exception() is not None or stream[1].is_closing()

    async def _connect(self) -> None:
        address = self._address
        if address.kind == TCP:
            self._stream = await asyncio.open_connection(address.host, address.port)
        elif address.kind == TLS:
            if self._tls is None:
                self._tls = await asyncio.to_thread(_tls, self._ca_file)
            self._stream = await asyncio.open_connection(address.host, address.port, ssl=self._tls)
        elif address.kind == UDP:
            loop = asyncio.get_running_loop()
            [(family, _, _, _, place), *_] = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
            await self._connect_datagrams(family, place)
        elif address.kind == UNIX:
            await self._connect_unix(str(address.path))

    async def _connect_unix(self, path: str) -> None:
        try:
            await self._connect_datagrams(socket.AF_UNIX, path)
        except OSError as error:
            # It is one for connections.
            if error.errno != errno.EPROTOTYPE:
                raise
            self._stream = await asyncio.open_unix_connection(path)

    async def _connect_datagrams(self, family: int, place: object) -> None:
        datagrams = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            datagrams.setblocking(False)
            await asyncio.get_running_loop().sock_connect(datagrams, place)  # type: ignore[arg-type]
        except BaseException:
            datagrams.close()
            raise
        self._datagrams = datagrams


def _message(line: str) -> bytes:
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    host = socket.gethostname()[:255] or "-"
    return f"<{PRIORITY}>1 {at} {host} company-agents {os.getpid()} audit - {line.rstrip()}".encode()


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    context = tls_context(ca_file)
    # What is offered there is for HTTP.
    context.set_alpn_protocols([])
    return context
