"""
The pages of tasks, runs, schedules, costs and limits, and of what an agent is, without a browser.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from datetime import date
from typing import Any

import pytest

from company_agents.app import App
from company_agents.dashboard import live
from company_agents.dashboard.forms import dollars
from company_agents.dashboard.spent import chart
from company_agents.dashboard.telling import lasted, money, plain, short
from company_agents.errors import ApprovalNeeded, WrongUsage
from company_agents.identity.permissions import Role
from company_agents.integrations.costs import DaySum
from company_agents.integrations.rules import Rules
from company_agents.integrations.usage import Usage
from company_agents.runs.adapters.base import Outcome, Output, Work
from company_agents.sensitive import Sensitive
from tests.conftest import Tenant
from tests.dashboard.people import Person, member, text_of
from tests.dashboard.streams import listening
from tests.dispatch.conftest import Orchestrate, Scripted, orchestrator  # noqa: F401
from tests.promises.evidence import connect_past, recorded, sql

BAD = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


async def with_adapter(app: App, here: Tenant) -> uuid.UUID:
    """The agent of a company, whose runs are a loop over a model."""
    await app.integrations.connect(
        here.local, "generic", Sensitive("a-token-of-a-model"), name="model", base_url="https://model.example"
    )
    agent_id = here.agent.agent_id()
    await app.adapters.set(here.local, agent_id, "llm", {"integration": "model", "model": "large"})
    return agent_id


# — tasks —


async def test_a_task_is_created_edited_moved_assigned_and_spoken_about_without_a_script(
    app: App, somebody: Person, tenant: Any
) -> None:
    here = await tenant()
    home = f"/companies/{here.company.id}"
    async with somebody.client() as browser:
        empty = await browser.post(f"{home}/tasks/new", data={"title": " ", "description": "kept"})
        assert empty.status_code == 422
        assert 'id="title-problem"' in empty.text
        assert "kept" in empty.text
        made = await browser.post(
            f"{home}/tasks/new", data={"title": "water the plants", "description": "all\nof them"}
        )
        task = made.headers["location"].partition("?")[0]
        seen = re.search(r'name="seen" value="([^"]+)"', (await browser.get(f"{task}/edit")).text)
        assert seen is not None
        form = {"title": "water all plants", "description": "twice", "seen": seen[1]}
        assert (await browser.post(f"{task}/edit", data=form)).status_code == 303
        # Whoever had the form open meanwhile takes nothing away from that; what they typed is there still.
        late = await browser.post(f"{task}/edit", data={**form, "title": "mine"})
        assert late.status_code == 409
        assert 'value="mine"' in late.text
        moved = await browser.post(f"{task}/move", data={"status": "blocked", "from": "board"})
        assert moved.headers["location"] == f"{home}/tasks?done=task-moved"
        assert (await browser.post(f"{task}/move", data={"status": "lost"})).status_code == 422
        assert (await browser.post(f"{task}/assign", data={"assignee": str(here.agent.agent_id())})).status_code == 303
        assert (await browser.post(f"{task}/assign", data={})).status_code == 422
        assert (await browser.post(f"{task}/comment", data={"text": "not on Sundays"})).status_code == 303
        page = await browser.get(task)
        board = await browser.get(f"{home}/tasks")
    said = text_of(page.text)
    for part in (
        "water all plants",
        "twice",
        "Blocked",
        "ann",
        "not on Sundays",
        somebody.operator.name,
        "No run yet.",
    ):
        assert part in said
    assert re.search(r"Blocked 1 .*water all plants.*ann.*1 .*Done 0", text_of(board.text))


async def test_a_task_is_given_to_nobody_by_the_choice_that_says_so(app: App, somebody: Person, tenant: Any) -> None:
    here = await tenant()
    task = await app.tasks.create(here.local, "water the plants", assignee=here.agent.agent_id())
    page = f"/companies/{here.company.id}/tasks/{task.id}"
    async with somebody.client() as browser:
        assert "selected>ann" in (await browser.get(page)).text
        done = await browser.post(f"{page}/assign", data={"assignee": ""})
        assert done.headers["location"] == f"{page}?done=task-unassigned"
        after = await browser.get(done.headers["location"])
    assert "Nobody has it now. Runs that were started for it go on." in text_of(after.text)
    assert "selected>ann" not in after.text
    assert (await app.tasks.get(here.local, task.id)).assignee is None


async def test_it_is_said_before_an_assignment_that_it_starts_a_run(app: App, somebody: Person, tenant: Any) -> None:
    here = await tenant()
    agent_id = await with_adapter(app, here)
    await app.agents.create(here.local, "bob")
    home = f"/companies/{here.company.id}"
    async with somebody.client() as browser:
        form = await browser.get(f"{home}/tasks/new")
        assert f'<option value="{agent_id}">ann, starts a run</option>' in form.text
        assert "bob</option>" in form.text
        made = await browser.post(f"{home}/tasks/new", data={"title": "the work", "assignee": str(agent_id)})
        task = made.headers["location"].partition("?")[0]
        page = await browser.get(task)
        run = re.search(r'href="(/companies/[^"]+/runs/[0-9a-f-]+)"', page.text)
        assert run is not None
        assert "Queued" in page.text
        detail = await browser.get(run[1])
        await browser.post(f"{task}/move", data={"status": "done"})
        assert "starts a run" not in (await browser.get(task)).text.replace("starts no run", "")
    assert f'href="{task}"' in detail.text
    assert f"{home}/runs/" in run[1]


async def test_comments_are_paged_from_the_newest(app: App, somebody: Person, tenant: Any) -> None:
    here = await tenant()
    task = await app.tasks.create(here.local, "much to say")
    for number in range(103):
        await app.tasks.comment(here.agent, task.id, f"remark {number}.")
    path = f"/companies/{here.company.id}/tasks/{task.id}"
    async with somebody.client() as browser:
        newest = await browser.get(path)
        earlier = re.search(r'href="([^"]+after=[^"]+)">Earlier', newest.text)
        assert earlier is not None
        oldest = await browser.get(earlier[1])
    assert "remark 102." in newest.text
    assert "remark 2." not in newest.text
    assert re.findall(r"remark \d+\.", oldest.text) == ["remark 0.", "remark 1.", "remark 2."]
    assert "<script" not in oldest.text


# — runs —


async def test_runs_are_listed_newest_first_by_agent_and_state(app: App, somebody: Person, tenant: Any) -> None:
    here = await tenant()
    bob, token = await app.agents.create(here.local, "bob")
    other = await app.identity.agent(token.reveal_text())
    opened = [await app.runs.open(here.agent, f"work {number}.") for number in range(52)]
    await app.runs.cancel(here.local, opened[-1][0].id, "no more of it")
    await app.runs.open(other, "work of bob.")
    runs = f"/companies/{here.company.id}/runs"
    async with somebody.client() as browser:
        first = await browser.get(runs)
        older = re.search(r'href="(\?after=[^"]+)"', first.text)
        assert older is not None
        second = await browser.get(f"{runs}{older[1]}")
        of_bob = await browser.get(runs, params={"agent": str(bob.id)})
        cancelled = await browser.get(runs, params={"state": "cancelled"})
        strange = await browser.get(runs, params={"state": "x'", "agent": "y"})
    listed = re.findall(r"work (?:\d+|of bob)\.", first.text)
    assert listed[:3] == ["work of bob.", "work 51.", "work 50."]
    assert len(listed) == 50
    assert re.findall(r"work \d+\.", second.text) == ["work 2.", "work 1.", "work 0."]
    assert re.findall(r"work (?:\d+|of bob)\.", of_bob.text) == ["work of bob."]
    assert re.findall(r"work (?:\d+|of bob)\.", cancelled.text) == ["work 51."]
    assert "no more of it" not in first.text
    assert strange.status_code == 200
    assert f'data-stream="{runs}/stream?agent={bob.id}&amp;after=' in of_bob.text


async def test_a_run_is_started_with_limits_and_refused_in_words(app: App, somebody: Person, tenant: Any) -> None:
    here = await tenant()
    home = f"/companies/{here.company.id}"
    async with somebody.client() as browser:
        assert "runs are executed here" in (await browser.get(f"{home}/runs/new")).text
        agent_id = await with_adapter(app, here)
        task = await app.tasks.create(here.local, "the task")
        form = {"agent": str(agent_id), "task": str(task.id), "prompt": "do it", "minutes": "5", "tokens": "900"}
        for wrong, field in (
            ({"agent": ""}, "agent"),
            ({"money": "1,5"}, "money"),
            ({"minutes": "-1"}, "minutes"),
            ({"task": "x"}, "task"),
        ):
            refused = await browser.post(f"{home}/runs/new", data={**form, **wrong})
            assert refused.status_code == 422
            assert f'id="{field}-problem"' in refused.text
            assert "do it" in refused.text
        nothing = await browser.post(f"{home}/runs/new", data={"agent": str(agent_id)})
        assert "A run needs something to do." in nothing.text
        started = await browser.post(f"{home}/runs/new", data={**form, "money": "0.25"})
        page = await browser.get(started.headers["location"])
    said = text_of(page.text)
    for part in ("Queued. It begins", "0 of 900", "$0.00 of $0.25", "at most 5 min", "the task", "do it"):
        assert part in said
    assert f"by {somebody.operator.name}" in said


async def test_a_run_can_be_cancelled_with_a_reason_and_cut_off_from_what_it_holds(
    app: App, somebody: Person, tenant: Any
) -> None:
    here = await tenant()
    integration = await app.integrations.connect(
        here.local,
        "generic",
        Sensitive("a-token-of-a-service"),
        name="service",
        base_url="https://service.example",
        allow=[here.agent.agent_id()],
    )
    run, _ = await app.runs.open(here.agent, "use it")
    path = f"/companies/{here.company.id}/runs/{run.id}"
    async with somebody.client() as browser:
        page = await browser.get(path)
        assert re.search(r"service version 1 .*Cut off", text_of(page.text))
        cut = await browser.post(f"{path}/cut", data={"integration": str(integration.id), "version": "1"})
        assert cut.headers["location"] == f"{path}?done=cut"
        assert (await app.runs.get(here.local, run.id)).pins[0].cut_at is not None
        await browser.post(f"{path}/cancel", data={"reason": "it went astray"})
        over = await browser.get(path)
        other, _ = await app.runs.open(here.agent, "another")
        await app.runs.finish(here.agent, other.id, other.fencing_token)
        late = await browser.post(f"/companies/{here.company.id}/runs/{other.id}/cancel", data={"reason": "x"})
    assert late.status_code == 409
    assert "This run is finished" in late.text
    assert "it went astray" in over.text
    assert f'href="{path}/cancel"' not in over.text
    assert "<script" not in over.text


async def test_what_a_run_puts_out_is_shown_as_text_live_loaded_and_whole(
    app: App,
    somebody: Person,
    tenant: Any,
    address: str,
    orchestrator: Orchestrate,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "EVERY", 0.1)
    here = await tenant()
    agent_id = await with_adapter(app, here)
    go_on = asyncio.Event()

    async def works(work: Work, output: Output) -> Outcome:
        if work.company_id != here.company.id:
            return Outcome("failed", "left behind by another test")
        await output.write("output", f"{BAD}\x1b[31mred\x1b[0m\r\n")
        await go_on.wait()
        await output.write("error", "a warning\n")
        await output.write("note", "the model was overloaded")
        return Outcome("failed", f"it said {BAD}")

    await orchestrator(adapter=Scripted("llm", does=works))
    run = await app.runs.start(here.local, agent_id, prompt=BAD)
    path = f"/companies/{here.company.id}/runs/{run.id}"
    async with listening(somebody, address, f"{path}/stream") as stream:
        heard = await stream.until("alert(1)")
        while heard[-1].name != "lines":
            heard = await stream.until("alert(1)")
        go_on.set()
        at = heard[-1].id
        heard += await stream.rest()
    pieces = [piece for event in heard if event.name == "lines" for piece in event.data["pieces"]]
    # As it is: the script puts it in as text, never as a part of the page.
    assert "".join(piece["text"] for piece in pieces if piece["stream"] == "output") == f"{BAD}red\n"
    assert [piece["stream"] for piece in pieces] == ["output", "error", "note"]
    for event in heard:
        if event.name == "part":
            assert "<script" not in event.data["html"]
            assert "<img" not in event.data["html"]
    async with listening(somebody, address, f"{path}/stream", **{"Last-Event-ID": at}) as stream:
        texts = [event.data["pieces"] for event in await stream.rest() if event.name == "lines"]
    assert "alert(1)" not in json.dumps(texts), "what the browser has heard is told once"
    async with somebody.client() as browser:
        page = await browser.get(path)
        whole = await browser.get(f"{path}/output")
    assert '<span class="piece note">the model was overloaded</span>' in page.text
    assert '<span class="piece error">a warning\n</span>' in page.text
    assert "\x1b" not in page.text
    assert page.text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 4
    assert "<script" not in page.text
    assert "<img" not in page.text
    assert whole.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert whole.headers["X-Content-Type-Options"] == "nosniff"
    assert f"{BAD}red\na warning\n" in whole.text


async def test_whatever_an_agent_has_written_is_shown_as_text(
    app: App, somebody: Person, tenant: Any, address: str
) -> None:
    here = await tenant()
    task = await app.tasks.create(here.agent, BAD, BAD, here.agent.agent_id())
    await app.tasks.comment(here.agent, task.id, BAD)
    run, _ = await app.runs.open(here.agent, BAD)
    await app.runs.finish(here.agent, run.id, run.fencing_token, outcome="failed", reason=BAD)
    await app.runs.open(here.agent, BAD)
    await app.memory.write(here.agent, BAD, BAD, [BAD[:50]])
    home, agent = f"/companies/{here.company.id}", here.agent.agent_id()
    places = ["", "/tasks", f"/tasks/{task.id}", f"/tasks/{task.id}/edit", "/runs", f"/runs/{run.id}", "/runs/new"]
    places += [f"/runs/{run.id}/cancel", f"/agents/{agent}", f"/agents/{agent}/memory"]
    await with_adapter(app, here)
    async with somebody.client() as browser:
        for place in places:
            page = await browser.get(f"{home}{place}")
            assert page.status_code == 200, place
            assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text, place
            ours = len(re.findall(r'<script src="/static/live\.js\?v=[0-9a-f]{16}" defer></script>', page.text))
            assert page.text.count("<script") == ours, place
            assert "<img" not in page.text, place
    for place in ("/tasks/stream", f"/tasks/{task.id}/stream", "/runs/stream"):
        async with listening(somebody, address, f"{home}{place}") as stream:
            event = (await stream.until("alert(1)"))[-1]
        assert "<script" not in event.data["html"], place
        assert "<img" not in event.data["html"], place


async def test_every_page_of_a_company_says_how_many_requests_wait_for_a_person(
    app: App, somebody: Person, tenant: Any
) -> None:
    here = await tenant()
    rules = Rules.read(ask=["POST /**"])
    await app.integrations.connect(
        here.local,
        "generic",
        Sensitive("a-token-of-it"),
        name="bank",
        base_url="https://bank.example",
        allow=[here.agent.agent_id()],
        rules=rules,
    )
    home = f"/companies/{here.company.id}"
    async with somebody.client() as browser:
        assert "for a person" not in text_of((await browser.get(f"{home}/tasks")).text)
        for amount in (1, 2):
            with pytest.raises(ApprovalNeeded):
                await app.requests.request(here.agent, "bank", "POST", "/pay", body={"amount": amount})
        for place in ("", "/tasks", "/costs", f"/agents/{here.agent.agent_id()}"):
            assert "Approvals 2 wait for a person" in text_of((await browser.get(f"{home}{place}")).text), place
        refused = await browser.post(f"{home}/tasks/new", data={"title": ""})
    assert "Approvals 2 wait for a person" in text_of(refused.text)


# — an agent: memory, adapter, limits —


async def test_an_agents_memory_is_looked_at_on_record_and_by_no_viewer(
    app: App, somebody: Person, tenant: Any
) -> None:
    here = await tenant()
    await app.memory.write(here.agent, "the key is under the mat", "where things are", ["home"])
    viewer = await member(app, here.local, Role.VIEWER)
    agent = f"/companies/{here.company.id}/agents/{here.agent.agent_id()}"
    async with viewer.client() as browser:
        page = await browser.get(agent)
        assert "1 note" in text_of(page.text)
        assert "under the mat" not in page.text
        assert (await browser.get(f"{agent}/memory")).status_code == 403
    assert await recorded(app, here.company.id, "memory.looked_at") == []
    async with somebody.client() as browser:
        assert "the key is under the mat" in (await browser.get(f"{agent}/memory")).text
        gone = await browser.get(f"/companies/{here.company.id}/agents/{uuid.uuid4()}/memory")
        assert gone.status_code == 404
    looks = await recorded(app, here.company.id, "memory.looked_at", agent=here.agent.agent_id())
    assert [event["actor"] for event in looks] == [f"operator:{somebody.operator.id}"]


async def test_an_agent_is_shown_with_what_it_may_do_with_each_integration(
    app: App, somebody: Person, tenant: Any
) -> None:
    here = await tenant()
    agent_id = here.agent.agent_id()
    for name in ("service", "other"):
        await app.integrations.connect(
            here.local, "generic", Sensitive("a-token-of-it"), name=name, base_url="https://x.example", allow=[agent_id]
        )
    service = (await app.integrations.list(here.local)).items[0]
    rules = Rules.read(["GET /repos/**"], ["POST /repos/**"], 30)
    await app.integrations.allow(here.local, service.id, agent_id, rules)
    async with somebody.client() as browser:
        said = text_of((await browser.get(f"/companies/{here.company.id}/agents/{agent_id}")).text)
    assert "service only GET /repos/** asks a person before POST /repos/** at most 30 calls a minute" in said
    assert "other any call" in said


async def test_an_adapter_is_set_shown_and_taken_away_and_its_secret_is_shown_once(
    app: App, somebody: Person, tenant: Any
) -> None:
    here = await tenant()
    await with_adapter(app, here)
    agent = f"/companies/{here.company.id}/agents/{here.agent.agent_id()}"
    async with somebody.client() as browser:
        form = {"kind": "llm", "integration": "model", "model": "larger", "api": "openai", "system": "be brief"}
        wrong = await browser.post(f"{agent}/adapter", data={**form, "max_turns": "many"})
        assert wrong.status_code == 422
        assert 'id="max_turns-problem"' in wrong.text
        assert (await browser.post(f"{agent}/adapter", data={**form, "max_turns": "7"})).status_code == 303
        shown = text_of((await browser.get(agent)).text)
        for part in ("larger", "openai", "be brief", "Max turns 7"):
            assert part in shown
        remote = await browser.post(
            f"{agent}/adapter", data={"kind": "http", "url": "https://agents.example/in?key=of-the-receiver"}
        )
        secret = re.search(r"whsec_[A-Za-z0-9+/=]+", remote.text)
        assert secret is not None
        page = await browser.get(agent)
        assert "https://agents.example/in" in page.text
        assert "of-the-receiver" not in page.text + (await browser.get(f"{agent}/adapter")).text
        assert secret[0] not in page.text
        seen = re.search(r'name="seen" value="([^"]+)"', (await browser.get(f"{agent}/adapter/rotate-secret")).text)
        assert seen is not None
        rotated = await browser.post(f"{agent}/adapter/rotate-secret", data={"seen": seen[1]})
        assert rotated.status_code == 200
        assert "whsec_" in rotated.text
        assert secret[0] not in rotated.text
        assert (await browser.post(f"{agent}/adapter/remove")).status_code == 303
    assert (await app.agents.get(here.local, here.agent.agent_id())).adapter is None


async def test_only_an_owner_of_the_instance_lets_a_process_out_of_the_sandbox_and_every_page_says_so(
    app: App, somebody: Person, tenant: Any
) -> None:
    here = await tenant()
    home = f"/companies/{here.company.id}"
    agent = f"{home}/agents/{here.agent.agent_id()}"
    form = {"kind": "process", "command": "/usr/bin/env true", "unsandboxed": "yes", "network": "orchestrator"}
    owner_of_company = await member(app, here.local, Role.OWNER)
    async with owner_of_company.client() as browser:
        assert "can read the master key" not in (await browser.get(f"{agent}/adapter?kind=process")).text
        assert (await browser.post(f"{agent}/adapter", data=form)).status_code == 403
        within = {name: value for name, value in form.items() if name != "unsandboxed"}
        assert (await browser.post(f"{agent}/adapter", data=within)).status_code == 303
        assert "master key" not in text_of((await browser.get(agent)).text)
    async with somebody.client() as browser:
        assert (await browser.post(f"{agent}/adapter", data=form)).status_code == 303
        run = await app.runs.start(here.local, here.agent.agent_id(), prompt="look around")
        for place in (agent, f"{home}/agents", f"{home}/runs/{run.id}", f"{home}/tasks/new"):
            assert "can read the master key" in (await browser.get(place)).text.lower(), place


async def test_limits_are_set_and_removed_in_dollars_and_what_is_wrong_stands_at_its_field(
    app: App, somebody: Person, tenant: Any
) -> None:
    here = await tenant()
    home, agent_id = f"/companies/{here.company.id}", here.agent.agent_id()
    async with somebody.client() as browser:
        for path, whose in ((f"{home}/agents/{agent_id}/limits", agent_id), (f"{home}/costs/limits", None)):
            wrong = await browser.post(path, data={"month_micros": "12.5", "run_seconds": "5"})
            assert wrong.status_code == 422
            assert 'id="run_seconds-problem"' in wrong.text
            assert 'value="12.5"' in wrong.text
            saved = await browser.post(path, data={"month_micros": "12.5", "run_seconds": "60", "runs_at_once": "3"})
            assert saved.status_code == 303
            found = await app.limits.get(here.local, whose)
            assert (found.month_micros, found.run_seconds, found.runs_at_once) == (12_500_000, 60, 3)
            assert 'value="12.50"' in (await browser.get(path)).text
            assert "at most $12.50" in text_of((await browser.get(saved.headers["location"])).text)
            await browser.post(path, data={})
            assert (await app.limits.get(here.local, whose)).month_micros is None


async def test_what_was_spent_is_drawn_and_written_beside_its_budget(app: App, somebody: Person, tenant: Any) -> None:
    here = await tenant()
    agent_id, home = here.agent.agent_id(), f"/companies/{here.company.id}"
    await app.limits.set(here.local, agent_id, {"month_micros": 31_000_000})
    usage = Usage(model="claude-sonnet-4-6", input_tokens=100_000, output_tokens=0)
    await app.spending.record(here.agent, uuid.uuid4(), "anthropic", usage)
    async with somebody.client() as browser:
        of_agent = await browser.get(f"{home}/agents/{agent_id}")
        costs = await browser.get(f"{home}/costs")
        overview = await browser.get(home)
    for page in (of_agent, costs):
        said = text_of(page.text)
        assert "$0.30" in said
        assert "100,000" in said
        assert len(re.findall(r'<rect x="[0-9]+" y="[0-9.]+" width="6"', page.text)) == 30
        assert page.text.count('<tr role="row"><th role="rowheader" scope="row">') >= 30
    assert "$0.30 this month of $31.00" in text_of(of_agent.text)
    assert 'class="budget-line"' in of_agent.text
    assert 'class="budget-line"' not in costs.text
    assert "claude-sonnet-4-6" in costs.text
    assert "Spent this month $0.30" in text_of(overview.text)


# — schedules —


async def test_a_schedule_says_when_it_comes_true_before_and_after_it_is_made(
    app: App, somebody: Person, tenant: Any
) -> None:
    here = await tenant()
    agent_id = await with_adapter(app, here)
    home = f"/companies/{here.company.id}"
    schedules = f"{home}/schedules"
    form = {"name": "new year", "agent": str(agent_id), "cron": "30 9 1 1 *", "timezone": "Europe/Berlin"}
    async with somebody.client() as browser:
        looked = await browser.post(f"{schedules}/new", data={**form, "act": "look"})
        assert len(re.findall(r"1 January \d{4}, 09:30", looked.text)) == 5
        assert (await app.schedules.list(here.local)).items == []
        for wrong, field in (({"cron": "often"}, "cron"), ({"timezone": "Mars"}, "cron"), ({"agent": ""}, "agent")):
            refused = await browser.post(f"{schedules}/new", data={**form, "prompt": "greet", **wrong})
            assert refused.status_code == 422
            assert f'id="{field}-problem"' in refused.text
        made = await browser.post(f"{schedules}/new", data={**form, "prompt": BAD})
        one = made.headers["location"].partition("?")[0]
        page = await browser.get(one)
        said = text_of(page.text)
        assert re.search(r"\w+day, 1 January \d{4}, 09:30 in \d+", said)
        assert "In the time zone Europe/Berlin." in said
        assert f"by {somebody.operator.name}" in said
        assert "<script" not in page.text
        async with await connect_past(app, "postgres") as superuser:
            await sql(superuser, "UPDATE schedules SET next_at = now() WHERE company_id = %(id)s", id=here.company.id)
        await app.schedules.start_due(here.local.scope)
        assert "started by the schedule new year" in text_of((await browser.get(f"{home}/runs")).text)
        for act, part in (("pause", "Paused"), ("resume", "Active")):
            await browser.post(f"{one}/{act}")
            assert part in text_of((await browser.get(one)).text)
        assert "new year" in (await browser.get(schedules)).text
        assert (await browser.post(f"{one}/delete")).headers["location"] == f"{schedules}?done=schedule-deleted"
    assert (await app.schedules.list(here.local)).items == []


# — words —


@pytest.mark.parametrize(
    ("micros", "said"),
    [
        *((0, "$0.00"), (1, "$0.000001"), (125, "$0.000125"), (9_999, "$0.009999"), (10_000, "$0.01")),
        *((12_500_000, "$12.50"), (9_999_999, "$9.99"), (1_234_567_890, "$1,234.56")),
    ],
)
def test_money_is_never_rounded_up(micros: int, said: str) -> None:
    assert money(micros) == said


@pytest.mark.parametrize(
    ("text", "micros"), [("2.50", 2_500_000), ("$3", 3_000_000), ("0.000001", 1), ("", None), ("0.1", 100_000)]
)
def test_an_amount_of_money_is_read_exactly(text: str, micros: int | None) -> None:
    assert dollars(text) == micros


@pytest.mark.parametrize("text", ["-1", "1,5", "1e3", "x", "1.0000001", "٣"])
def test_what_is_no_amount_of_money_is_refused(text: str) -> None:
    with pytest.raises(WrongUsage):
        dollars(text)


def test_what_a_terminal_would_obey_is_left_out() -> None:
    assert (
        plain("\x1b[1;31mred\x1b[0m \x1b]0;title\x07and\x1b(B\x00\x08 bell\x07\r\n10%\r20%") == "red and bell\n10%\n20%"
    )
    assert plain("a\tb\nc") == "a\tb\nc"


def test_days_without_spending_are_drawn_too() -> None:
    day = date(2026, 2, 28)
    row = DaySum(1, 10, 500, 0, 0, "p", "m", day=day, agent_id=uuid.uuid4(), agent="ann")
    drawn = chart([row, row], 28_000_000, day)
    assert len(drawn.days) == 30
    assert (drawn.days[-1][1].micros, drawn.total, drawn.share, drawn.most) == (1000, 1000, 1_000_000, 1_000_000)


def test_how_long_and_how_many_are_said_shortly() -> None:
    assert [lasted(seconds) for seconds in (0, 59, 60, 61, 3600, 3720)] == [
        *("0 s", "59 s", "1 min", "1 min 1 s", "1 h", "1 h 2 min")
    ]
    assert [short(count) for count in (0, 9_999, 12_345, 7_400_000, 2 * 10**9)] == [
        *("0", "9,999", "12.3 k", "7.4 M", "2.0 G")
    ]
