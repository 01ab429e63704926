"""
Whoever can reach the port can open a connection: none of them makes the orchestrator keep without end what it sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from company_agents.cli import connections
from company_agents.cli.connections import MOST_KEPT, Connection

# More than fits into the buffers on the way, so that who is not hung up on is noticed.
FLOOD = 64 * 1024 * 1024
LINE = b"x-padding: " + b"a" * 1000 + b"\r\n"
_later = asyncio.Event()
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _length(scope: Any, receive: Any, send: Any) -> None:
    """Says how long the body was; below `/later`, once that is allowed; below `/headers`, which headers came."""
    size, more = 0, True
    if scope["path"] == "/later":
        await _later.wait()
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = str(size if scope["path"] != "/headers" else sorted(name for name, _ in scope["headers"])).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    config = uvicorn.Config(_length, http=Connection, ws="none", lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        yield listening.getsockname()[1]
        server.should_exit = True
        await serving


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Pair]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answered(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Status line and body of one answer."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head.split(b"\r\n")[0], await reader.readexactly(length)


@pytest.mark.parametrize(
    ("before", "over_and_over"),
    [
        (b"GET / HTTP/1.1\r\n", LINE),
        (b"GET / HTTP/1.1\r\nx-endless: ", b"a" * 1000),
        (b"GET /", b"a" * 1000),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", LINE),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1;", b"a" * 1000),
    ],
    ids=["headers", "a header", "an address", "trailers", "a chunk's extension"],
)
async def test_who_sends_a_head_without_end_is_hung_up_on(port: int, before: bytes, over_and_over: bytes) -> None:
    async with connected(port) as (_, writer):
        writer.write(before)
        sent = 0
        with pytest.raises(ConnectionError):
            while sent < FLOOD:
                writer.write(over_and_over * 64)
                sent += len(over_and_over) * 64
                await asyncio.wait_for(writer.drain(), 20)


async def test_it_is_told_why(port: int) -> None:
    async with connected(port) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n" + LINE * (MOST_KEPT // len(LINE) + 1))
        status, _ = await answered(reader)
        assert status.startswith(b"HTTP/1.1 431 ")
        assert await reader.read() == b""


async def test_many_requests_with_large_bodies_over_one_connection_are_answered(port: int) -> None:
    async with connected(port) as (reader, writer):
        for _ in range(3):
            body = b"b" * (4 * MOST_KEPT)
            writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            assert await answered(reader) == (b"HTTP/1.1 200 OK", str(len(body)).encode())
            pieces = b"".join(b"8\r\n12345678\r\n" for _ in range(MOST_KEPT))
            head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
            writer.write(head + pieces + b"0\r\nx-trailer: a\r\n\r\n")
            assert await answered(reader) == (b"HTTP/1.1 200 OK", str(8 * MOST_KEPT).encode())


async def test_what_comes_behind_a_body_is_no_header(port: int) -> None:
    async with connected(port) as (reader, writer):
        writer.write(
            b"POST /headers HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"1\r\nx\r\n0\r\nAuthorization: Bearer late\r\n\r\n"
        )
        answer = await reader.readuntil(b"]")
        assert answer.endswith(b"[b'host', b'transfer-encoding']")


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nhost: a\r\n"], ids=["nothing", "half a head"])
async def test_who_sends_nothing_is_hung_up_on(port: int, begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_TIME", 0.05)
    async with connected(port) as (reader, writer):
        writer.write(begun)
        assert await asyncio.wait_for(reader.read(), 20) == b""


async def test_half_a_head_after_a_whole_request_is_not_waited_for(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(port) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert await answered(reader) == (b"HTTP/1.1 200 OK", b"0")
        monkeypatch.setattr(connections, "HEAD_TIME", 0.05)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n")
        assert await asyncio.wait_for(reader.read(), 20) == b""


async def test_a_body_may_take_longer_than_a_head(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_TIME", 0.05)
    async with connected(port) as (reader, writer), connected(port) as (other, _):
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n1")
        # The other one sends nothing: when it is hung up on, the time of a head is over.
        assert await asyncio.wait_for(other.read(), 20) == b""
        writer.write(b"2")
        assert await answered(reader) == (b"HTTP/1.1 200 OK", b"2")


async def test_a_body_is_not_waited_for_without_end(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BODY_TIME", 0.05)
    async with connected(port) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n1")
        assert await asyncio.wait_for(reader.read(), 20) == b""


async def test_a_long_body_has_that_time_for_each_piece(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BODY_TIME", 2)
    monkeypatch.setattr(connections, "PIECE", 1)
    async with connected(port) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n")
        for _ in range(5):
            await asyncio.sleep(0.5)
            writer.write(b"1")
        assert await answered(reader) == (b"HTTP/1.1 200 OK", b"5")


async def test_who_waits_for_an_answer_gets_it_whatever_they_sent_behind(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_TIME", 0.05)
    _later.clear()
    async with connected(port) as (reader, writer), connected(port) as (other, _):
        writer.write(b"GET /later HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost")
        assert await asyncio.wait_for(other.read(), 20) == b""
        _later.set()
        assert await answered(reader) == (b"HTTP/1.1 200 OK", b"0")
        assert await asyncio.wait_for(reader.read(), 20) == b""


async def test_of_too_many_connections_the_last_are_hung_up_on_and_then_there_is_room_again(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "most_connections", 2)
    async with connected(port) as first, connected(port) as second:
        for reader, writer in (first, second):
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert await answered(reader) == (b"HTTP/1.1 200 OK", b"0")
        async with connected(port) as (reader, _):
            assert await asyncio.wait_for(reader.read(), 20) == b""
        first[1].write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert await answered(first[0]) == (b"HTTP/1.1 200 OK", b"0")
        assert await asyncio.wait_for(first[0].read(), 20) == b""
        async with connected(port) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert await answered(reader) == (b"HTTP/1.1 200 OK", b"0")


def test_half_of_the_files_that_may_be_open_are_for_others_than_connections() -> None:
    # In a process of its own: the limit cannot be undone.
    program = (
        "import resource as r\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (64, 200))\n"
        "from company_agents.cli import connections as c\n"
        "c.make_room()\n"
        "print(r.getrlimit(r.RLIMIT_NOFILE), c.most_connections)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(200, 200) 100"
