"""
Tasks that go on until they are ended.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """
    Cancel tasks, and wait until they have ended.

    More than once: `asyncio.wait_for` of Python 3.11 loses a cancellation that comes in the moment in which what it waits
    for is there, and the pool of connections waits with it. Whoever then waits for the task waits for ever.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=1)


@contextlib.asynccontextmanager
async def every(seconds: float, work: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Do something again and again meanwhile. Where it fails, it is done the next time."""

    async def loop() -> None:
        while True:
            await asyncio.sleep(seconds)
            # A database that is away for a moment: what was to be written stays for the next time.
            with contextlib.suppress(Exception):
                await work()

    task = asyncio.create_task(loop())
    try:
        yield
    finally:
        await ended(task)
