"""
A run from its start to its end, executed by an orchestrator.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from company_agents.app import App
from company_agents.companies.scope import CompanyScope
from company_agents.errors import Conflict, NotFound, Refused, Unauthenticated, Unavailable, WrongUsage
from company_agents.identity.permissions import Kind
from company_agents.runs.adapters.base import Outcome, Output, Work
from company_agents.sensitive import Sensitive
from tests.dispatch.conftest import SLOWEST, MakeDesk, Orchestrate, Scripted, fail, hang, until
from tests.promises.evidence import sql
from tests.runs.conftest import Service, service

__all__ = ["service"]


async def gone(app: App, token: Sensitive) -> bool:
    """Whether a token is refused."""
    try:
        await app.identity.worker(token.reveal_text())
    except Unauthenticated:
        return True
    return False


async def test_a_run_that_is_started_is_executed_and_finished(desk: MakeDesk, orchestrator: Orchestrate) -> None:
    here = await desk()
    run = await here.start("count the stars\nand the moons")
    assert (run.state, run.fencing_token, run.purpose) == ("queued", 0, "count the stars")
    assert (run.adapter, run.started_by) == ("llm", here.local.label)
    there = await orchestrator()
    ended = await here.becomes(run.id, "finished", "failed")
    assert (ended.state, ended.reason, ended.fencing_token) == ("finished", "done", 1)
    lines = await here.app.runs.output(here.local, run.id)
    assert [(line.seq, line.fence, line.stream, line.text) for line in lines] == [
        (1, 1, "output", "worked on count the stars\nand the moons\n")
    ]
    work = await there.begins(run.id)
    assert (work.company_id, work.agent_id, work.fence) == (here.tenant.company.id, here.agent, 1)
    assert await until(lambda: missing(work), "its workspace is still there")
    assert await here.events(run.id) == ["run.started", "run.claimed", "run.finished"]


async def missing(work: Work) -> bool:
    return not work.workspace.exists()


async def test_a_workspace_is_empty_and_of_this_start_alone(desk: MakeDesk, orchestrator: Orchestrate) -> None:
    seen: list[tuple[list[str], int]] = []

    async def look(work: Work, output: Output) -> Outcome:
        seen.append(([entry.name for entry in work.workspace.iterdir()], work.workspace.stat().st_mode & 0o777))
        (work.workspace / "left").write_text("x")
        return Outcome("finished")

    here = await desk()
    await orchestrator(adapter=Scripted(does=look))
    for _ in range(2):
        await here.becomes((await here.start()).id, "finished")
    assert seen == [([], 0o700)] * 2


@pytest.mark.parametrize("foreign", [False, True])
async def test_what_an_adapter_raises_fails_the_run_and_says_nothing_of_a_foreign_error(
    desk: MakeDesk, orchestrator: Orchestrate, foreign: bool
) -> None:
    async def stumble(work: Work, output: Output) -> Outcome:
        raise KeyError("xoxb-a-value-that-nobody-sees")

    here = await desk()
    await orchestrator(adapter=Scripted(does=stumble if foreign else fail))
    ended = await here.becomes((await here.start()).id, "failed")
    assert ended.reason == ("its adapter failed (KeyError)" if foreign else "the model has gone home")


async def test_a_reason_is_kept_whatever_is_in_it(desk: MakeDesk, orchestrator: Orchestrate) -> None:
    async def says(work: Work, output: Output) -> Outcome:
        return Outcome("failed", "the model said \0 and \ud800 and\n\x1b[2J" + "x" * 2000)

    here = await desk()
    await orchestrator(adapter=Scripted(does=says))
    run = await here.start()
    reason = (await here.becomes(run.id, "failed")).reason
    assert (reason[:37], len(reason)) == ("the model said � and � and��[2Jxxxxxx", 1000)


async def test_what_was_done_stays_done_when_a_stop_comes_while_that_is_written(
    desk: MakeDesk, orchestrator: Orchestrate
) -> None:
    away, back = asyncio.Event(), asyncio.Event()

    class Away(CompanyScope):
        def transaction(self) -> Any:
            if back.is_set():
                return super().transaction()
            away.set()
            raise Unavailable("the database does not answer")

    async def done(work: Work, output: Output) -> Outcome:
        execution = there.dispatcher._running[work.run_id]
        scope = execution.claimed.scope
        execution.claimed = replace(execution.claimed, scope=Away(scope.company_id, scope.db))
        return Outcome("finished", "the mail is sent")

    here = await desk()
    there = await orchestrator(adapter=Scripted(does=done))
    run = await here.start()
    await asyncio.wait_for(away.wait(), SLOWEST)
    [execution] = there.dispatcher._running.values()
    closing = asyncio.create_task(there.dispatcher.close())
    while execution.stopped is None:
        await asyncio.sleep(0.01)
    back.set()
    await closing
    assert (await here.run(run.id)).state == "finished"


async def test_the_runs_token_is_its_own_and_dies_with_it(desk: MakeDesk, orchestrator: Orchestrate) -> None:
    here, done = await desk(), asyncio.Event()

    async def wait(work: Work, output: Output) -> Outcome:
        await done.wait()
        return Outcome("finished")

    there = await orchestrator(adapter=Scripted(does=wait))
    run = await here.start()
    work = await there.begins(run.id)
    caller = await here.app.identity.worker(work.token.reveal_text())
    assert (caller.principal.kind, caller.principal.run_id, caller.agent_id()) == (Kind.RUN, run.id, here.agent)
    # A new token of the agent, which its next run is not shown either, leaves it alone.
    await here.app.agents.rotate_token(here.local, here.agent)
    assert not await gone(here.app, work.token)
    done.set()
    await here.becomes(run.id, "finished")
    assert await gone(here.app, work.token)
    again = await here.start()
    assert (await there.begins(again.id)).token != work.token


async def test_its_pins_are_those_of_its_beginning_and_not_of_its_start(
    desk: MakeDesk, orchestrator: Orchestrate, service: Service
) -> None:
    here = await desk()
    integration = await here.app.integrations.connect(
        here.local,
        "generic",
        Sensitive("first-token"),
        base_url=service.url,
        allow_private_network=True,
        allow=[here.agent],
    )
    run = await here.start()
    await here.app.integrations.rotate(here.local, integration.id, Sensitive("second-token"))
    there = await orchestrator(adapter=Scripted(does=hang))
    work = await there.begins(run.id)
    await here.app.integrations.rotate(here.local, integration.id, Sensitive("third-token"))
    assert [pin.version for pin in (await here.run(run.id)).pins] == [2]
    caller = await here.app.identity.worker(work.token.reveal_text())
    service.brought.clear()
    await here.app.requests.request(caller, str(integration.id), "GET", "/things")
    assert service.brought == ["second-token"]


async def test_a_run_for_a_task_is_told_what_that_says(desk: MakeDesk, orchestrator: Orchestrate) -> None:
    here = await desk()
    task = await here.app.tasks.create(here.local, "Count the stars", "All that can be seen.")
    run = await here.app.runs.start(here.local, here.agent, task=task.id, prompt="Take your time.")
    there = await orchestrator()
    work = await there.begins(run.id)
    assert (work.task_id, run.purpose) == (task.id, "Count the stars")
    for said in ("Take your time.", str(task.id), "Count the stars", "All that can be seen."):
        assert said in work.prompt


# — stopped —


async def test_a_cancelled_run_is_dead_at_once_and_its_adapter_is_stopped(
    desk: MakeDesk, orchestrator: Orchestrate
) -> None:
    here = await desk()
    there = await orchestrator(adapter=Scripted(does=hang))
    run = await here.start()
    work = await there.begins(run.id)
    assert (await here.app.runs.cancel(here.local, run.id, "enough")).state == "cancelled"
    assert await gone(here.app, work.token)
    await until(lambda: stopped(there.adapter, run.id), "its adapter goes on")
    assert (await here.run(run.id)).reason == "enough"
    assert await here.events(run.id) == ["run.started", "run.claimed", "run.cancelled"]


async def stopped(adapter: Scripted, run_id: UUID) -> bool:
    return run_id in adapter.stopped


async def test_a_run_that_is_cancelled_while_it_waits_is_never_begun(desk: MakeDesk, orchestrator: Orchestrate) -> None:
    here = await desk()
    run = await here.start()
    await here.app.runs.cancel(here.local, run.id)
    there = await orchestrator()
    await here.becomes((await here.start()).id, "finished")
    assert there.works(run.id) == []


@pytest.mark.parametrize(
    ("limit", "change", "reason"),
    [
        ({"time_limit": 10}, "started_at = started_at - interval '10 seconds'", "its time of 10 seconds was over"),
        ({"token_limit": 500}, "tokens = 500", "its budget is spent"),
        ({"micros_limit": 2_500_000}, "micros = 2500001", "its budget is spent"),
    ],
)
async def test_a_run_that_is_over_a_limit_is_stopped_and_has_failed(
    desk: MakeDesk, orchestrator: Orchestrate, limit: dict[str, Any], change: str, reason: str
) -> None:
    here = await desk()
    there = await orchestrator(adapter=Scripted(does=hang))
    run = await here.start(**limit)
    await there.begins(run.id)
    await sql(here.superuser, f"UPDATE runs SET {change} WHERE id = %(r)s", r=run.id)
    ended = await here.becomes(run.id, "failed", "expired")
    assert (ended.state, ended.reason) == ("failed", reason)
    assert run.id in there.adapter.stopped


async def test_a_limit_is_never_above_those_of_the_agent_and_its_company(desk: MakeDesk) -> None:
    here = await desk()
    await here.app.limits.set(here.local, None, {"run_seconds": 100, "run_tokens": 1000})
    await here.app.limits.set(here.local, here.agent, {"run_seconds": 500, "run_micros": 70})
    run = await here.start(time_limit=9000, token_limit=10, micros_limit=71)
    assert (run.time_limit, run.token_limit, run.micros_limit) == (100, 10, 70)
    assert (await here.start()).token_limit == 1000


async def test_a_run_that_its_agent_finishes_over_the_api_is_finished_once(
    desk: MakeDesk, orchestrator: Orchestrate
) -> None:
    here = await desk()

    async def finish(work: Work, output: Output) -> Outcome:
        caller = await here.app.identity.worker(work.token.reveal_text())
        await here.app.runs.finish(caller, work.run_id, work.fence, reason="said by itself")
        await output.write("output", "last words")
        return Outcome("failed", "the process ended with status 1")

    await orchestrator(adapter=Scripted(does=finish))
    run = await here.start()
    ended = await here.becomes(run.id, "finished", "failed")
    assert (ended.state, ended.reason) == ("finished", "said by itself")
    [line] = await until(lambda: here.app.runs.output(here.local, run.id), "its last words are lost")
    assert line.text == "last words"
    assert (await here.events(run.id)).count("run.finished") == 1


# — agents that do not work —


async def test_the_runs_of_a_paused_agent_wait_until_it_is_resumed(desk: MakeDesk, orchestrator: Orchestrate) -> None:
    here, other = await desk(), await desk()
    await here.app.agents.pause(here.local, here.agent)
    there = await orchestrator()
    run = await here.start()
    await other.becomes((await other.start()).id, "finished")
    assert ((await here.run(run.id)).state, there.works(run.id)) == ("queued", [])
    await here.app.agents.resume(here.local, here.agent)
    await here.becomes(run.id, "finished")


async def test_the_runs_of_a_retired_agent_are_cancelled(desk: MakeDesk, orchestrator: Orchestrate) -> None:
    here = await desk()
    there = await orchestrator(adapter=Scripted(does=hang), at_once=1)
    under_way = await here.start()
    await there.begins(under_way.id)
    waiting = await here.start()
    await here.app.agents.retire(here.local, here.agent)
    for run in (under_way, waiting):
        assert (await here.becomes(run.id, "cancelled")).reason == "its agent was retired"
    await until(lambda: stopped(there.adapter, under_way.id), "its adapter goes on")
    with pytest.raises(Conflict, match="retired"):
        await here.start()


async def test_a_run_whose_agent_has_no_adapter_any_more_has_failed(desk: MakeDesk, orchestrator: Orchestrate) -> None:
    here = await desk()
    run = await here.start()
    await here.set(adapter=None)
    await orchestrator()
    assert (await here.becomes(run.id, "failed")).reason == "its agent has no adapter any more"


# — who may, and what for —


async def test_only_for_an_agent_with_an_adapter_and_with_something_to_do(desk: MakeDesk) -> None:
    here = await desk()
    with pytest.raises(WrongUsage, match="something to do"):
        await here.start("  \n ")
    with pytest.raises(WrongUsage, match="at most"):
        await here.start("x" * 50_001)
    with pytest.raises(WrongUsage, match="time limit"):
        await here.start(time_limit=9)
    with pytest.raises(NotFound, match="task"):
        await here.start(task=here.agent)
    with pytest.raises(NotFound, match="agent"):
        await here.app.runs.start(here.local, here.tenant.company.id, prompt="x")
    with pytest.raises(Refused, match="company:run:start"):
        await here.app.runs.start(here.tenant.agent, here.agent, prompt="x")
    await here.set(adapter=None)
    with pytest.raises(Conflict) as refused:
        await here.start()
    assert refused.value.reason == "no_adapter"


async def test_another_companys_runs_tasks_and_output_are_not_there(desk: MakeDesk) -> None:
    here, there = await desk(), await desk()
    run = await here.start()
    task = await there.app.tasks.create(there.local, "theirs")
    for call in (
        here.app.runs.output(there.local, run.id),
        here.app.runs.cancel(there.local, run.id),
        here.app.runs.start(here.local, there.agent, prompt="x"),
        here.app.runs.start(here.local, here.agent, task=task.id),
        here.app.runs.output(there.tenant.agent, run.id),
    ):
        with pytest.raises(NotFound):
            await call
