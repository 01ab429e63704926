"""
Who owns a run, for how long, and what an end means.
"""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from psycopg import errors

from company_agents.app import App
from company_agents.errors import Conflict, NotFound, Refused, Unauthenticated, WrongUsage
from company_agents.identity.permissions import Kind
from company_agents.runs.model import LEASE, RENEW_AT
from tests.promises.evidence import Past, recorded, sql
from tests.runs.conftest import Desk, MakeDesk, use


async def run_out(superuser: Past, run_id: object) -> None:
    """Time goes by until the lease is over."""
    await sql(superuser, "UPDATE runs SET lease_until = clock_timestamp() WHERE id = %(r)s", r=run_id)


async def token_names(desk: Desk) -> list[str]:
    names = [secret.name for secret in await desk.app.store.list(desk.local.scope)]
    return [name for name in names if name.startswith("run_token/")]


async def test_a_run_is_known_by_its_token_as_itself_and_as_its_agent(app: App, other: App, desk: MakeDesk) -> None:
    here = await desk()
    run, token = await here.open()
    for one in (app, other):
        caller = await one.identity.worker(token)
        assert (caller.principal.kind, caller.principal.run_id) == (Kind.RUN, run.id)
        assert (caller.agent_id(), caller.label) == (here.agent.agent_id(), f"run:{run.id}")
        assert await one.identity.bearer(token) == caller
    await use(app, token, here.integration.id)
    assert len(await recorded(app, here.tenant.company.id, "credential.begun", actor=f"run:{run.id}")) == 1
    assert (run.state, run.fencing_token, [pin.version for pin in run.pins]) == ("running", 1, [1])
    assert run.lease_until is not None and run.started_at is not None
    assert LEASE - 5 < (run.lease_until - run.started_at).total_seconds() <= LEASE


def test_a_lease_leaves_room_for_two_more_attempts_to_renew_it() -> None:
    # docs/runs.md: five minutes, renewed at 60 % of them.
    assert (LEASE, RENEW_AT) == (300, 0.6)


async def test_a_run_may_not_open_another(app: App, desk: MakeDesk) -> None:
    here = await desk()
    _, token = await here.open()
    with pytest.raises(Refused, match="company:run:open"):
        await app.runs.open(await app.identity.worker(token))


async def test_a_new_agent_token_leaves_the_runs_alone_and_a_paused_agent_stops_them(app: App, desk: MakeDesk) -> None:
    here = await desk()
    _, token = await here.open()
    agent = here.agent.agent_id()
    await app.agents.rotate_token(here.local, agent)
    await use(app, token, here.integration.id)
    await app.agents.pause(here.local, agent)
    with pytest.raises(Unauthenticated):
        await app.identity.worker(token)
    await app.agents.resume(here.local, agent)
    await use(app, token, here.integration.id)
    await app.agents.retire(here.local, agent)
    with pytest.raises(Unauthenticated):
        await app.identity.worker(token)


async def test_a_renewed_lease_begins_anew(app: App, desk: MakeDesk, superuser: Past) -> None:
    here = await desk()
    run, token = await here.open()
    await sql(superuser, "UPDATE runs SET lease_until = now() + interval '9 seconds' WHERE id = %(r)s", r=run.id)
    caller = await app.identity.worker(token)
    renewed = await app.runs.renew(caller, run.id, run.fencing_token)
    assert renewed.lease_until is not None and run.lease_until is not None
    assert renewed.lease_until >= run.lease_until
    assert (renewed.state, renewed.fencing_token) == ("running", run.fencing_token)


