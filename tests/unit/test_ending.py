"""
A task that is to end ends, also where its cancellation is lost.
"""

from __future__ import annotations

import asyncio
import contextlib

from company_agents.ending import ended


async def test_a_task_that_loses_its_cancellation_is_ended_all_the_same() -> None:
    lost: list[bool] = []

    async def run() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if lost:
                    raise
                # What `asyncio.wait_for` of Python 3.11 does where its answer comes in the same moment.
                lost.append(True)

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    await ended(task)
    assert task.cancelled()
    assert lost == [True]


async def test_tasks_that_have_ended_and_none_at_all_are_no_trouble() -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await ended(task)
    await ended()
