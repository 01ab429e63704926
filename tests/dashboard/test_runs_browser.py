"""
Work in a real browser: a task is made and assigned, its run is watched as it goes, and ends; without a script it shows the
same. On small screens, in light and dark.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from typing import Any

import pytest
from playwright.async_api import Page, expect

from company_agents.app import App
from company_agents.identity.permissions import Role
from company_agents.integrations.usage import Usage
from company_agents.runs.adapters.base import Outcome, Output, Work
from tests.dashboard.conftest import NewPage
from tests.dashboard.people import Person, member
from tests.dashboard.test_browser import TOO_SMALL, UNNAMED, UNSTRUCTURED
from tests.dashboard.test_work_pages import BAD, with_adapter
from tests.dispatch.conftest import Orchestrate, Scripted, orchestrator  # noqa: F401

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("hurried")]


class Acted:
    """An agent that goes on when the test says so."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.go_on = asyncio.Semaphore(0)
        self.company: uuid.UUID | None = None

    async def works(self, work: Work, output: Output) -> Outcome:
        """Read the task, speak about it, spend something, be done."""
        if work.company_id != self.company:
            return Outcome("failed", "left behind by another test")
        caller = await self.app.identity.run(work.token.reveal_text())
        await output.write("output", f"looking at the task {BAD}\n")
        await self.go_on.acquire()
        await output.write("output", "".join(f"plant {number}\n" for number in range(200)))
        await self.go_on.acquire()
        await output.write("output", f"the last plant {BAD}\n")
        assert work.task_id is not None
        await self.app.tasks.comment(caller, work.task_id, f"I have watered {BAD}")
        await self.app.tasks.update(caller, work.task_id, status="done")
        usage = Usage(model="claude-sonnet-4-6", input_tokens=100_000, output_tokens=0)
        await self.app.spending.record(caller, uuid.uuid4(), "anthropic", usage)
        await output.write("note", "all of them have water now")
        return Outcome("finished")


@pytest.fixture
async def acted(app: App, orchestrator: Orchestrate) -> Acted:  # noqa: F811
    """Runs of agents whose runs are a loop over a model are executed so."""
    acted = Acted(app)
    await orchestrator(adapter=Scripted("llm", does=acted.works))
    return acted


async def _press(page: Page, name: str) -> None:
    main = page.locator("main")
    await main.get_by_role("button", name=name).or_(main.get_by_role("link", name=name)).first.click()


async def test_a_task_is_assigned_and_its_run_is_watched_to_its_end(
    app: App, somebody: Person, tenant: Any, new_page: NewPage, acted: Acted
) -> None:
    here = await tenant()
    acted.company = here.company.id
    agent_id = await with_adapter(app, here)
    await app.limits.set(here.local, agent_id, {"month_micros": 31_000_000})
    home = f"/companies/{here.company.id}"

    board = await new_page(somebody)
    await board.goto(f"{home}/tasks")
    await expect(board.locator("#live")).to_have_text("Live")
    page = await new_page(somebody)
    await page.goto(f"{home}/tasks")
    await _press(page, "New task")
    await page.get_by_label("Title").fill("water the plants")
    await page.get_by_label("What is to be done").fill("all of them")
    await page.get_by_label("Who does it").select_option(label="ann, starts a run")
    await _press(page, "Create")
    await expect(page.get_by_role("status").first).to_have_text("The task is on the board.")
    # The other window has it without being loaded again, and the run beside it.
    await expect(board.locator("#column-open")).to_contain_text("water the plants")
    await expect(board.locator("#column-open")).to_contain_text("Running")
    task = await new_page(somebody)
    await task.goto(page.url.partition("?")[0])
    await task.get_by_label("Your comment").fill("half a comment")

    await page.locator("#task-runs").get_by_role("link", name="Running").click()
    await expect(page.locator("h1")).to_have_text("water the plants")
    output = page.locator("#output")
    await expect(output).to_contain_text(f"looking at the task {BAD}")
    await expect(page.locator("#run-state")).to_contain_text("Its lease ends in")
    await expect(page.locator("svg.track")).to_have_attribute("aria-label", _ends("Now: running."))
    # It follows what comes, until somebody scrolls up to read; then it stays, and says that there is more.
    acted.go_on.release()
    await expect(output).to_contain_text("plant 199")
    await page.wait_for_function(AT_END)
    await output.evaluate("element => { element.scrollTop = 0 }")
    newest = page.get_by_role("button", name="Go on with the newest")
    await expect(newest).to_be_visible()
    acted.go_on.release()
    await expect(output).to_contain_text(f"the last plant {BAD}")
    assert await output.locator("*:not(span)").count() == 0, "what an agent puts out is no part of the page"
    assert await output.evaluate("element => element.scrollTop") == 0
    await newest.click()
    await page.wait_for_function(AT_END)
    await expect(newest).to_be_hidden()

    await expect(output.locator(".note")).to_have_text("all of them have water now")
    await expect(page.locator("#run-state")).to_contain_text("Finished")
    await expect(page.locator("#run-facts")).to_contain_text("$0.30")
    await expect(page.locator("#run-actions")).to_have_text("")
    await expect(page.locator("svg.track")).to_have_attribute("aria-label", _ends("Now: finished."))
    # Nothing more will come, and nothing says that it is live.
    await expect(page.locator("#live")).to_be_hidden()
    shown = await output.inner_text()
    await page.reload()
    assert await output.inner_text() == shown, "a reload shows the same"

    await expect(task.locator("#task-said")).to_contain_text(f"I have watered {BAD}")
    await expect(task.locator("#task-said .comment-by")).to_contain_text("ann")
    await expect(task.locator("#task-head")).to_contain_text("Done")
    await expect(task.get_by_label("Your comment")).to_have_value("half a comment")
    await expect(board.locator("#column-done")).to_contain_text("water the plants")

    await page.get_by_role("link", name="ann").first.click()
    chart = page.get_by_role("img", name="$0.30 in 30 days; an even share of the budget is")
    await expect(chart).to_be_visible()
    tall = "elements => Math.max(...elements.map(element => element.getBoundingClientRect().height))"
    assert await chart.locator("rect").evaluate_all(tall) > 20
    await page.get_by_text("The same as a table").click()
    await expect(page.get_by_role("cell", name="$0.30")).to_be_visible()


