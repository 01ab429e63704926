"""
What the gateway costs: beside a direct call, a bare Python proxy with the same HTTP client, and nginx where it is installed.

    python -m benchmarks.gateway
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks.bare_proxy import WORKERS
from benchmarks.harness import ROUNDS, Figure, Ratio, throughput
from benchmarks.instance import throwaway_home
from benchmarks.provider import TOKEN

AT_ONCE = 32
CALLS = 3000
SINGLE = 300
STREAMS = 30
OPEN = 500

_NGINX = """
worker_processes 2;
pid {folder}/pid;
error_log stderr crit;
daemon off;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    upstream provider {{ server 127.0.0.1:{upstream}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port};
        keepalive_requests 1000000;
        keepalive_timeout 600;
        location / {{
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_set_header Connection "";
            proxy_set_header Authorization "Bearer {token}";
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Way:
    """A way to the provider: where it begins, and what a caller shows there."""

    name: str
    port: int
    token: str
    prefix: str = ""
    processes: tuple[int, ...] = ()

    def request(self, path: str) -> bytes:
        """A GET as it goes over the wire."""
        return (
            f"GET {self.prefix}{path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Authorization: Bearer {self.token}\r\n\r\n"
        ).encode()


class Caller:
    """Kept connections over which one prepared request goes: less work than any HTTP library."""

    def __init__(self, way: Way, path: str) -> None:
        self._way, self._request = way, way.request(path)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def call(self) -> None:
        """One whole call; anything but 200 ends the measurement."""
        reader, writer = await self._connection()
        writer.write(self._request)
        head = await _head(reader)
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if length:
            await reader.readexactly(int(length[0][15:]))
        else:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                await reader.readexactly(size + 2)
            await reader.readexactly(2)
        self._idle.append((reader, writer))

    async def first_byte(self) -> float:
        """Milliseconds until the first byte of the body; the rest is read to its end."""
        reader, writer = await self._connection()
        began = time.perf_counter()
        writer.write(self._request)
        await _head(reader)
        size = int(await reader.readuntil(b"\r\n"), 16)
        await reader.readexactly(1)
        taken = (time.perf_counter() - began) * 1000
        await reader.readexactly(size - 1 + 2)
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
        self._idle.append((reader, writer))
        return taken

    async def hold(self) -> asyncio.StreamWriter:
        """A stream that stays open, read up to its first event."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._way.port)
        writer.write(self._request)
        await _head(reader)
        await reader.readuntil(b"hello")
        return writer

    def close(self) -> None:
        """Close what is kept."""
        for _, writer in self._idle:
            writer.close()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._way.port)


async def _head(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the answer was {head[:300]!r}")
    return head


async def run() -> AsyncIterator[Figure | Ratio]:
    """One way after the other, in turn."""
    with _ways() as ways:
        by = {way.name: way for way in ways}
        async for figure in _latency(by["gateway"], by["direct"]):
            yield figure
        for ratio in await _throughput(ways):
            yield ratio
        async for figure in _first_byte(by["gateway"], by["direct"]):
            yield figure
        yield await _memory(by["gateway"])


async def _latency(ours: Way, direct: Way) -> AsyncIterator[Figure]:
    callers = [Caller(way, "/small") for way in (ours, direct)]
    added = []
    for _ in range(ROUNDS + 1):
        medians = [await _median(caller) for caller in callers]
        added.append(medians[0] - medians[1])
    for caller in callers:
        caller.close()
    yield _beyond("a call through the gateway, beyond a direct one", added[1:], 2)


async def _median(caller: Caller) -> float:
    taken = []
    for _ in range(SINGLE):
        began = time.perf_counter()
        await caller.call()
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


async def _throughput(ways: list[Way]) -> list[Ratio]:
    callers = {way.name: Caller(way, "/small") for way in ways}
    rates: dict[str, list[float]] = {name: [] for name in callers}
    for _ in range(ROUNDS + 1):
        for name, caller in callers.items():
            rates[name].append(await throughput(caller.call, times=CALLS, workers=AT_ONCE))
    for caller in callers.values():
        caller.close()
    ours = rates.pop("gateway")[1:]
    goals = {"bare proxy": 0.35}
    found = []
    for name, theirs in rates.items():
        ratios = [mine / other for mine, other in zip(ours, theirs[1:], strict=True)]
        found.append(
            Ratio(
                f"calls through the gateway, {AT_ONCE} at once, against {name}",
                *(statistics.median(ours), statistics.median(theirs[1:])),
                *(statistics.median(ratios), min(ratios), max(ratios), goals.get(name, 0)),
            )
        )
    return found


async def _first_byte(ours: Way, direct: Way) -> AsyncIterator[Figure]:
    callers = [Caller(way, "/stream") for way in (ours, direct)]
    added = []
    for _ in range(STREAMS + 1):
        # In turn: both at once would share one processor's time.
        first = [await caller.first_byte() for caller in callers]
        added.append(first[0] - first[1])
    for caller in callers:
        caller.close()
    yield _beyond("the first byte of a stream, beyond a direct one", added[1:], 5)


async def _memory(ours: Way) -> Figure:
    caller = Caller(ours, "/open")
    for writer in await asyncio.gather(*(caller.hold() for _ in range(AT_ONCE))):
        writer.close()
    await asyncio.sleep(1)
    before = _resident(ours)
    held = []
    for _ in range(0, OPEN, 50):
        held += await asyncio.gather(*(caller.hold() for _ in range(50)))
    await asyncio.sleep(1)
    each = (_resident(ours) - before) / OPEN
    for writer in held:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in held), return_exceptions=True)
    return Figure(f"memory of an open stream, {OPEN} of them", each, each, each, "KB", 150)


def _resident(way: Way) -> float:
    """Kilobytes of all its processes."""
    lines = [
        line
        for process in way.processes
        for line in Path(f"/proc/{process}/status").read_text().splitlines()
        if line.startswith("VmRSS:")
    ]
    return sum(int(line.split()[1]) * 1.024 for line in lines)


def _beyond(name: str, added: list[float], most: float) -> Figure:
    return Figure(name, statistics.median(added), min(added), max(added), "ms", most)


@contextlib.contextmanager
def _ways() -> Iterator[list[Way]]:
    """The provider, and every way to it, ready; nginx only where it is installed."""
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(_started("benchmarks.provider"))["port"]
        url = f"http://127.0.0.1:{upstream}"
        bare = stack.enter_context(_started("benchmarks.bare_proxy", url))["port"]
        home = stack.enter_context(throwaway_home())
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        port = listening.getsockname()[1]
        replica = ("benchmarks.gateway_server", str(home), str(listening.fileno()))
        first = stack.enter_context(_started(*replica, url, descriptor=listening.fileno()))
        others = [
            stack.enter_context(_started(*replica, descriptor=listening.fileno()))["process"]
            for _ in range(WORKERS - 1)
        ]
        ways = [
            Way("gateway", port, first["token"], "/gateway/bench", (first["process"], *others)),
            Way("direct", upstream, TOKEN),
            Way("bare proxy", bare, TOKEN),
        ]
        if shutil.which("nginx"):
            ways.append(Way("nginx", stack.enter_context(_nginx(upstream)), TOKEN))
        yield ways


@contextlib.contextmanager
def _started(module: str, *arguments: str, descriptor: int | None = None) -> Iterator[dict]:
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[] if descriptor is None else [descriptor],
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield {**json.loads(process.stdout.readline()), "process": process.pid}
    finally:
        process.stdin.close()
        process.wait(30)


@contextlib.contextmanager
def _nginx(upstream: int) -> Iterator[int]:
    with tempfile.TemporaryDirectory(prefix="company-agents-nginx-") as folder:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        file = Path(folder) / "nginx.conf"
        file.write_text(_NGINX.format(folder=folder, upstream=upstream, port=port, token=TOKEN))
        # Its workers take on another user where it is started by root.
        Path(folder).chmod(0o755)
        process = subprocess.Popen([shutil.which("nginx") or "nginx", "-c", str(file)], stderr=subprocess.DEVNULL)
        try:
            for _ in range(100):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()
            process.wait(10)


async def main() -> None:
    """Only this."""
    async for figure in run():
        print(figure.line(), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
