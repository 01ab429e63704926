"""
The one way out of a sandbox: a port in its own network, which leads to this orchestrator and nowhere else.

The listening socket belongs to the sandbox's network; who accepts at it is here. What comes in goes on to the
orchestrator's own address as it is, and meets the same doors as everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from company_agents.errors import Failed

# Connections of one run that are open at once; fewer where this process may have few files, of which each takes three. And
# what all runs may have of those: the rest is for the database, for providers, and for whoever else calls.
MOST, LEAST, PART_OF_FILES = 128, 8, 80
PART_OF_ALL = 8

_PIECE = 65536

# Of every door of this process.
_open: set[asyncio.Task[None]] = set()


def address_of(url: str) -> tuple[str, int]:
    """
    Where an orchestrator listens.

    Raises:
        Failed: it is not reached by plain HTTP.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise Failed(
            "a sandbox reaches its orchestrator by http, and COMPANY_AGENTS_LOCAL_URL says otherwise",
            hint="set it to an address of this machine that begins with http://, or leave it unset",
        )
    return parts.hostname, parts.port or 80


@contextlib.asynccontextmanager
async def door(listening: socket.socket, address: tuple[str, int]) -> AsyncIterator[None]:
    """Hand on what comes in, for as long as the context lasts."""
    calls: set[asyncio.Task[None]] = set()
    most, all_together = _room()

    async def enter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = asyncio.current_task()
        assert call is not None
        calls.add(call)
        _open.add(call)
        try:
            if len(calls) <= most and len(_open) <= all_together:
                await _hand_on(reader, writer, address)
        except (OSError, asyncio.CancelledError):
            pass  # either side has gone, or the run has ended
        finally:
            calls.discard(call)
            _open.discard(call)
            writer.transport.abort()

    server = await asyncio.start_server(enter, sock=listening, limit=_PIECE)
    try:
        yield
    finally:
        server.close()
        for call in calls:
            call.cancel()
        if calls:
            await asyncio.wait(calls)


def _room() -> tuple[int, int]:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        files = 1_000_000
    return min(MOST, max(LEAST, files // PART_OF_FILES)), files // PART_OF_ALL


async def _hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: tuple[str, int]) -> None:
    there_reader, there_writer = await asyncio.open_connection(*address, limit=_PIECE)
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_pump(reader, there_writer))
            both.create_task(_pump(there_reader, writer))
        # Not `abort`: the last pieces may still be on their way.
        writer.close()
        await writer.wait_closed()
    except* OSError:
        pass
    finally:
        there_writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()
    writer.write_eof()
