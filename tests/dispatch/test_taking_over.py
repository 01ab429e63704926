"""
Whose lease has ended holds nothing any more: its work goes to another, and whatever it still writes is refused.
"""

from __future__ import annotations

import asyncio
import functools
from uuid import UUID

import psycopg
import pytest

from company_agents.app import App
from company_agents.errors import CompanyAgentsError, Conflict, NotFound, Unauthenticated
from company_agents.identity.principal import Caller
from company_agents.integrations.integrations import Integration
from company_agents.runs.adapters.base import Outcome, Output, Work
from company_agents.runs.output import RunLog
from company_agents.sensitive import Sensitive
from tests.dispatch.conftest import Desk, MakeDesk, Orchestrate, Orchestrator, Scripted, hang, until
from tests.promises.evidence import address, sql
from tests.runs.conftest import Service, service

__all__ = ["service"]


async def lease_over(here: Desk, run_id: UUID) -> None:
    """Time goes by until the lease is over; whoever holds it was stopped before, and knows nothing."""
    await sql(here.superuser, "UPDATE runs SET lease_until = clock_timestamp() WHERE id = %(r)s", r=run_id)


async def connected(here: Desk, service: Service, token: str = "first-token") -> Integration:
    return await here.app.integrations.connect(
        here.local,
        "generic",
        Sensitive(token),
        base_url=service.url,
        allow_private_network=True,
        allow=[here.agent],
    )


async def held_by_one_that_stands_still(here: Desk, orchestrator: Orchestrate) -> tuple[Orchestrator, Work]:
    """A run under way, on an orchestrator that does nothing any more from then on."""
    there = await orchestrator(adapter=Scripted(does=hang))
    work = await there.begins((await here.start()).id)
    await there.parts.jobs.stop_taking()
    for loop in there.dispatcher._loops:
        loop.cancel()
    return there, work


async def test_the_work_of_a_lease_that_ran_out_is_begun_anew_by_another(
    desk: MakeDesk, orchestrator: Orchestrate, service: Service
) -> None:
    here = await desk()
    integration = await connected(here, service)
    _, old = await held_by_one_that_stands_still(here, orchestrator)
    await here.app.integrations.rotate(here.local, integration.id, Sensitive("second-token"))
    there = await orchestrator(adapter=Scripted(does=hang))
    await lease_over(here, old.run_id)
    new = await there.begins(old.run_id)
    assert (new.fence, new.prompt) == (2, old.prompt)
    assert new.token != old.token
    run = await here.run(old.run_id)
    assert (run.state, run.fencing_token, [pin.version for pin in run.pins]) == ("running", 2, [2])
    assert await here.events(run.id) == ["run.started", "run.claimed", "run.expired", "run.taken_over"]


async def writes(app: App, here: Desk, caller: Caller, work: Work, integration: Integration, fence: int) -> None:
    """Everything that a run may write, one after the other; each is refused."""
    task = await app.tasks.create(here.local, "a task")
    note = await app.memory.write(here.tenant.agent, "a note")
    runs, tasks, memory = app.runs, app.tasks, app.memory
    refused: list[str] = []
    for write in (
        runs.renew(caller, work.run_id, fence),
        runs.finish(caller, work.run_id, fence),
        runs.finish(caller, work.run_id, fence, outcome="failed"),
        tasks.create(caller, "mine"),
        tasks.update(caller, task.id, status="done"),
        tasks.comment(caller, task.id, "done"),
        memory.write(caller, "a late note"),
        memory.write(caller, "another", memory_id=note.id),
        memory.delete(caller, note.id),
        app.requests.request(caller, str(integration.id), "POST", "/things"),
    ):
        with pytest.raises(CompanyAgentsError) as error:
            await write
        refused.append(error.value.reason)
    assert set(refused) <= {"run_over", "stale_fence", "not_found"}
    assert (await tasks.get(here.local, task.id)).status == "open"
    assert (await tasks.get(here.local, task.id)).comments == []
    assert {found.content for found in await memory.search(here.tenant.agent, "")} == {"a note"}


@pytest.mark.parametrize("when", ["its lease is over", "its work waits", "another has begun it", "it was cancelled"])
async def test_every_late_write_of_the_holder_before_is_refused(
    app: App, desk: MakeDesk, orchestrator: Orchestrate, service: Service, when: str
) -> None:
    here = await desk()
    integration = await connected(here, service)
    _, old = await held_by_one_that_stands_still(here, orchestrator)
    # One that was let in at the door, and writes only now.
    caller = await app.identity.worker(old.token.reveal_text())
    log = RunLog(here.local.scope, old.run_id, old.fence, old.token)
    await log.start()
    if when == "it was cancelled":
        await app.runs.cancel(here.local, old.run_id)
    else:
        await lease_over(here, old.run_id)
    if when == "its work waits":
        await app.agents.pause(here.local, here.agent)
        await app.sweeper.end_late(here.local.scope)
    elif when == "another has begun it":
        there = await orchestrator(adapter=Scripted(does=hang))
        await there.begins(old.run_id)
    before = await here.run(old.run_id)
    for fence in (1, 2):
        await writes(app, here, caller, old, integration, fence)
    assert service.brought == []
    with pytest.raises(Unauthenticated):
        await app.identity.worker(old.token.reveal_text())
    await log.write("output", "late words")
    await log.close()
    # The last words of what was cancelled are its own; nobody else has begun it.
    kept = [line.text for line in await app.runs.output(here.local, old.run_id)]
    assert kept == (["late words"] if when == "it was cancelled" else [])
    assert await here.run(old.run_id) == before


