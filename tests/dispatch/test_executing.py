"""
A run from its start to its end, executed by an orchestrator.
"""

from __future__ import annotations

from tests.dispatch.conftest import Desk, Orchestrate, Scripted, fail, hang, until
from collections.abc import Awaitable, Callable

MakeDesk = Callable[..., Awaitable[Desk]]


async def test_a_run_that_is_started_is_executed_and_finished(desk: MakeDesk, orchestrator: Orchestrate) -> None:
    here = await desk()
    there = await orchestrator()
    run = await here.start("count the stars")
    assert (run.state, run.fencing_token) == ("queued", 0)
    ended = await here.becomes(run.id, "finished", "failed")
    assert (ended.state, ended.reason, ended.fencing_token) == ("finished", "done", 1)
    [line] = await here.app.runs.output(here.local, run.id)
    assert line.text == "worked on count the stars\n"
    [work] = there.adapter.begun
    assert not work.workspace.exists()
