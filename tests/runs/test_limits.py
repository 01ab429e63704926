"""
How long a run may last, how many there may be, and how long what has ended is kept.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from company_agents.app import App
from company_agents.errors import Conflict, TooMany, Unauthenticated
from company_agents.runs import room, sweeping
from company_agents.runs.model import LONGEST
from company_agents.runs.sweeping import KEPT_DAYS
from tests.promises.evidence import Past, sql
from tests.runs.conftest import Desk, MakeDesk, use


async def started(superuser: Past, run_id: object, seconds_ago: int) -> None:
    """Time goes by since the start of a run that was renewed all along."""
    await sql(
        superuser,
        "UPDATE runs SET started_at = now() - make_interval(secs => %(s)s) WHERE id = %(r)s",
        s=seconds_ago,
        r=run_id,
    )


# — a longest life —


async def test_no_lease_goes_beyond_the_longest_life_of_a_run(app: App, desk: MakeDesk, superuser: Past) -> None:
    here = await desk()
    run, token = await here.open()
    await started(superuser, run.id, LONGEST - 60)
    renewed = await app.runs.renew(await app.identity.worker(token), run.id, run.fencing_token)
    assert renewed.started_at is not None
    assert renewed.lease_until == renewed.started_at + timedelta(seconds=LONGEST)


async def test_after_its_longest_life_a_run_is_over_and_its_holder_is_told_so(
    app: App, other: App, desk: MakeDesk, superuser: Past
) -> None:
    here = await desk()
    run, token = await here.open()
    holder = await app.identity.worker(token)
    await started(superuser, run.id, LONGEST - 60)
    await app.runs.renew(holder, run.id, run.fencing_token)
    await sql(
        superuser,
        "UPDATE runs SET started_at = started_at - interval '1 hour', lease_until = lease_until - interval '1 hour'"
        " WHERE id = %(r)s",
        r=run.id,
    )
    for swept in (False, True):
        if swept:
            await other.sweeper.sweep_company(here.local.scope)
        with pytest.raises(Conflict, match="longest life of 24 hours") as over:
            await app.runs.renew(holder, run.id, run.fencing_token)
        assert over.value.reason == "run_over"
    assert (await app.runs.get(here.local, run.id)).reason == "its longest life was over"
    with pytest.raises(Unauthenticated):
        await app.identity.worker(token)


# — how many —


async def test_an_agent_has_so_many_runs_under_way_and_no_more(
    app: App, other: App, desk: MakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert room.MOST_RUNNING == 100
    monkeypatch.setattr(room, "MOST_RUNNING", 3)
    here, elsewhere = await desk(), await desk()
    opened = [await here.open(at) for at in (app, other, app)]
    with pytest.raises(TooMany, match="3 runs under way") as refused:
        await here.open(other)
    assert refused.value.http_status == 429
    await elsewhere.open()
    run, _ = opened[0]
    await app.runs.finish(here.agent, run.id, run.fencing_token)
    await here.open(other)


async def test_runs_that_are_opened_at_once_are_counted_too(
    app: App, other: App, desk: MakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MOST_RUNNING", 3)
    here = await desk()
    found = await asyncio.gather(*(here.open((app, other)[n % 2]) for n in range(9)), return_exceptions=True)
    assert sum(isinstance(one, tuple) for one in found) == 3
    assert sum(isinstance(one, TooMany) for one in found) == 6


# — what has ended —


async def pins(superuser: Past, run_id: object) -> int:
    return len(await sql(superuser, "SELECT version FROM run_pins WHERE run_id = %(r)s", r=run_id))


@pytest.mark.parametrize("end", ["finish", "cancel", "expire"])
async def test_the_pins_of_a_run_go_with_its_end_and_so_does_what_only_they_held(
    app: App, desk: MakeDesk, superuser: Past, end: str
) -> None:
    here = await desk()
    run, _ = await here.open()
    await here.rotate("second-token")
    assert await pins(superuser, run.id) == 1
    if end == "finish":
        await app.runs.finish(here.agent, run.id, run.fencing_token)
    elif end == "cancel":
        await app.runs.cancel(here.local, run.id)
    else:
        await sql(superuser, "UPDATE runs SET lease_until = clock_timestamp() WHERE id = %(r)s", r=run.id)
        await app.sweeper.sweep()
    assert await pins(superuser, run.id) == 0
    assert await here.versions() == {2: ("current", 0), 1: ("retired", 0)}


async def test_what_has_ended_is_kept_for_a_while_and_then_swept_a_few_at_a_time(
    app: App, desk: MakeDesk, superuser: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "MOST_SWEPT", 2)
    here = await desk()
    old = [await ended(app, here, superuser, KEPT_DAYS + 1) for _ in range(3)]
    young = await ended(app, here, superuser, KEPT_DAYS - 1)
    running, token = await here.open()
    await started(superuser, running.id, LONGEST * (KEPT_DAYS + 1))
    await app.sweeper.sweep()
    left = {run.id for run in (await app.runs.list(here.local)).items}
    assert len(left & set(old)) == 1
    await app.sweeper.sweep()
    assert {run.id for run in (await app.runs.list(here.local)).items} == {young, running.id}
    await use(app, token, here.integration.id)


async def ended(app: App, here: Desk, superuser: Past, days: int) -> object:
    """A run that ended so many days ago."""
    run, _ = await here.open()
    await app.runs.finish(here.agent, run.id, run.fencing_token)
    await sql(
        superuser, "UPDATE runs SET ended_at = now() - make_interval(days => %(d)s) WHERE id = %(r)s", d=days, r=run.id
    )
    return run.id