AT_END = """() => {
  const log = document.getElementById('output')
  return log.scrollHeight - log.scrollTop - log.clientHeight < 4
}"""


def _ends(text: str) -> Any:
    return re.compile(re.escape(text) + "$")


async def test_a_part_that_somebody_uses_is_not_taken_from_under_their_hands(
    app: App, somebody: Person, tenant: Any, new_page: NewPage
) -> None:
    here = await tenant()
    task = await app.tasks.create(here.local, "water the plants")
    page = await new_page(somebody)
    await page.goto(f"/companies/{here.company.id}/tasks")
    await expect(page.locator("#live")).to_have_text("Live")
    await page.locator("#column-open summary").click()
    await app.tasks.create(here.local, "another one")
    await app.tasks.create(here.local, "and one that is done")
    await app.tasks.update(here.local, (await app.tasks.list(here.local)).items[-1].id, status="done")
    await expect(page.locator("#column-done")).to_contain_text("and one that is done")
    await expect(page.locator("#column-open")).not_to_contain_text("another one")
    # They have gone on: it is there, and what they opened is open still.
    await page.locator("h1").click()
    await expect(page.locator("#column-open")).to_contain_text("another one")
    await page.locator(f"#move-{task.id}").get_by_role("button", name="Blocked").click()
    await expect(page.get_by_role("status").first).to_have_text("Moved.")
    await expect(page.locator("#column-blocked")).to_contain_text("water the plants")


async def test_whoever_signs_out_elsewhere_is_told_on_the_page_that_it_is_not_live(
    app: App, tenant: Any, new_page: NewPage
) -> None:
    here = await tenant()
    person = await member(app, here.local, Role.VIEWER)
    page = await new_page(person)
    await page.goto(f"/companies/{here.company.id}/tasks")
    await expect(page.locator("#live")).to_have_text("Live")
    found = await app.sessions.current(person.session.reveal_text())
    assert found is not None
    await app.sessions.end(found[0], found[1].id)
    await expect(page.locator("#live")).to_have_text("Not live any more: load the page again")


@pytest.mark.parametrize(("scheme", "width"), [("dark", 390), ("light", 320)])
async def test_no_page_of_work_scrolls_sideways_on_a_small_screen(
    app: App, somebody: Person, tenant: Any, new_page: NewPage, scheme: str, width: int
) -> None:
    here = await tenant()
    agent_id = await with_adapter(app, here)
    long = "w" * 100
    task = await app.tasks.create(here.agent, long * 2, long * 3, agent_id)
    await app.tasks.comment(here.agent, task.id, long * 3)
    await app.memory.write(here.agent, long * 3, long * 2, ["t" * 50])
    run, _ = await app.runs.open(here.agent, long * 5)
    started = await app.runs.start(here.local, agent_id, prompt=long * 3)
    schedule = await app.schedules.create(here.local, agent_id, long, "0 9 * * MON-FRI", long * 3, "Europe/Berlin")
    usage = Usage(model="m" * 150, input_tokens=10**12, output_tokens=0)
    await app.spending.record(here.agent, uuid.uuid4(), "anthropic", usage)
    await app.limits.set(here.local, agent_id, {"month_micros": 10**12, "month_tokens": 10**13, "run_seconds": 60})
    home = f"/companies/{here.company.id}"
    agent = f"{home}/agents/{agent_id}"
    places = [f"{home}/tasks", f"{home}/tasks/new", f"{home}/tasks/{task.id}", f"{home}/tasks/{task.id}/edit", home]
    places += [f"{home}/runs", f"{home}/runs/new", f"{home}/runs/{run.id}", f"{home}/runs/{run.id}/cancel"]
    places += [f"{home}/runs/{started.id}", f"{home}/schedules", f"{home}/schedules/new", f"{home}/costs", agent]
    places += [f"{home}/schedules/{schedule.id}", f"{home}/schedules/{schedule.id}/delete", f"{home}/costs/limits"]
    places += [f"{agent}/adapter?kind={kind}" for kind in ("process", "llm", "http")]
    places += [f"{agent}/limits", f"{agent}/memory", f"{home}/agents"]
    page = await new_page(somebody, width=width, scheme=scheme)
    for place in places:
        await page.goto(place)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width, place
        assert await page.locator("h1").count() == 1, place
        assert await page.evaluate(UNNAMED) == [], place
        assert await page.evaluate(UNSTRUCTURED) == [], place
        assert await page.evaluate(TOO_SMALL) == [], place
