"""
How many runs are under way at once: of an agent, of a company, on an orchestrator; and who is first.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from company_agents.errors import TooMany
from company_agents.runs import room
from company_agents.runs.adapters.base import Outcome, Output, Work
from tests.dispatch.conftest import Desk, MakeDesk, Orchestrate, Scripted, hang, until


class Doors:
    """Runs that go on until they are let out; how many were under way at once, at most."""

    def __init__(self) -> None:
        self.out = asyncio.Semaphore(0)
        self.now: dict[UUID, int] = {}
        self.most: dict[UUID, int] = {}
        self.order: list[str] = []

    async def __call__(self, work: Work, output: Output) -> Outcome:
        self.order.append(work.prompt)
        for whose in (work.agent_id, work.company_id):
            self.now[whose] = self.now.get(whose, 0) + 1
            self.most[whose] = max(self.most.get(whose, 0), self.now[whose])
        try:
            async with self.out:
                self.out.release()
            return Outcome("finished")
        finally:
            for whose in (work.agent_id, work.company_id):
                self.now[whose] -= 1


async def under_way(here: Desk, number: int) -> bool:
    return len((await here.app.runs.list(here.local, state="running")).items) == number


@pytest.mark.parametrize("of", ["agent", "company"])
async def test_no_more_runs_are_under_way_than_may_be_and_those_that_wait_are_begun_in_their_order(
    desk: MakeDesk, orchestrator: Orchestrate, of: str
) -> None:
    here, doors = await desk(), Doors()
    agent = here.agent if of == "agent" else None
    await here.app.limits.set(here.local, agent, {"runs_at_once": 2})
    for _ in range(2):
        await orchestrator(adapter=Scripted(does=doors))
    runs = [await here.start(f"run {n}") for n in range(6)]
    await until(lambda: under_way(here, 2), "none was begun")
    doors.out.release()
    for run in runs:
        await here.becomes(run.id, "finished")
    assert doors.most[here.agent if of == "agent" else here.tenant.company.id] <= 2
    if of == "agent":
        assert sorted(doors.order[:2]) == ["run 0", "run 1"]


async def test_a_run_that_an_agent_opens_itself_counts_too(desk: MakeDesk, orchestrator: Orchestrate) -> None:
    here = await desk()
    await here.app.limits.set(here.local, here.agent, {"runs_at_once": 1})
    there = await orchestrator(adapter=Scripted(does=hang))
    opened, _ = await here.app.runs.open(here.tenant.agent)
    waiting = await here.start()
    with pytest.raises(TooMany, match="1 runs under way"):
        await here.app.runs.open(here.tenant.agent)
    assert there.works(waiting.id) == []
    await here.app.runs.finish(here.tenant.agent, opened.id, 1)
    await there.begins(waiting.id)
    with pytest.raises(TooMany):
        await here.app.runs.open(here.tenant.agent)


async def test_what_one_company_may_not_keeps_no_other_from_working(desk: MakeDesk, orchestrator: Orchestrate) -> None:
    here, other = await desk(), await desk()
    await here.app.limits.set(here.local, None, {"runs_at_once": 1})
    await orchestrator(adapter=Scripted(does=hang))
    for _ in range(3):
        await here.start()
    runs = [await other.start() for _ in range(3)]
    for run in runs:
        await other.becomes(run.id, "running")
    await until(lambda: under_way(here, 1), "none of it was begun")


async def test_an_orchestrator_takes_no_more_than_it_can_do_and_another_has_the_rest(
    desk: MakeDesk, orchestrator: Orchestrate
) -> None:
    here = await desk()
    one = await orchestrator(adapter=Scripted(does=hang), at_once=2)
    runs = [await here.start() for _ in range(5)]
    await until(lambda: under_way(here, 2), "none was begun")
    # One that takes none leaves them to others.
    none = await orchestrator(adapter=Scripted(does=hang), at_once=0)
    other = await orchestrator(adapter=Scripted(does=hang), at_once=3)
    for run in runs:
        await here.becomes(run.id, "running")
    assert [at.dispatcher.running for at in (one, none, other)] == [2, 0, 3]


async def test_so_many_runs_of_one_agent_wait_and_no_more(desk: MakeDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert room.MOST_QUEUED == 1000
    monkeypatch.setattr(room, "MOST_QUEUED", 3)
    here = await desk()
    for _ in range(3):
        await here.start()
    with pytest.raises(TooMany, match="3 runs of this agent are waiting"):
        await here.start()