async def test_with_its_lease_a_run_loses_its_token_at_once_and_nothing_brings_it_back(
    app: App, other: App, desk: MakeDesk, superuser: Past
) -> None:
    here = await desk()
    run, token = await here.open()
    caller = await app.identity.worker(token)
    await here.rotate("second-token")
    await run_out(superuser, run.id)
    for one in (app, other):
        with pytest.raises(Unauthenticated):
            await one.identity.worker(token)
        # One that was let in before, and waited for its turn.
        with pytest.raises(NotFound):
            await one.requests.request(caller, str(here.integration.id), "GET", "/things")
        for late in (one.runs.renew, one.runs.finish):
            with pytest.raises(Conflict) as refused:
                await late(here.agent, run.id, run.fencing_token)
            assert refused.value.reason == "run_over"
    assert here.service.brought == []

    await other.sweeper.sweep()
    found = await app.runs.get(here.local, run.id)
    assert (found.state, found.ended_at is not None) == ("expired", True)
    with pytest.raises(Conflict):
        await app.runs.finish(here.agent, run.id, run.fencing_token)
    with pytest.raises(Unauthenticated):
        await app.identity.worker(token)
    assert await here.versions() == {2: ("current", 0), 1: ("retired", 0)}
    assert (await here.secrets(), await token_names(here)) == ({"2"}, [])
    assert len(await recorded(app, here.tenant.company.id, "run.expired", run=run.id)) == 1


async def test_many_leases_that_ran_out_are_each_ended_once_by_two_sweeps_at_once(
    app: App, other: App, desk: MakeDesk, superuser: Past
) -> None:
    here = await desk()
    runs = [(await here.open())[0].id for _ in range(12)]
    for run_id in runs:
        await run_out(superuser, run_id)
    await asyncio.gather(app.sweeper.sweep(), other.sweeper.sweep())
    page = await app.runs.list(here.local, state="expired")
    assert [run.id for run in page.items] == runs
    events = [event["run"] for event in await recorded(app, here.tenant.company.id, "run.expired")]
    assert sorted(events) == sorted(str(run_id) for run_id in runs)


@pytest.mark.parametrize("stale", [2, 7])
async def test_who_has_another_fencing_token_writes_nothing(app: App, desk: MakeDesk, stale: int) -> None:
    here = await desk()
    run, token = await here.open()
    for write in (app.runs.renew, app.runs.finish):
        with pytest.raises(Conflict) as refused:
            await write(here.agent, run.id, stale)
        assert refused.value.reason == "stale_fence"
    assert await app.runs.get(here.agent, run.id) == run
    await use(app, token, here.integration.id)


async def test_a_holder_from_before_a_new_start_writes_nothing(app: App, desk: MakeDesk, superuser: Past) -> None:
    here = await desk()
    run, _ = await here.open()
    await run_out(superuser, run.id)
    await app.sweeper.sweep()
    # Its work is queued once more, and somebody else begins it.
    await sql(superuser, "UPDATE runs SET state = 'queued', ended_at = NULL WHERE id = %(r)s", r=run.id)
    began = "state = 'running', fence = fence + 1, lease_until = now() + interval '5 minutes'"
    await sql(superuser, f"UPDATE runs SET {began} WHERE id = %(r)s", r=run.id)
    with pytest.raises(Conflict) as refused:
        await app.runs.finish(here.agent, run.id, run.fencing_token)
    assert refused.value.reason == "stale_fence"
    assert (await app.runs.finish(here.agent, run.id, run.fencing_token + 1)).state == "finished"


@pytest.mark.parametrize("outcome", ["finished", "failed"])
async def test_an_end_kills_the_token_and_can_be_said_twice(app: App, desk: MakeDesk, outcome: str) -> None:
    here = await desk()
    run, token = await here.open()
    caller = await app.identity.worker(token)
    ended = await app.runs.finish(caller, run.id, run.fencing_token, outcome=outcome, reason="said so")
    assert (ended.state, ended.reason) == (outcome, "said so")
    with pytest.raises(Unauthenticated):
        await app.identity.worker(token)
    assert await app.runs.finish(here.agent, run.id, run.fencing_token, outcome=outcome) == ended
    other = "failed" if outcome == "finished" else "finished"
    with pytest.raises(Conflict):
        await app.runs.finish(here.agent, run.id, run.fencing_token, outcome=other)
    with pytest.raises(Conflict):
        await app.runs.renew(here.agent, run.id, run.fencing_token)
    with pytest.raises(Conflict):
        await app.runs.cancel(here.local, run.id)
    assert await token_names(here) == []
    assert len(await recorded(app, here.tenant.company.id, f"run.{outcome}", run=run.id)) == 1


