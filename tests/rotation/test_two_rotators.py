"""
Two rotators at once: one that lost its session in the database, knows nothing of it and goes on, beside a second one that
takes over. Whatever the first one does then, nothing is lost.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from company_agents.errors import Busy, Unavailable
from tests.rotation.place import Place, Watched, elsewhere, nothing_is_lost, outcome, rotate, whole

STEPS = ["opening", "stage", "confirm", "switch", "rewrap", "verify", "archive"]
CALLS = ["before add 1", "after add 1", "before make_current 1", "after make_current 1"]


def taken_over(place: Place) -> None:
    """Another one finishes what was begun, once the first one has lost its session; and rotates once more."""

    async def take_over() -> None:
        async with place.open() as app:
            await rotate(app, finish=True)
            await rotate(app)

    assert place.take_session() == 1
    elsewhere(take_over)


async def overtaken(place: Place, **how: Any) -> None:
    async with place.open() as app:
        error = await outcome(rotate(app, **how))
        assert isinstance(error, Busy | Unavailable), error
        # What it holds still opens everything that was there when it began; the rest it fetches.
        await nothing_is_lost(place, app)
    await whole(place)


@pytest.mark.parametrize("step", STEPS)
async def test_a_rotator_that_lost_its_session_at_any_step_goes_on_and_changes_nothing(place: Place, step: str) -> None:
    came: list[str] = []

    def say(now: str, done: int, total: int) -> None:
        if now == step and not came:
            came.append(now)
            taken_over(place)

    await overtaken(place, say=say)
    assert came == [step]


@pytest.mark.parametrize("moment", CALLS)
async def test_a_rotator_that_lost_its_session_around_a_write_to_the_source_leaves_only_a_key_more(
    place: Place, moment: str
) -> None:
    source = Watched(place)

    async def come() -> None:
        await asyncio.to_thread(taken_over, place)

    source.moments[moment] = come
    await overtaken(place, source=source)
    assert not source.moments
    # Keys that the second one did not know are there still, and go only when somebody names them.
    ends = place.sql("SELECT key_id FROM master_keys WHERE activated_at IS NULL AND ends_at IS NOT NULL")
    assert ends == []


async def test_of_two_at_once_one_runs_and_the_other_is_told_that_it_is_busy(place: Place) -> None:
    source, reached, go_on = Watched(place), asyncio.Event(), asyncio.Event()

    async def come() -> None:
        reached.set()
        await go_on.wait()

    source.moments["before add 1"] = come
    async with place.open() as first, place.open() as second:
        running = asyncio.create_task(rotate(first, source=source))
        await reached.wait()
        before = place.states()
        for work in (rotate(second), rotate(second, finish=True), second.pruner.prune(None, "tester")):
            error = await outcome(work)
            assert isinstance(error, Busy)
            assert (error.exit_status, error.reason) == (75, "key_busy")
        assert place.states() == before
        assert (await second.keys.status()).underway is not None
        go_on.set()
        assert (await running).action == "rotated"
    await whole(place)


@pytest.mark.parametrize("step", STEPS)
async def test_a_rotator_whose_fence_was_taken_at_any_step_writes_nothing_more(place: Place, step: str) -> None:
    # Its session lives, as behind a pooler, or when the database beneath it has gone back.
    source = Watched(place)
    taken: list[object] = []

    def seen() -> object:
        return place.states(), place.secrets(), place.files()

    def say(now: str, done: int, total: int) -> None:
        if now == step and not taken:
            place.sql("UPDATE key_fence SET number = number + 1, nonce = gen_random_uuid()")
            taken.append(seen())

    async with place.open() as app:
        error = await outcome(rotate(app, source=source, say=say))
        assert isinstance(error, Busy)
        assert (error.exit_status, error.reason) == (75, "key_overtaken")
        assert "--finish" in error.hint
        assert taken == [seen()]
        await nothing_is_lost(place, app)
    await whole(place)
