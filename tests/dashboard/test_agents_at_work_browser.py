"""
Agents at work, in a real browser: a task is made on the board, its agent does it in earnest, and whoever watches sees it to its
end without loading a page again, and nothing that opens anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from playwright.async_api import Locator, Page, expect

from company_agents.app import App
from company_agents.runs.adapters.llm import LlmAdapter
from company_agents.runs.adapters.llm_client import Waits
from company_agents.runs.adapters.process import ProcessAdapter
from company_agents.runs.sandbox.sandbox import Sandbox
from tests.adapters.conftest import Desk, MakeDesk, desk, doors, executing, llm, slack  # noqa: F401
from tests.adapters.llm_server import ANTHROPIC_KEY, Llm, Refuse, Say, results, told
from tests.dashboard.conftest import NewPage
from tests.dashboard.people import Person
from tests.gateway.standins import Answer, Service, service
from tests.mcp.slack import TOKEN, Slack
from tests.sandbox.conftest import LIBRARIES, PYTHON, script

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("hurried")]

# Milliseconds until an agent has come so far, on a machine that has other things to do.
SLOWEST = 30_000
TITLE, WORDS = "Greet the team", "Hello, all!"
DESK_TOKEN = "desk-secret-4711"
# What opens something: the credentials of two services, the model's key, and any token of ours.
OPENING = (TOKEN, DESK_TOKEN, ANTHROPIC_KEY, "ca_run_", "ca_agent_")
REMOVED = "[credential removed]"


@dataclass
class Watched:
    """A task that an agent is at, in three windows of an owner: the board, the task, its run. `seen`: what their pages were made of."""

    board: Page
    task: Page
    run: Page
    seen: list[str] = field(default_factory=list)

    @property
    def run_id(self) -> UUID:
        return UUID(self.run.url.partition("?")[0].rpartition("/")[2])

    def output(self) -> Locator:
        return self.run.locator("#output")

    def fact(self, name: str) -> Locator:
        """What is said of the run under a heading."""
        heading = self.run.locator("dt", has_text=re.compile(f"^{name}$"))
        return self.run.locator("#run-facts dl > div").filter(has=heading).locator("dd")

    async def keep(self) -> None:
        """Keep what the windows show right now."""
        self.seen += [await page.content() for page in (self.board, self.task, self.run)]

    async def goes_on(self, pins: Sequence[str]) -> None:
        """The run is seen under way, with a lease, and credentials that it is pinned to."""
        for name in pins:
            await expect(self.run.locator("#run-pins")).to_contain_text(f"{name} version 1", timeout=SLOWEST)
        await expect(self.run.locator("#run-state")).to_contain_text("Its lease ends in")
        await expect(self.run.locator("svg.track")).to_have_attribute("aria-label", re.compile(r"Now: running\.$"))
        await expect(self.run.locator("#live")).to_have_text("Live")
        await self.keep()

    async def ends(self, comment: str) -> None:
        """All three windows come to show that it is done, and are those that were loaded at the beginning."""
        await expect(self.run.locator("#run-state")).to_contain_text("Finished", timeout=SLOWEST)
        await expect(self.run.locator("svg.track")).to_have_attribute("aria-label", re.compile(r"Now: finished\.$"))
        await expect(self.run.locator("#run-pins")).to_have_text("Nothing any more.")
        await expect(self.run.locator("#live")).to_be_hidden()
        await expect(self.task.locator("#task-said .said")).to_have_text(comment)
        await expect(self.task.locator("#task-said .comment-by")).to_contain_text("ann")
        await expect(self.task.locator("#task-head")).to_contain_text("Done")
        await expect(self.task.locator("#task-runs")).to_contain_text("Finished")
        await expect(self.board.locator("#column-done")).to_contain_text(TITLE)
        await expect(self.board.locator("#column-open")).not_to_contain_text(TITLE)
        for page in (self.board, self.task, self.run):
            assert await page.evaluate("window.loaded") == "once"
        await self.keep()

    async def opens(self, path: str) -> Page:
        """Look at another page, in the window of the run."""
        await self.run.goto(path)
        self.seen.append(await self.run.content())
        return self.run

    async def shows_nothing_that_opens_anything(self, app: App, here: Desk) -> None:
        """Neither has what was seen, nor what else there is to see of the run and its agent, nor what is kept of its log."""
        home, agent_id = f"/companies/{here.tenant.company.id}", here.tenant.agent.agent_id()
        run_id = self.run_id
        for path in (f"runs/{run_id}", f"runs/{run_id}/output", "runs", f"agents/{agent_id}", "integrations", "audit"):
            await self.opens(f"{home}/{path}")
        kept = "".join(line.text for line in await app.runs.output(here.tenant.local, run_id))
        assert REMOVED in kept, "something was there to be taken out"
        for text in (*self.seen, kept):
            assert [each for each in OPENING if each in text] == []


async def given_to(agent: str, new_page: NewPage, person: Person, url: str, here: Desk) -> Watched:
    """Make the task on the board, for an agent whose run is begun by that, and watch."""
    board, task, run = [await new_page(person, url=url) for _ in range(3)]
    await board.goto(f"/companies/{here.tenant.company.id}/tasks")
    await expect(board.locator("#live")).to_have_text("Live")
    await task.goto(board.url)
    await task.get_by_role("link", name="New task").click()
    await task.get_by_label("Title").fill(TITLE)
    await task.get_by_label("What is to be done").fill(WORDS)
    await task.get_by_label("Who does it").select_option(label=f"{agent}, starts a run")
    await task.get_by_role("button", name="Create").click()
    await expect(task.get_by_role("status").first).to_have_text("The task is on the board.")
    # It comes up in the other window, and leads to the run.
    running = board.locator("#column-open").get_by_role("link", name="Running")
    await expect(running).to_be_visible(timeout=SLOWEST)
    await run.goto(await running.get_attribute("href") or "")
    await expect(run.locator("h1")).to_have_text(TITLE)
    for page in (board, task, run):
        await page.evaluate("window.loaded = 'once'")
    return Watched(board, task, run)


@contextlib.asynccontextmanager
async def ticket_desk(go_on: asyncio.Event) -> AsyncIterator[Service]:
    """A service that answers once the test goes on, and repeats the credential that it was asked with."""

    async def answer(request: web.Request) -> Answer:
        await go_on.wait()
        return {"number": f"17 for {DESK_TOKEN}"}

    async with service(("Authorization", f"Bearer {DESK_TOKEN}")) as started:
        started.on("POST", "/tickets", answer)
        yield started


async def test_a_command_line_agent_in_its_sandbox_is_seen_to_do_a_task(
    app: App,
    somebody: Person,
    desk: MakeDesk,  # noqa: F811
    doors: str,  # noqa: F811
    slack: Slack,  # noqa: F811
    new_page: NewPage,
) -> None:
    here, go_on = await desk(), asyncio.Event()
    command = {"command": [PYTHON, "-c", script("agent.py")], "readable": LIBRARIES}
    await app.adapters.set(here.tenant.local, here.tenant.agent.agent_id(), "process", command)
    sandbox = Sandbox(app.settings)
    assert (await sandbox.way()).kind == "bubblewrap"
    kinds: dict[str, Any] = {"process": ProcessAdapter(sandbox)}
    async with ticket_desk(go_on) as tickets, executing(app, kinds, app.settings.home, doors):
        await here.connect("desk", "generic", tickets.url, DESK_TOKEN)
        watched = await given_to("ann", new_page, somebody, doors, here)
        # It shows its token, and that is taken out on the way.
        await expect(watched.output()).to_contain_text(f"my task: {TITLE}", timeout=SLOWEST)
        await expect(watched.output()).to_contain_text(f"my token: {REMOVED}")
        await watched.goes_on(["chat", "desk"])
        go_on.set()
        await watched.ends(f"said: {WORDS}; ticket 17 for {REMOVED}")
        await expect(watched.output().locator(".error")).to_have_text("done")
        assert [json.loads(seen["body"])["text"] for seen in slack.seen] == [WORDS]
        assert tickets.bodies() == [{"subject": WORDS}]
    await watched.shows_nothing_that_opens_anything(app, here)


def _task(body: dict[str, Any]) -> str:
    """The id of the task that a model was told of."""
    found = re.search(r"Your task, ([0-9a-f-]{36})", told(body))
    assert found is not None
    return found[1]


def _tells(body: dict[str, Any]) -> Say:
    """A model that repeats what a service has answered."""
    number = json.loads(results(body)[0])["body"]["number"]
    return Say(f"It says {number}. ", [("task_comment", {"id": _task(body), "text": f"The ticket is {number}."})])


def _closes(body: dict[str, Any]) -> Say:
    return Say("", [("task_update", {"id": _task(body), "status": "done"})])


async def test_an_agent_that_is_a_model_is_seen_to_do_a_task_and_what_that_costs(
    app: App,
    somebody: Person,
    desk: MakeDesk,  # noqa: F811
    doors: str,  # noqa: F811
    llm: Llm,  # noqa: F811
    slack: Slack,  # noqa: F811
    new_page: NewPage,
) -> None:
    here, go_on = await desk("anthropic"), asyncio.Event()
    agent_id, home = here.tenant.agent.agent_id(), f"/companies/{here.tenant.company.id}"
    # A model that has a price: each answer is 10 tokens in at 3 dollars a million, and 7 out at 15.
    config = {"integration": "model", "model": "claude-sonnet-4-6"}
    await app.adapters.set(here.tenant.local, agent_id, "llm", config)
    chat = {"integration": "chat", "method": "POST", "path": "/api/chat.postMessage", "body": {"text": WORDS}}
    ticket = {"integration": "desk", "method": "POST", "path": "/tickets", "body": {"subject": WORDS}}
    llm.play(
        # A provider that says which key it was asked with.
        Refuse(503, f"no room for {ANTHROPIC_KEY}"),
        Say("The team first. ", [("integration_request", chat)]),
        Say("Now the desk. ", [("integration_request", ticket)]),
        _tells,
        _closes,
        Say("All of it is done."),
    )
    kinds: dict[str, Any] = {"llm": LlmAdapter(waits=Waits(0, 0))}
    async with ticket_desk(go_on) as tickets, executing(app, kinds, app.settings.home, doors):
        await here.connect("desk", "generic", tickets.url, DESK_TOKEN)
        watched = await given_to("ann", new_page, somebody, doors, here)
        await expect(watched.output()).to_contain_text("Now the desk.", timeout=SLOWEST)
        await expect(watched.output()).to_contain_text(f"no room for {REMOVED}")
        await watched.goes_on(["model", "chat", "desk"])
        await expect(watched.fact("Tokens")).to_contain_text("34 and no limit")
        await expect(watched.fact("Money")).to_contain_text("$0.00027 and no limit")
        go_on.set()
        await watched.ends(f"The ticket is 17 for {REMOVED}.")
        await expect(watched.output()).to_contain_text(f"It says 17 for {REMOVED}.")
        await expect(watched.output()).to_contain_text("All of it is done.")
        await expect(watched.fact("Tokens")).to_contain_text("85 and no limit")
        await expect(watched.fact("Money")).to_contain_text("$0.000675 and no limit")
        assert [json.loads(seen["body"])["text"] for seen in slack.seen] == [WORDS]
        assert tickets.bodies() == [{"subject": WORDS}]
        assert llm.problems == []
    await watched.shows_nothing_that_opens_anything(app, here)

    page = await watched.opens(f"{home}/agents/{agent_id}")
    await expect(page.locator("main")).to_contain_text("$0.000675 this month")
    await expect(page.get_by_role("img", name="$0.000675 in 30 days")).to_be_visible()
    await page.get_by_text("The same as a table").click()
    today = page.get_by_role("row").filter(has=page.get_by_role("cell", name="$0.000675"))
    await expect(today.get_by_role("cell")).to_have_text(["$0.000675", "85", "5"])
