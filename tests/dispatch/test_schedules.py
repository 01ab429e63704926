"""
Runs that are started whenever a cron expression says so: once for each moment, whoever looks.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from itertools import islice
from uuid import UUID

import pytest

from company_agents.app import App
from company_agents.errors import Conflict, NotFound, Refused, WrongUsage
from company_agents.runs.model import Run
from company_agents.runs.parts import RunParts
from company_agents.runs.schedules import Schedule, moments
from tests.dispatch.conftest import Desk, MakeDesk, Orchestrate, Scripted, hang
from tests.promises.evidence import recorded, sql


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def upcoming(cron: str, zone: str, after: str, number: int) -> list[str]:
    """The next moments, in UTC."""
    return [f"{moment:%m-%d %H:%M}" for moment in islice(moments(cron, zone, at(after)), number)]


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        ("0 9 * * MON-FRI", "UTC", "2026-01-02 09:00", ["01-05 09:00", "01-06 09:00"]),
        ("0 9 * * *", "Europe/Berlin", "2026-01-01 12:00", ["01-02 08:00", "01-03 08:00"]),
        ("*/20 * * * *", "UTC", "2026-01-01 00:01", ["01-01 00:20", "01-01 00:40", "01-01 01:00"]),
        # The clock is put forward on 29 March 2026 from 02:00 to 03:00: what falls into the gap comes right after it.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28 00:00", ["03-28 01:30", "03-29 01:00", "03-30 00:30"]),
        # And back on 25 October from 03:00 to 02:00: what is there twice comes true once, and what is every hour goes on.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24 12:00", ["10-25 00:30", "10-26 01:30"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25 01:10", ["10-26 01:30"]),
        ("45 2 * * *", "Europe/Berlin", "2026-10-25 01:40", ["10-26 01:45"]),
        ("30 * * * *", "Europe/Berlin", "2026-10-24 23:45", ["10-25 00:30", "10-25 01:30", "10-25 02:30"]),
        ("0 0 29 2 *", "UTC", "2026-01-01 00:00", ["02-29 00:00"]),
    ],
)
def test_when_an_expression_comes_true(cron: str, zone: str, after: str, expected: list[str]) -> None:
    assert upcoming(cron, zone, after, len(expected)) == expected


@pytest.mark.parametrize(
    ("cron", "zone", "said"),
    [
        ("* * * *", "UTC", "five fields"),
        ("0 * * * * *", "UTC", "five fields"),
        ("60 * * * *", "UTC", "bad minute"),
        ("@hourly", "UTC", "five fields"),
        ("0 0 31 2 *", "UTC", "bad day-of-month"),
        ("0 9 * * *", "Moon/Tranquility", "no such time zone"),
        ("0 9 * * *", "../../etc/passwd", "no such time zone"),
        ("0 9 * * *", "", "no such time zone"),
    ],
)
def test_what_is_no_expression_and_no_time_zone(cron: str, zone: str, said: str) -> None:
    with pytest.raises(WrongUsage, match=said):
        next(moments(cron, zone, at("2026-01-01 00:00")))


async def scheduled(here: Desk, name: str = "each minute", cron: str = "* * * * *") -> Schedule:
    return await here.app.schedules.create(here.local, here.agent, name, cron, "the round")


async def due(here: Desk, schedule: Schedule, ago: str = "1 second") -> None:
    """Time goes by, and nobody looks."""
    late = f"UPDATE schedules SET next_at = clock_timestamp() - interval '{ago}' WHERE id = %(s)s"
    await sql(here.superuser, late, s=schedule.id)


async def runs_of(here: Desk, schedule: Schedule) -> list[Run]:
    return [run for run in (await here.app.runs.list(here.local)).items if run.schedule_id == schedule.id]


async def look(here: Desk) -> None:
    await here.app.schedules.start_due(here.local.scope)


async def test_each_moment_starts_one_run_however_many_orchestrators_look(app: App, desk: MakeDesk) -> None:
    here = await desk()
    schedule = await scheduled(here)
    assert schedule.next_at is not None
    await look(here)
    assert await runs_of(here, schedule) == []
    others = [RunParts.build(app.store, app.audit, app.integrations.versions) for _ in range(3)]
    for number in (1, 2):
        await due(here, schedule)
        await asyncio.gather(*(at.schedules.start_due(here.local.scope) for at in others for _ in range(3)))
        found = await runs_of(here, schedule)
        assert len(found) == number
        run = await app.runs.get(here.local, found[-1].id)
        assert (run.prompt, run.purpose, run.started_by) == ("the round", "each minute", f"schedule:{schedule.id}")
        await app.runs.cancel(here.local, run.id)
    after = await app.schedules.get(here.local, schedule.id)
    assert after.next_at is not None
    assert after.last_at is not None
    assert after.last_at < datetime.now(UTC) < after.next_at
    assert after.skipped == ""


async def test_what_was_missed_while_nobody_was_there_is_one_run(desk: MakeDesk) -> None:
    here = await desk()
    schedule = await scheduled(here)
    await due(here, schedule, "3 days")
    for _ in range(3):
        await look(here)
    assert len(await runs_of(here, schedule)) == 1


async def test_an_orchestrator_looks_by_itself(desk: MakeDesk, orchestrator: Orchestrate) -> None:
    here = await desk()
    schedule = await scheduled(here)
    await due(here, schedule)
    there = await orchestrator(adapter=Scripted(does=hang))

    async def first() -> UUID:
        while not (runs := await runs_of(here, schedule)):
            await asyncio.sleep(0.05)
        return runs[0].id

    assert (await there.begins(await asyncio.wait_for(first(), 15))).prompt == "the round"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": "paused"}, "its agent is paused"),
        ({"state": "retired"}, "its agent is retired"),
        ({"adapter": None}, "its agent has no adapter"),
    ],
)
async def test_one_whose_agent_does_not_work_is_passed_over_and_says_so(
    app: App, desk: MakeDesk, change: dict[str, str | None], said: str
) -> None:
    here = await desk()
    schedule = await scheduled(here)
    await here.set(**change)
    await due(here, schedule)
    await look(here)
    found = await app.schedules.get(here.local, schedule.id)
    assert (found.skipped, found.last_at is not None, await runs_of(here, schedule)) == (said, True, [])
    assert found.next_at is not None
    assert found.next_at > datetime.now(UTC)
    [event] = await recorded(app, here.tenant.company.id, "schedule.skipped", schedule=schedule.id)
    assert event["reason"] == said
    # Once it works again, so does the schedule.
    await here.set(state="active", adapter="llm")
    await due(here, schedule)
    await look(here)
    assert len(await runs_of(here, schedule)) == 1
    assert (await app.schedules.get(here.local, schedule.id)).skipped == ""


async def test_none_is_started_while_the_one_before_has_not_even_begun(app: App, desk: MakeDesk) -> None:
    here = await desk()
    schedule = await scheduled(here)
    for _ in range(2):
        await due(here, schedule)
        await look(here)
    assert len(await runs_of(here, schedule)) == 1
    assert (await app.schedules.get(here.local, schedule.id)).skipped == "its run of before still waits"


async def test_one_that_is_paused_starts_nothing_and_makes_up_for_nothing(app: App, desk: MakeDesk) -> None:
    here = await desk()
    schedule = await scheduled(here)
    await due(here, schedule)
    paused = await app.schedules.pause(here.local, schedule.id)
    assert (paused.enabled, paused.next_at) == (False, None)
    await look(here)
    resumed = await app.schedules.resume(here.local, schedule.id)
    assert resumed.next_at is not None
    assert resumed.next_at > datetime.now(UTC)
    await look(here)
    assert await runs_of(here, schedule) == []
    assert await app.schedules.resume(here.local, schedule.id) == resumed


async def test_its_runs_stay_when_it_is_deleted(app: App, desk: MakeDesk) -> None:
    here = await desk()
    schedule = await scheduled(here)
    await due(here, schedule)
    await look(here)
    [run] = await runs_of(here, schedule)
    await app.schedules.delete(here.local, schedule.id)
    assert (await here.run(run.id)).schedule_id is None
    with pytest.raises(NotFound):
        await app.schedules.get(here.local, schedule.id)


async def test_what_a_schedule_needs_and_who_may_make_one(app: App, desk: MakeDesk) -> None:
    here, other = await desk(), await desk()
    schedule = await scheduled(here)
    make = app.schedules.create
    with pytest.raises(Conflict) as twice:
        await scheduled(here)
    assert twice.value.reason == "duplicate"
    with pytest.raises(WrongUsage, match="prompt"):
        await make(here.local, here.agent, "x", "* * * * *", " ")
    with pytest.raises(WrongUsage, match="never comes true"):
        await make(here.local, here.agent, "x", "0 0 */31 2 MON#5", "x")
    with pytest.raises(NotFound):
        await make(here.local, other.agent, "x", "* * * * *", "x")
    with pytest.raises(Refused):
        await make(here.tenant.agent, here.agent, "x", "* * * * *", "x")
    for call in (app.schedules.get, app.schedules.pause, app.schedules.resume, app.schedules.delete):
        with pytest.raises(NotFound):
            await call(other.local, schedule.id)
    assert [found.id for found in (await app.schedules.list(here.local)).items] == [schedule.id]
    assert (await app.schedules.list(other.local)).items == []
    await here.set(adapter=None)
    with pytest.raises(Conflict, match="no adapter"):
        await make(here.local, here.agent, "x", "* * * * *", "x")
