"""
Long work in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from company_agents.errors import CompanyAgentsError

T = TypeVar("T")


async def in_thread(work: Callable[[], T], stop: threading.Event) -> T:
    """In a thread, which is told to stop where whoever waits for it gives up, and is waited for then."""
    task = asyncio.create_task(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        with contextlib.suppress(CompanyAgentsError):
            await task
        raise
