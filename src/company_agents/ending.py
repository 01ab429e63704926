"""
Ending tasks.
"""

from __future__ import annotations

import asyncio
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
