"""
An orchestrator that is killed, or put to sleep, in the middle of a refresh: a real process, a real signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

import pytest

from company_agents.integrations.integrations import Integration
from company_agents.settings import Settings
from tests.promises.evidence import connect_past
from tests.refresh.process import orchestrator
from tests.refresh.world import ONCE, WINDOW, World

LOST = "the reply to a refresh was lost"


@contextlib.asynccontextmanager
async def locked(world: World, row: str, *params: object) -> AsyncIterator[None]:
    """Hold a row, so that whoever wants to write it waits."""
    async with await connect_past(world.app, "postgres") as connection, connection.transaction():
        await connection.execute(f"SELECT FROM {row} FOR UPDATE".encode(), params)
        yield


async def somebody_waits(world: World) -> None:
    """Until somebody waits for such a row."""
    async with asyncio.timeout(30):
        while True:
            cursor = await world.superuser.execute("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            if cursor.rowcount:
                return
            await asyncio.sleep(0.01)


async def killed_between_reply_and_commit(world: World, settings: Settings, it: Integration) -> None:
    await world.is_due(it)
    world.server.misbehave("hold", seconds=60)
    with orchestrator(settings.home, world.tenant.company.id) as other:
        assert await asyncio.to_thread(other.says) == "begun 1"
        await asyncio.to_thread(world.server.wait_until_held)
        async with locked(world, "integrations WHERE id = %s", it.id):
            world.server.release()
            # It has the reply, and wants to write it.
            await somebody_waits(world)
            other.kill()
    row = await world.row(it)
    assert (row["attempt"], row["written_by"]) == (1, 0)
    assert row["attempt_ends_at"] > row["now"]
    # Nobody knows that it died: until its lease is over, it may be at work.
    assert await world.refresh() == []
    await world.set(it, "attempt_ends_at = now()")


async def test_killed_between_reply_and_commit_within_the_window_it_is_asked_once_more(
    world: World, settings: Settings
) -> None:
    world.server.state.reuse_window = 600
    it = await world.consent(WINDOW)
    await killed_between_reply_and_commit(world, settings, it)
    await world.set(it, "attempt_began_at = now() - interval '30 seconds'")
    assert await world.refresh() == [True]
    assert world.refreshes() == 2
    assert (await world.now(it)).status == "connected"
    assert world.server.is_good(await world.token(it))


@pytest.mark.parametrize("provider", [ONCE, WINDOW])
async def test_killed_between_reply_and_commit_and_too_late_to_ask_it_needs_attention(
    world: World, settings: Settings, provider: str
) -> None:
    it = await world.consent(provider)
    await killed_between_reply_and_commit(world, settings, it)
    await world.set(it, "attempt_began_at = now() - interval '61 seconds'")
    assert await world.refresh() == [False]
    assert world.refreshes() == 1
    now, row = await world.now(it), await world.row(it)
    assert now.status == "needs attention" and LOST in now.status_reason
    assert (row["uncertain"], row["refresh_due_at"], row["attempt_ends_at"]) == (1, None, None)
    # What it has goes on working until it ends.
    reply = await world.app.requests.request(world.tenant.agent, it.name, "GET", "/api/me")
    assert reply.status == 200


async def test_one_that_sleeps_while_its_lease_ends_does_not_overwrite_what_is_newer(
    world: World, settings: Settings
) -> None:
    world.server.state.reuse_window = 60
    it = await world.consent(WINDOW)
    await world.is_due(it)
    world.server.misbehave("hold", seconds=60)
    with orchestrator(settings.home, world.tenant.company.id) as other:
        assert await asyncio.to_thread(other.says) == "begun 1"
        await asyncio.to_thread(world.server.wait_until_held)
        other.signal(signal.SIGSTOP)
        await world.set(it, "attempt_ends_at = now()")
        assert await world.refresh() == [True]
        newer = await world.token(it)
        world.server.release()
        other.signal(signal.SIGCONT)
        assert await asyncio.to_thread(other.says) == "done False"
    row = await world.row(it)
    assert (row["written_by"], await world.token(it)) == (2, newer)
    assert world.server.is_good(newer)
    assert (await world.now(it)).status == "connected"


async def test_one_that_slept_before_it_sent_anything_sends_nothing(world: World, settings: Settings) -> None:
    it = await world.consent()
    await world.is_due(it)
    with orchestrator(settings.home, world.tenant.company.id, lease=2) as other:
        async with locked(world, "audit_heads WHERE chain = %s", world.tenant.company.id):
            assert await asyncio.to_thread(other.says) == "begun 1"
            # It wants to put on record that it begins.
            await somebody_waits(world)
            other.signal(signal.SIGSTOP)
        async with asyncio.timeout(30):
            while (row := await world.row(it))["attempt_ends_at"] > row["now"]:
                await asyncio.sleep(0.1)
        other.signal(signal.SIGCONT)
        assert await asyncio.to_thread(other.says) == "done False"
    assert world.refreshes() == 0
    await world.set(it, "attempt_ends_at = NULL, uncertain = 0, lost_at = NULL")
    await world.is_due(it)
    assert await world.refresh() == [True]


CLOCK = """
import datetime, sys, time
real_time, off = time.time, float(sys.argv.pop(1))
time.time = lambda: real_time() + off

class Off(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=off)

datetime.datetime = Off
import runpy
runpy.run_module("tests.refresh.process", run_name="__main__")
"""


@pytest.mark.parametrize("off", [300, -300])
async def test_an_orchestrator_whose_clock_is_five_minutes_off_plans_by_the_database(
    world: World, settings: Settings, off: int
) -> None:
    it = await world.consent()
    await world.is_due(it)
    with orchestrator(settings.home, world.tenant.company.id, before=["-c", CLOCK, str(off)]) as other:
        assert await asyncio.to_thread(other.says) == "begun 1"
        assert await asyncio.to_thread(other.says) == "done True"
    row = await world.row(it)
    assert abs((row["expires_at"] - row["now"]).total_seconds() - 3600) < 60
    assert row["now"] < row["refresh_due_at"] < row["expires_at"]