async def test_a_cost_of_a_call_that_was_under_way_does_not_count_for_the_start_after_it(
    desk: MakeDesk, orchestrator: Orchestrate
) -> None:
    here = await desk()
    _, old = await held_by_one_that_stands_still(here, orchestrator)
    await sql(here.superuser, "UPDATE runs SET tokens = 7 WHERE id = %(r)s", r=old.run_id)
    there = await orchestrator(adapter=Scripted(does=hang))
    await lease_over(here, old.run_id)
    await there.begins(old.run_id)
    # What the work has cost so far is kept: its budget is that of the run, over all its starts.
    assert (await here.run(old.run_id)).tokens == 7


async def test_work_whose_lease_runs_out_three_times_is_given_up(desk: MakeDesk, orchestrator: Orchestrate) -> None:
    here = await desk()
    _, work = await held_by_one_that_stands_still(here, orchestrator)
    there = await orchestrator(adapter=Scripted(does=hang))
    for fence in (2, 3):
        await lease_over(here, work.run_id)
        await until(functools.partial(begun, there, work.run_id, fence), f"start {fence} did not come")
    await lease_over(here, work.run_id)
    ended = await here.becomes(work.run_id, "expired")
    assert (ended.reason, ended.fencing_token) == ("its lease ran out 3 times", 3)
    await here.becomes((await here.start()).id, "running")
    assert (await here.run(work.run_id)).state == "expired"


async def begun(there: Orchestrator, run_id: UUID, fence: int) -> bool:
    return any(work.fence == fence for work in there.works(run_id))


async def test_a_clean_stop_hands_its_runs_over_at_once_and_they_lose_no_start(
    desk: MakeDesk, orchestrator: Orchestrate
) -> None:
    here = await desk()
    first = await orchestrator(adapter=Scripted(does=hang))
    run = await here.start()
    for fence in (1, 2, 3, 4):
        await until(functools.partial(begun, first, run.id, fence), f"start {fence} did not come")
        second = await orchestrator(adapter=Scripted(does=hang))
        await first.dispatcher.close()
        assert run.id in first.adapter.stopped
        first = second
    await until(lambda: begun(first, run.id, 5), "it was not handed over")
    assert (await here.events(run.id)).count("run.handed_over") == 4
    assert "run.expired" not in await here.events(run.id)


async def test_who_cannot_renew_stops_before_another_may_begin(
    app: App, desk: MakeDesk, orchestrator: Orchestrate
) -> None:
    here = await desk()
    ended: list[UUID] = []

    async def slow_to_end(work: Work, output: Output) -> Outcome:
        try:
            return await hang(work, output)
        finally:
            # What it awaits while it ends is not broken off.
            await asyncio.sleep(2.5)
            ended.append(work.run_id)

    there = await orchestrator(adapter=Scripted(does=slow_to_end), lease=4)
    run = await here.start()
    await there.begins(run.id)
    # A connection that holds the table: no renewal goes through, nobody says no, and nobody takes the run on.
    async with await psycopg.AsyncConnection.connect(address(app, "postgres")) as holder:
        await holder.execute("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE")
        await until(lambda: stopped(there, run.id), "it goes on without a lease")
    assert ended == [run.id]
    # Its work is begun anew, here or elsewhere.
    await until(lambda: begun(there, run.id, 2), "its work is lost")


async def stopped(there: Orchestrator, run_id: UUID) -> bool:
    return run_id in there.adapter.stopped


async def nothing_runs(there: Orchestrator) -> bool:
    return there.dispatcher.running == 0


async def test_under_a_seal_nothing_is_executed_and_after_it_the_work_goes_on(
    app: App, desk: MakeDesk, orchestrator: Orchestrate
) -> None:
    here = await desk()
    there = await orchestrator(adapter=Scripted(does=hang))
    app.panic.followers.append(there.dispatcher.seal)
    try:
        run, waiting = await here.start(), None
        await there.begins(run.id)
        waiting = await here.start()
        await there.begins(waiting.id)
        await app.panic.seal("local:tester")
        await until(lambda: stopped(there, run.id), "it goes on under a seal")
        await until(lambda: stopped(there, waiting.id), "it goes on under a seal")
        await until(lambda: nothing_runs(there), "it holds on to what it has stopped")
        await there.dispatcher.deliver(run.company_id, run.id)
        assert there.dispatcher.running == 0
    finally:
        app.panic.followers.remove(there.dispatcher.seal)
        if app.held.sealed:
            await app.panic.unseal("local:tester")
    await lease_over(here, run.id)
    await until(lambda: begun(there, run.id, 2), "its work is lost")


async def test_two_who_are_told_of_one_run_begin_it_once(desk: MakeDesk, orchestrator: Orchestrate) -> None:
    here = await desk()
    one, other = await orchestrator(), await orchestrator()
    runs = [await here.start() for _ in range(6)]
    await asyncio.gather(
        *(at.dispatcher.deliver(run.company_id, run.id) for run in runs for at in (one, other) for _ in range(2))
    )
    for run in runs:
        await here.becomes(run.id, "finished")
        assert len(one.works(run.id)) + len(other.works(run.id)) == 1
        assert await here.events(run.id) == ["run.started", "run.claimed", "run.finished"]


async def test_an_end_that_was_written_stays_the_end(desk: MakeDesk, orchestrator: Orchestrate) -> None:
    here = await desk()
    await orchestrator()
    run = await here.start()
    await here.becomes(run.id, "finished")
    with pytest.raises(Conflict):
        await here.app.runs.cancel(here.local, run.id)
    with pytest.raises(NotFound):
        await here.app.runs.finish((await desk()).tenant.agent, run.id, 1)
