"""
The way from a sandbox to its orchestrator: what goes through it, and that it leads nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from company_agents.errors import Failed
from company_agents.runs.sandbox.door import LEAST, MOST, PART_OF_ALL, address_of, door
from tests.sandbox.conftest import LIBRARIES, PYTHON, MakeRunner

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def orchestrator(handle: Handler) -> AsyncIterator[str]:
    """Something that listens where an orchestrator would."""
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_much_goes_both_ways_and_each_side_may_end_first(runner: MakeRunner) -> None:
    body = hashlib.sha256(b"body").digest() * 250_000  # 8 MB

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = await reader.read()  # until the other side ends
        writer.write(hashlib.sha256(received).hexdigest().encode() + body)
        await writer.drain()
        writer.close()

    code = """
import hashlib, os, socket, urllib.parse
at = urllib.parse.urlsplit(os.environ["COMPANY_AGENTS_URL"])
with socket.create_connection((at.hostname, at.port)) as there:
    there.sendall(hashlib.sha256(b"body").digest() * 250_000)
    there.shutdown(socket.SHUT_WR)
    found = b"".join(iter(lambda: there.recv(65536), b""))
print(found[:64].decode(), hashlib.sha256(found[64:]).hexdigest())
"""
    async with orchestrator(handle) as url:
        here = runner("bubblewrap")
        here.url = url
        _, written = await here.python(code)
    digest = hashlib.sha256(body).hexdigest()
    assert written.of() == f"{digest} {digest}\n"


async def test_more_connections_than_one_run_may_have_are_closed_and_come_back(
    runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As many as `up` gives itself, also where this user begins with fewer.
    monkeypatch.setattr(resource, "getrlimit", lambda which: (20_000, 20_000))
    there: set[asyncio.StreamWriter] = set()
    most = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most
        there.add(writer)
        most = max(most, len(there))
        while piece := await reader.read(100):
            writer.write(piece)
        there.discard(writer)
        writer.close()

    code = f"""
import socket
def works(sock):
    try:
        sock.sendall(b"hello")
        return sock.recv(5) == b"hello"
    except OSError:
        return False
many = [socket.create_connection(("127.0.0.1", 3101)) for _ in range({MOST} + 20)]
print(sum(map(works, many)))
for sock in many:
    sock.close()
import time
for _ in range(200):
    with socket.create_connection(("127.0.0.1", 3101)) as again:
        if works(again):
            print("again")
            break
    time.sleep(0.05)
"""
    async with orchestrator(handle) as url:
        here = runner("bubblewrap")
        here.url = url
        _, written = await here.python(code)
    assert written.of() == f"{MOST}\nagain\n"
    assert most == MOST


async def test_all_runs_together_leave_files_for_everybody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (160, 160))

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(100):
            writer.write(piece)
        writer.close()

    async def works(port: int) -> tuple[asyncio.StreamWriter, bool]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(OSError):
            writer.write(b"hello")
            return writer, await reader.read(5) == b"hello"
        return writer, False

    async with orchestrator(handle) as url, contextlib.AsyncExitStack() as stack:
        ports = []
        for _ in range(3):
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            ports.append(listening.getsockname()[1])
            await stack.enter_async_context(door(listening, address_of(url)))
        # Eight of each would be twenty-four.
        found = [await works(port) for port in ports for _ in range(LEAST + 1)]
        assert sum(fine for _, fine in found) == 160 // PART_OF_ALL
        for writer, _ in found:
            writer.close()


async def test_an_orchestrator_that_does_not_answer_looks_like_one(runner: MakeRunner) -> None:
    code = """
import socket
with socket.create_connection(("127.0.0.1", 3101)) as there:
    there.settimeout(10)
    try:
        print(there.recv(1))
    except ConnectionResetError:
        print(b"")
"""
    _, written = await runner("bubblewrap").python(code)  # nobody listens at its address
    assert written.of() == "b''\n"


async def test_an_open_network_is_the_machines(runner: MakeRunner) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"another port")
        writer.close()

    async with orchestrator(handle) as url:
        port = url.rpartition(":")[2]
        here = runner("bubblewrap")
        here.url = url
        code = "import os, socket; print(os.environ['COMPANY_AGENTS_URL'])\n"
        code += f"print(socket.create_connection(('127.0.0.1', {port})).recv(100).decode())"
        _, written = await here.run(PYTHON, "-c", code, readable=LIBRARIES, network="open")
    assert written.of() == f"{url}\nanother port\n"


@pytest.mark.parametrize("url", ["https://127.0.0.1:3101", "unix:/run/socket"])
def test_an_orchestrator_is_reached_by_plain_http_only(url: str) -> None:
    assert address_of("http://[::1]:8080/prefix") == ("::1", 8080)
    with pytest.raises(Failed, match="COMPANY_AGENTS_LOCAL_URL"):
        address_of(url)
