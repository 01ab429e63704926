"""
Runs that somebody starts, from end to end: queued, executed by a model or by a remote agent, and seen by people.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from company_agents.app import App
from company_agents.runs.adapters.http import HttpAdapter
from company_agents.runs.adapters.llm import LlmAdapter
from company_agents.runs.adapters.llm_client import Waits
from company_agents.runs.model import Run
from tests.adapters.conftest import KEYS, Desk, MakeDesk, executing
from tests.adapters.llm_server import Hang, Llm, Refuse, Say
from tests.adapters.remote import Api, Remote, remote_agent
from tests.mcp.slack import TOKEN, Slack

SLOWEST = 20.0


@pytest.fixture
async def remote() -> AsyncIterator[Remote]:
    async with remote_agent() as started:
        yield started


@pytest.fixture
async def dispatching(app: App, doors: str, tmp_path: Path) -> AsyncIterator[None]:
    """An orchestrator that executes runs of these two kinds, at its own doors."""
    http = app.adapters.kinds["http"]
    assert isinstance(http, HttpAdapter)
    kinds: dict[str, Any] = {"llm": LlmAdapter(waits=Waits(0, 0)), "http": replace(http, url=doors)}
    async with executing(app, kinds, tmp_path, doors):
        yield


async def ended(here: Desk, run_id: uuid.UUID, *states: str) -> Run:
    async with asyncio.timeout(SLOWEST):
        while (run := await here.app.runs.get(here.tenant.local, run_id)).state not in states:
            await asyncio.sleep(0.02)
    return run


async def put_out(here: Desk, run_id: uuid.UUID) -> str:
    return "".join(line.text for line in await here.app.runs.output(here.tenant.local, run_id))


async def works_by_model(here: Desk) -> uuid.UUID:
    agent_id = here.tenant.agent.agent_id()
    config = {"integration": "model", "model": "stand-in", "api": here.api}
    await here.app.adapters.set(here.tenant.local, agent_id, "llm", config)
    return agent_id


async def test_a_task_that_is_assigned_is_done_by_a_model(
    app: App, desk: MakeDesk, dispatching: None, llm: Llm, slack: Slack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    here = await desk("openai")
    agent_id = await works_by_model(here)
    await here.connect("other chat", "generic", slack.url, TOKEN)
    hello = {"integration": "chat", "method": "POST", "path": "/api/chat.postMessage", "body": {"text": "hello"}}
    echo = {"integration": "other chat", "method": "GET", "path": "/api/echo"}
    task = await app.tasks.create(here.tenant.local, "Greet the team", "Say hello.")

    llm.play(
        Say("", [("integration_request", hello), ("integration_request", echo)]),
        Refuse(503, "busy"),
        Say("It is said. ", [("task_comment", {"id": str(task.id), "text": "I said hello."})]),
        Say("", [("task_update", {"id": str(task.id), "status": "done"})]),
        Say("Done."),
    )
    await app.tasks.update(here.tenant.local, task.id, assignee=agent_id)
    [queued] = (await app.runs.list(here.tenant.local, task=task.id)).items
    run = await ended(here, queued.id, "finished", "failed")
    assert (run.state, run.reason) == ("finished", "")
    done = await app.tasks.get(here.tenant.local, task.id)
    assert (done.status, done.comments[-1].text) == ("done", "I said hello.")
    assert done.comments[-1].author == f"run:{run.id}"
    assert {seen["path"] for seen in slack.seen} == {"/api/chat.postMessage", "/api/echo"}
    assert llm.problems == []
    said = await put_out(here, run.id)
    assert "It is said." in said and "→ task_update" in said and "asked again" in said
    # Nothing that opens anything is where people or models look, or in the log.
    everywhere = said + caplog.text + json.dumps(llm.bodies)
    assert not [each for each in (TOKEN, KEYS["openai"], "ca_run_", here.tenant.token) if each in everywhere]


async def test_a_run_that_is_cancelled_in_the_middle_of_an_answer_asks_nothing_more(
    app: App, desk: MakeDesk, dispatching: None, llm: Llm
) -> None:
    here = await desk()
    agent_id = await works_by_model(here)
    llm.play(Hang())
    started = await app.runs.start(here.tenant.local, agent_id, prompt="say something")
    async with asyncio.timeout(SLOWEST):
        await llm.begun.wait()
        await app.runs.cancel(here.tenant.local, started.id)
        await llm.closed.wait()
    assert len(llm.bodies) == 1
    assert (await app.runs.get(here.tenant.local, started.id)).state == "cancelled"


async def test_a_run_whose_budget_is_spent_fails_and_says_so(
    app: App, desk: MakeDesk, dispatching: None, llm: Llm
) -> None:
    here = await desk()
    agent_id = await works_by_model(here)
    llm.play(*[Say("on and on", [("whoami", {})])] * 50)
    started = await app.runs.start(here.tenant.local, agent_id, prompt="say something", token_limit=20)
    run = await ended(here, started.id, "finished", "failed", "expired")
    assert (run.state, "budget" in run.reason) == ("failed", True)
    assert 1 <= len(llm.bodies) <= 3


async def test_a_remote_agent_claims_works_and_finishes_with_nothing_but_what_the_run_gives_it(
    app: App,
    desk: MakeDesk,
    dispatching: None,
    remote: Remote,
    slack: Slack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = await desk()
    agent_id, token = here.tenant.agent.agent_id(), here.tenant.token
    config = {"url": f"{remote.url}/runs", "allow_private_network": True}
    _, secret = await app.adapters.set(here.tenant.local, agent_id, "http", config)
    assert secret is not None
    remote.secret = secret.reveal_text()
    # The first time there is nobody at home, and soon afterwards there is.
    monkeypatch.setattr("company_agents.runs.adapters.http.SCHEDULE", (0.1,))
    remote.answers = [503]
    known: dict[str, Any] = {}

    async def work(told: dict[str, Any]) -> None:
        async with aiohttp.ClientSession() as http:
            claimed = await Api(http, token).post(told["claim_url"])
            known.update(claimed)
            mine, fence = Api(http, claimed["token"]), {"fencing_token": claimed["fencing_token"]}
            await mine.post(f"{told['run_url']}/renew", fence)
            assert (await mine.tool(told["mcp_url"], "whoami"))["run"] == told["run"]
            task = await mine.tool(told["mcp_url"], "task_get", id=told["task"])
            bearer = {"Authorization": f"Bearer {claimed['token']}"}
            url = f"{told['gateway_url']}/chat/api/chat.postMessage"
            async with http.post(url, json={"text": task["title"]}, headers=bearer) as reply:
                assert (await reply.json())["ok"] is True
            tasks = f"{told['api_url']}/companies/{told['company']}/tasks/{told['task']}"
            await mine.post(f"{tasks}/comments", {"text": "I said it."})
            for text in ("Saying it", f", with {claimed['token']}.\n"):
                async with http.post(f"{told['run_url']}/output", json={**fence, "text": text}, headers=bearer) as put:
                    assert put.status == 204
            late = {**fence, "fencing_token": claimed["fencing_token"] + 1, "text": "late"}
            async with http.post(f"{told['run_url']}/output", json=late, headers=bearer) as refused:
                assert (refused.status, (await refused.json())["code"]) == (409, "stale_fence")
            await mine.post(f"{told['run_url']}/finish", {**fence, "outcome": "finished"})

    remote.work = work
    task = await app.tasks.create(here.tenant.local, "hello, team", "", agent_id)
    [queued] = (await app.runs.list(here.tenant.local, task=task.id)).items
    run = await ended(here, queued.id, "finished", "failed")
    await asyncio.gather(*remote.done)
    assert run.state == "finished"
    assert (await app.tasks.get(here.tenant.local, task.id)).comments[-1].text == "I said it."
    assert [json.loads(seen["body"]) for seen in slack.seen] == [{"text": "hello, team"}]
    assert len(remote.bodies) == 2 and len(remote.done) == 1 and remote.forged == 0
    # What it said of its work is there, without what nobody may read there.
    assert await put_out(here, run.id) == "Saying it, with [credential removed].\n"
    # Claimed once: whoever comes later is told so; and the token of the run died with it.
    async with aiohttp.ClientSession() as http:
        data = remote.verified[0]["data"]
        headers = {"Authorization": f"Bearer {token}"}
        async with http.post(data["claim_url"], headers=headers) as late:
            assert late.status == 409
        headers = {"Authorization": f"Bearer {known['token']}"}
        async with http.get(data["run_url"], headers=headers) as dead:
            assert dead.status == 401
