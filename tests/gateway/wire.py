"""
A connection on which a test writes what it wants, byte for byte: clients tidy up what they send.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

PATIENCE = 20


@dataclass(frozen=True)
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Wire:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(PATIENCE):
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = text.strip().split("\r\n")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            headers[name.lower()] = f"{headers[name.lower()]}, {value}" if name.lower() in headers else value
        return int(first.split()[1]), headers

    async def chunk(self) -> bytes:
        """One chunk of a body that comes in chunks; empty: the last."""
        async with asyncio.timeout(PATIENCE):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def answer(self) -> Answered:
        status, headers = await self.head()
        if "content-length" in headers:
            async with asyncio.timeout(PATIENCE):
                return Answered(status, headers, await self.reader.readexactly(int(headers["content-length"])))
        body = b""
        while "chunked" in headers.get("transfer-encoding", "") and (piece := await self.chunk()):
            body += piece
        return Answered(status, headers, body)

    async def ended(self) -> bool:
        """Whether the other side has hung up, and has nothing more to say."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read(1) == b""


@contextlib.asynccontextmanager
async def wire(url: str) -> AsyncIterator[Wire]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


async def asked(
    url: str, target: str, headers: dict[str, str] | list[tuple[str, str]], method: str = "GET", body: bytes = b""
) -> Answered:
    """One request, written as it is given, with the right Host unless there is one."""
    pairs = list(headers.items()) if isinstance(headers, dict) else headers
    if not any(name.lower() == "host" for name, _ in pairs):
        pairs = [("Host", urlsplit(url).netloc), *pairs]
    if body:
        pairs = [*pairs, ("Content-Length", str(len(body)))]
    head = "".join(f"{name}: {value}\r\n" for name, value in pairs)
    async with wire(url) as connection:
        await connection.send(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)
        if method == "HEAD":
            return Answered(*await connection.head(), b"")
        return await connection.answer()
