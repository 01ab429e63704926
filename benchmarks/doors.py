"""
What identity costs at the doors. The server is a process of its own; requests come over kept connections.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator

from benchmarks.harness import Ratio, Work, compare
from benchmarks.instance import throwaway_home

PROTOCOL = "2025-06-18"


class Client:
    """Kept connections that send one prepared request and read its reply: less work than any HTTP library."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port = port
        self._request = request.replace(b"Host: 127.0.0.1\r\n", f"Host: 127.0.0.1:{port}\r\n".encode())
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(self) -> None:
        """One request; anything but 200 ends the measurement."""
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the server answered {head[:200]!r}")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(length)
        if b'"isError":true' in body:
            raise RuntimeError(f"the tool failed: {body[:200]!r}")
        self._idle.append((reader, writer))

    def close(self) -> None:
        """Close what is kept."""
        for _, writer in self._idle:
            writer.close()


def _get(path: str, token: str | None = None) -> bytes:
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{authorization}\r\n".encode()


def _call(path: str, tool: str, arguments: dict[str, str], token: str | None = None) -> bytes:
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": tool, "arguments": arguments},
    }
    body = json.dumps(message).encode()
    headers = {
        "Host": "127.0.0.1",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": PROTOCOL,
        "Content-Length": str(len(body)),
        **({"Authorization": f"Bearer {token}"} if token else {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


async def run() -> AsyncIterator[Ratio]:
    """REST and MCP, one after the other."""
    with throwaway_home() as home:
        server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.server", str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert server.stdout is not None and server.stdin is not None
        try:
            ready = json.loads(server.stdout.readline())
            me = Client(ready["port"], _get("/v1/me", ready["token"]))
            bare = Client(ready["port"], _get(f"/bare/{ready['row']}"))
            whoami = Client(ready["port"], _call("/mcp", "whoami", {}, ready["token"]))
            echo = Client(ready["port"], _call("/echo/mcp", "say", {"text": "hello"}))
            for workers, times in ((1, 500), (16, 2000)):
                name = f"GET /v1/me, {workers} at once, against a bare route with a SELECT"
                yield await _compared(name, me.send, bare.send, times, workers, 0.6)
            for workers, times in ((1, 300), (16, 1000)):
                name = f"MCP whoami, {workers} at once, against a bare SDK echo"
                yield await _compared(name, whoami.send, echo.send, times, workers, 0.8)
            for client in (me, bare, whoami, echo):
                client.close()
        finally:
            server.stdin.close()
            server.wait(30)


async def _compared(name: str, ours: Work, baseline: Work, times: int, workers: int, goal: float) -> Ratio:
    return await compare(name, ours, baseline, times=times, workers=workers, goal=goal)
