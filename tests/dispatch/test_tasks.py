"""
A task that is assigned to an agent whose runs are executed by orchestrators starts one.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from company_agents.app import App
from company_agents.identity.principal import Caller
from company_agents.runs import starting
from company_agents.runs.adapters.base import Outcome, Output, Work
from company_agents.runs.model import Run
from company_agents.work.tasks import Nobody
from tests.dispatch.conftest import Desk, MakeDesk, Orchestrate, Scripted
from tests.promises.evidence import recorded, sql


async def runs_of(here: Desk, task: UUID) -> list[Run]:
    return (await here.app.runs.list(here.local, task=task)).items


async def colleague(here: Desk, name: str = "bob") -> Caller:
    """Another agent of the company, that works by itself."""
    _, token = await here.app.agents.create(here.local, name)
    return await here.app.identity.agent(token.reveal_text())


async def test_an_open_task_that_is_assigned_starts_one_run_and_not_another_while_that_goes_on(
    desk: MakeDesk, orchestrator: Orchestrate
) -> None:
    here, done = await desk(), asyncio.Event()
    task = await here.app.tasks.create(here.local, "Count the stars", "All of them.")
    assert await runs_of(here, task.id) == []
    await here.app.tasks.update(here.local, task.id, assignee=here.agent)
    [run] = await runs_of(here, task.id)
    assert (run.agent_id, run.state, run.purpose, run.started_by) == (
        here.agent,
        "queued",
        "Count the stars",
        here.local.label,
    )

    async def wait(work: Work, output: Output) -> Outcome:
        await done.wait()
        return Outcome("finished")

    there = await orchestrator(adapter=Scripted(does=wait))
    assert "All of them." in (await there.begins(run.id)).prompt
    await asyncio.gather(*(here.app.tasks.update(here.local, task.id, assignee=here.agent) for _ in range(5)))
    assert len(await runs_of(here, task.id)) == 1
    done.set()
    await here.becomes(run.id, "finished")
    # Assigned once more, while it is still open: it is tried again.
    await here.app.tasks.update(here.local, task.id, assignee=here.agent)
    assert len(await runs_of(here, task.id)) == 2


async def test_many_who_assign_one_task_at_once_start_one_run(desk: MakeDesk) -> None:
    here = await desk()
    task = await here.app.tasks.create(here.local, "Count the stars")
    await asyncio.gather(*(here.app.tasks.update(here.local, task.id, assignee=here.agent) for _ in range(8)))
    assert len(await runs_of(here, task.id)) == 1


@pytest.mark.parametrize("to", ["nobody", "another"])
async def test_a_task_that_its_agent_has_no_longer_leaves_the_runs_alone_that_it_has_started(
    desk: MakeDesk, orchestrator: Orchestrate, to: str
) -> None:
    here, done = await desk(), asyncio.Event()
    bob = (await colleague(here)).agent_id()
    now = None if to == "nobody" else bob
    which: UUID | Nobody = now or "nobody"
    waiting = await here.app.tasks.create(here.local, "Count the stars", assignee=here.agent)
    under_way = await here.app.tasks.create(here.local, "Count the moons", assignee=here.agent)

    async def wait(work: Work, output: Output) -> Outcome:
        await done.wait()
        return Outcome("finished")

    [queued], [running] = [await runs_of(here, task.id) for task in (waiting, under_way)]
    # Of one that is still queued.
    assert (await here.app.tasks.update(here.local, waiting.id, assignee=which)).assignee == now
    assert [run.state for run in await runs_of(here, waiting.id)] == ["queued"]
    there = await orchestrator(adapter=Scripted(does=wait))
    await there.begins(running.id)
    # And of one that is under way.
    assert (await here.app.tasks.update(here.local, under_way.id, assignee=which)).assignee == now
    assert "Count the stars" in (await there.begins(queued.id)).prompt
    done.set()
    for run in (queued, running):
        await here.becomes(run.id, "finished")
    # Nothing was started for whoever has it now.
    assert [len(await runs_of(here, task.id)) for task in (waiting, under_way)] == [1, 1]


async def test_what_else_is_changed_of_a_task_leaves_it_to_its_agent(desk: MakeDesk) -> None:
    here = await desk()
    task = await here.app.tasks.create(here.local, "Count the stars", assignee=here.agent)
    assert (await here.app.tasks.update(here.local, task.id, title="Count the moons")).assignee == here.agent
    assert (await here.app.tasks.update(here.local, task.id, assignee="nobody")).assignee is None
    # Assigned again, and its run of before is still there.
    await here.app.tasks.update(here.local, task.id, assignee=here.agent)
    assert len(await runs_of(here, task.id)) == 1


async def test_whoever_may_assign_a_task_starts_its_run_also_another_agent(desk: MakeDesk) -> None:
    here = await desk()
    bob = await colleague(here)
    task = await here.app.tasks.create(bob, "Count the stars", assignee=here.agent)
    [run] = await runs_of(here, task.id)
    assert run.started_by == bob.label


@pytest.mark.parametrize(
    "why", ["it is not open", "its agent works by itself", "it takes it on itself", "its own run does", "it is retired"]
)
async def test_no_run_is_started_where(app: App, desk: MakeDesk, why: str) -> None:
    here = await desk()
    caller, agent, status = here.local, here.agent, "open"
    if why == "it is not open":
        status = "in_progress"
    elif why == "its agent works by itself":
        agent = (await colleague(here)).agent_id()
    elif why == "it takes it on itself":
        caller = here.tenant.agent
    elif why == "its own run does":
        _, token = await app.runs.open(here.tenant.agent)
        caller = await app.identity.worker(token.reveal_text())
    else:
        await app.agents.retire(here.local, here.agent)
    task = await app.tasks.create(caller, "Count the stars")
    await app.tasks.update(caller, task.id, status=status, assignee=agent)
    assert await runs_of(here, task.id) == []
    assert (await app.tasks.get(here.local, task.id)).assignee == agent


async def test_agents_that_assign_tasks_to_one_another_for_ever_start_so_many_runs_an_hour_and_no_more(
    app: App, desk: MakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert starting.MOST_BY_TASKS == 60
    monkeypatch.setattr(starting, "MOST_BY_TASKS", 3)
    here, other = await desk(), await desk()
    bob = await colleague(here)
    tasks = await asyncio.gather(*(app.tasks.create(bob, f"task {n}", assignee=here.agent) for n in range(8)))
    assert sorted([len(await runs_of(here, task.id)) for task in tasks]) == [0] * 5 + [1] * 3
    assert len(await recorded(app, here.tenant.company.id, "run.not_started")) == 1
    # It is no limit for what people start, nor for another company.
    await here.start()
    task = await app.tasks.create(other.local, "theirs", assignee=other.agent)
    assert len(await runs_of(other, task.id)) == 1
    await sql(here.superuser, "UPDATE runs SET created_at = created_at - interval '1 hour' WHERE by_task")
    task = await app.tasks.create(bob, "an hour later", assignee=here.agent)
    assert len(await runs_of(here, task.id)) == 1