async def test_a_cancelled_run_is_refused_from_then_on(app: App, other: App, desk: MakeDesk) -> None:
    here = await desk()
    run, token = await here.open()
    await here.rotate("second-token")
    assert (await other.runs.cancel(here.local, run.id, "enough")).state == "cancelled"
    assert (await app.runs.cancel(here.local, run.id)).reason == "enough"
    with pytest.raises(Unauthenticated):
        await app.identity.worker(token)
    with pytest.raises(Conflict):
        await app.runs.finish(here.agent, run.id, run.fencing_token)
    assert await here.versions() == {2: ("current", 0), 1: ("retired", 0)}


async def test_runs_of_others_are_not_there(app: App, desk: MakeDesk) -> None:
    here, there = await desk(), await desk()
    run, token = await here.open()
    second, second_token = await here.open()
    _, bobs = await app.agents.create(here.local, "bob")
    bob = await app.identity.agent(bobs.reveal_text())
    strangers = [
        bob,
        there.agent,
        await app.identity.worker(second_token),
        await app.identity.worker((await there.open())[1]),
    ]
    for stranger in strangers:
        for call in (
            app.runs.get(stranger, run.id),
            app.runs.renew(stranger, run.id, run.fencing_token),
            app.runs.finish(stranger, run.id, run.fencing_token),
        ):
            with pytest.raises(NotFound):
                await call
        assert run.id not in [entry.id for entry in (await app.runs.list(stranger)).items]
    for caller, seen in (
        (here.agent, [run.id, second.id]),
        (await app.identity.worker(token), [run.id]),
        (bob, []),
    ):
        assert [entry.id for entry in (await app.runs.list(caller)).items] == seen
    assert (await app.runs.list(bob, agent=here.agent.agent_id())).items == []
    with pytest.raises(NotFound):
        await app.runs.cancel(there.local, run.id)
    with pytest.raises(NotFound):
        await app.runs.get(here.agent, uuid4())


async def test_a_run_is_listed_by_agent_and_state(app: App, desk: MakeDesk) -> None:
    here = await desk()
    run, _ = await here.open()
    await app.runs.finish(here.agent, run.id, 1)
    second, _ = await here.open()
    listed = await app.runs.list(here.local, agent=here.agent.agent_id(), state="running")
    assert [entry.id for entry in listed.items] == [second.id]
    assert (await app.runs.list(here.local, agent=uuid4())).items == []
    first = await app.runs.list(here.local, limit=1)
    assert [entry.id for entry in first.items] == [run.id]
    assert [entry.id for entry in (await app.runs.list(here.local, after=first.next)).items] == [second.id]
    with pytest.raises(WrongUsage, match="no such state"):
        await app.runs.list(here.local, state="sleeping")


@pytest.mark.parametrize("text", ["x" * 1001])
async def test_a_purpose_has_an_end(app: App, desk: MakeDesk, text: str) -> None:
    here = await desk()
    with pytest.raises(WrongUsage):
        await app.runs.open(here.agent, text)


@pytest.mark.parametrize(
    ("state", "moved"),
    [
        ("finished", "state = 'running', ended_at = NULL, fence = fence + 1"),
        ("cancelled", "state = 'queued', ended_at = NULL"),
        ("failed", "state = 'finished'"),
        ("expired", "state = 'running', ended_at = NULL, fence = fence + 1"),
    ],
)
async def test_the_database_itself_lets_nothing_that_has_ended_begin_again(
    desk: MakeDesk, superuser: Past, state: str, moved: str
) -> None:
    here = await desk()
    run, _ = await here.open()
    await sql(superuser, f"UPDATE runs SET state = '{state}', ended_at = now() WHERE id = %(r)s", r=run.id)
    with pytest.raises(errors.CheckViolation):
        await sql(superuser, f"UPDATE runs SET {moved} WHERE id = %(r)s", r=run.id)


async def test_the_database_itself_lets_no_fencing_token_go_back(desk: MakeDesk, superuser: Past) -> None:
    here = await desk()
    run, _ = await here.open()
    await sql(superuser, "UPDATE runs SET fence = 5 WHERE id = %(r)s", r=run.id)
    with pytest.raises(errors.CheckViolation):
        await sql(superuser, "UPDATE runs SET fence = 4 WHERE id = %(r)s", r=run.id)
