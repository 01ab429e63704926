"""
A command-line agent does a task from end to end: started by its assignment, in a sandbox, with nothing but its run's token.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from company_agents.app import App
from company_agents.errors import Refused
from company_agents.runs.adapters.process import ProcessAdapter
from company_agents.runs.model import Run
from company_agents.runs.parts import RunParts
from company_agents.runs.sandbox.sandbox import Sandbox
from company_agents.runs.sandbox.workspace import workspaces_folder
from company_agents.sensitive import Sensitive
from tests.adapters.conftest import executing, serving_front
from tests.conftest import Tenant
from tests.gateway.standins import service
from tests.mcp.slack import TOKEN, slack_stand_in
from tests.sandbox.conftest import LIBRARIES, PYTHON, mark, running_with, script, until

SLOWEST = 30.0
# What our own door answers to a token that is no good any more.
ASKS_WITH_ITS_TOKEN = """
import os, sys, time, urllib.error, urllib.request
def ask():
    given = {"Authorization": "Bearer " + os.environ["COMPANY_AGENTS_TOKEN"]}
    request = urllib.request.Request(os.environ["COMPANY_AGENTS_URL"] + "/v1/me", headers=given)
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
print("asked", ask(), flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
async def doors(app: App) -> AsyncIterator[str]:
    async with serving_front(app) as url:
        yield url


@pytest.fixture(scope="module")
async def dispatching(app: App, doors: str) -> AsyncIterator[None]:
    """An orchestrator that executes processes, at its own doors."""
    kinds: dict[str, Any] = {"process": ProcessAdapter(Sandbox(app.settings))}
    async with executing(app, kinds, app.settings.home, doors):
        yield
    assert not workspaces_folder(app.settings.home).exists()


async def ended(app: App, tenant: Tenant, run_id: uuid.UUID, *states: str) -> Run:
    async with asyncio.timeout(SLOWEST):
        while (run := await app.runs.get(tenant.local, run_id)).state not in states:
            await asyncio.sleep(0.02)
    return run


async def put_out(app: App, tenant: Tenant, run_id: uuid.UUID) -> str:
    return "".join(line.text for line in await app.runs.output(tenant.local, run_id))


async def works_as(app: App, tenant: Tenant, code: str, *words: str) -> uuid.UUID:
    """Have the agent's runs be a program in Python."""
    agent_id = tenant.agent.agent_id()
    config = {"command": [PYTHON, "-c", code, *words], "readable": LIBRARIES}
    await app.adapters.set(tenant.local, agent_id, "process", config)
    return agent_id


async def test_a_task_that_is_assigned_is_done_by_a_command_line_agent(
    app: App, tenant: Callable[[], Awaitable[Tenant]], dispatching: None
) -> None:
    one = await tenant()
    agent_id = await works_as(app, one, script("agent.py"))
    async with slack_stand_in() as slack, service(("Authorization", "Bearer desk-secret-4711")) as desk:
        desk.on("POST", "/tickets", {"number": 17})
        for name, provider, url, token in (
            ("chat", "slack", slack.url, TOKEN),
            ("desk", "generic", desk.url, "desk-secret-4711"),
        ):
            await app.integrations.connect(
                *(one.local, provider, Sensitive(token)),
                name=name,
                base_url=url,
                allow_private_network=True,
                allow=[agent_id],
            )
        task = await app.tasks.create(one.local, "Greet the team", "Hello, all!")
        await app.tasks.update(one.local, task.id, assignee=agent_id)
        [queued] = (await app.runs.list(one.local, task=task.id)).items
        run = await ended(app, one, queued.id, "finished", "failed")
        said = await put_out(app, one, run.id)
        assert (run.state, run.reason) == ("finished", ""), said
        assert [seen["path"] for seen in slack.seen] == ["/api/chat.postMessage"]
        assert desk.bodies() == [{"subject": "Hello, all!"}]
    done = await app.tasks.get(one.local, task.id)
    assert (done.status, done.comments[-1].text) == ("done", "said: Hello, all!; ticket 17")
    assert done.comments[-1].author == f"run:{run.id}"
    assert "my task: Greet the team\n" in said and "done\n" in said
    # It has shown its token, and that is not kept.
    assert "my token: " in said and "ca_run_" not in said
    assert not [each for each in (TOKEN, "desk-secret", one.token) if each in said]


async def test_a_cancelled_run_is_gone_with_its_processes_its_workspace_and_its_token(
    app: App, tenant: Callable[[], Awaitable[Tenant]], dispatching: None
) -> None:
    one, word = await tenant(), mark()
    agent_id = await works_as(app, one, ASKS_WITH_ITS_TOKEN, word)
    run = await app.runs.start(one.local, agent_id, prompt="wait")
    async with asyncio.timeout(SLOWEST):
        while "asked 200" not in await put_out(app, one, run.id):
            await asyncio.sleep(0.05)
    assert running_with(word)
    folder = workspaces_folder(app.settings.home)
    assert list(folder.glob(f"*/{run.id}.*"))
    await app.runs.cancel(one.local, run.id)
    await until(lambda: not running_with(word))
    await until(lambda: not list(folder.glob(f"*/{run.id}.*")))
    assert (await app.runs.get(one.local, run.id)).state == "cancelled"


async def test_a_run_is_not_even_queued_where_there_is_no_sandbox(
    app: App, tenant: Callable[[], Awaitable[Tenant]]
) -> None:
    one = await tenant()
    agent_id = await works_as(app, one, "pass")
    nowhere = ProcessAdapter(Sandbox(app.settings.model_copy(update={"bubblewrap": Path("/nowhere/bwrap")})))
    parts = RunParts.build(app.store, app.audit, app.integrations.versions, adapters={"process": nowhere})
    with pytest.raises(Refused) as refused:
        await parts.runs.start(one.local, agent_id, prompt="do it")
    assert refused.value.reason == "no_sandbox"
    assert (await app.runs.list(one.local)).items == []
