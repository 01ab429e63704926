"""
Company → Runs: the list, starting one, and one run with what it puts out as it does.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from starlette.responses import PlainTextResponse, Response

from company_agents.dashboard.forms import Form, dollars, number
from company_agents.dashboard.live import Feed, Lines, Part, seen_at, streamed
from company_agents.dashboard.named import Names, all_agents
from company_agents.dashboard.pages.tasks import STALE
from company_agents.dashboard.telling import plain
from company_agents.dashboard.visit import Page, Visit, go
from company_agents.errors import CompanyAgentsError, NotFound, WrongUsage
from company_agents.identity.agents import Agent
from company_agents.identity.permissions import Permission
from company_agents.runs.runs import STATES
from company_agents.runs.views import RunList, RunView, Views

# Pieces of output in a page that is loaded; all of it is a click away.
SHOWN = 1000
# Looks at a run that has ended, until its page is told that nothing more will come.
LAST_LOOKS = 2
# At a time, of all of its output.
_BATCH = 500

_PARTS = ("run-state", "run-facts", "run-pins", "run-actions")
_views = Views()


async def show_list(visit: Visit) -> Response:
    """What agents are at, and were."""
    chosen = _chosen(visit)
    after = visit.query("after")
    runs = await _views.runs(visit.caller, **chosen, after=after)
    assert runs is not None
    names = Names(visit)
    await names.add(run.started_by for run in runs.page.items)
    address = {name: str(value) for name, value in chosen.items() if value}
    live = "" if after else f"{visit.home}/runs/stream?{urlencode({**address, 'after': runs.mark})}"
    agents = await all_agents(visit)
    context: dict[str, Any] = {"runs": runs, "names": names, "agents": agents, "chosen": chosen, "states": STATES}
    return visit.page("runs.html", live=live, address=urlencode(address), **context)


def _chosen(visit: Visit) -> dict[str, Any]:
    """Which runs are asked for. What is no agent's id finds none."""
    try:
        agent = UUID(visit.query("agent") or "")
    except ValueError:
        agent = None
    state = visit.query("state")
    return {"agent": agent, "state": state if state in STATES else None}


class _ListFeed(Feed):
    def __init__(self, visit: Visit) -> None:
        self.at = seen_at(visit)
        self.over = False
        self._visit = visit
        self._names = Names(visit)
        self._runs: RunList | None = None
        self._looks = 0

    async def look(self) -> list[Part | Lines]:
        runs = await _views.runs(self._visit.caller, **_chosen(self._visit), seen=self.at)
        self._looks += 1
        if runs is None and (self._runs is None or self._looks % STALE):
            return []
        self._runs = runs or self._runs
        assert self._runs is not None
        self.at = self._runs.mark
        await self._names.add(run.started_by for run in self._runs.page.items)
        return [Part("runs-rows", self._visit.part("runs_rows.html", runs=self._runs, names=self._names))]


async def stream_list(visit: Visit) -> Response:
    """What changes in it."""
    return streamed(visit, _ListFeed(visit))


async def show_one(visit: Visit) -> Response:
    """Where it is, what it holds, what it has cost, and what it puts out."""
    run_id = visit.id("run")
    begin = await _views.output_start(visit.caller, run_id, SHOWN)
    run, pieces = await _views.run(visit.caller, run_id, begin, SHOWN)
    names = Names(visit)
    await names.add([run.started_by])
    live = "" if run.ended else f"{_path(visit, run_id)}/stream?after={pieces[-1].seq if pieces else begin}"
    return visit.page("run.html", live=live, run=run, pieces=pieces, cut=begin > 0, names=names)


class _RunFeed(Feed):
    def __init__(self, visit: Visit) -> None:
        self.at = str(number(seen_at(visit)) or 0)
        self.over = False
        self._visit = visit
        self._names = Names(visit)
        self._shown: dict[str, str] = {}
        self._ended = 0

    async def look(self) -> list[Part | Lines]:
        run, pieces = await _views.run(self._visit.caller, self._visit.id("run"), int(self.at))
        await self._names.add([run.started_by])
        told: list[Part | Lines] = []
        if pieces:
            self.at = str(pieces[-1].seq)
            told.append(Lines([{"stream": piece.stream, "text": plain(piece.text)} for piece in pieces]))
        told += self._changed(run)
        self._ended = self._ended + 1 if run.ended and not pieces else 0
        self.over = self._ended >= LAST_LOOKS
        return told

    def _changed(self, run: RunView) -> list[Part | Lines]:
        changed: list[Part | Lines] = []
        for part in _PARTS:
            html = self._visit.part(f"{part.replace('-', '_')}.html", run=run, names=self._names)
            if self._shown.get(part) != html:
                self._shown[part] = html
                changed.append(Part(part, html))
        return changed


async def stream_one(visit: Visit) -> Response:
    """What changes about it, and what it puts out."""
    await visit.app.runs.get(visit.caller, visit.id("run"))
    return streamed(visit, _RunFeed(visit))


async def show_output(visit: Visit) -> Response:
    """All of its output, as plain text."""
    text, after = [], 0
    while lines := await visit.app.runs.output(visit.caller, visit.id("run"), after, _BATCH):
        text += [f"\n[{line.text.strip()}]\n" if line.stream == "note" else line.text for line in lines]
        after = lines[-1].seq
    return PlainTextResponse(plain("".join(text)))


async def show_start(visit: Visit) -> Response:
    """The form. An address may name the agent and the task, and says nothing else."""
    form = Form({name: [value] for name in ("agent", "task") if (value := visit.query(name))})
    return visit.page("run_start.html", form=form, **await _choices(visit))


async def act_start(visit: Visit) -> Response:
    """Queue it."""
    form = await visit.form()
    try:
        run = await visit.app.runs.start(visit.caller, _one_id(form, "agent"), **_asked(form))
    except CompanyAgentsError as error:
        return visit.again("run_start.html", form, error, **await _choices(visit))
    return go(_path(visit, run.id), done="run-started")


def _asked(form: Form) -> dict[str, Any]:
    with form.at("minutes"):
        minutes = number(form.text("minutes"))
    with form.at("tokens"):
        tokens = number(form.text("tokens"))
    with form.at("money"):
        money = dollars(form.text("money"))
    return {
        "prompt": form.text("prompt"),
        "task": _one_id(form, "task") if form.text("task") else None,
        "time_limit": minutes * 60 if minutes else None,
        "token_limit": tokens,
        "micros_limit": money,
    }


def _one_id(form: Form, name: str) -> UUID:
    with form.at(name):
        if not form.text(name):
            raise WrongUsage("choose one")
        return form.ids(name)[0]


async def _choices(visit: Visit) -> dict[str, Any]:
    agents: list[Agent] = [agent for agent in await all_agents(visit) if agent.state != "retired" and agent.adapter]
    board = await _views.board(visit.caller)
    assert board is not None
    tasks = [card for status in ("open", "in_progress", "blocked") for card in board.columns[status]]
    return {"agents": agents, "tasks": tasks}


async def show_cancel(visit: Visit) -> Response:
    """What it means."""
    run, _ = await _views.run(visit.caller, visit.id("run"), most=1)
    return visit.page("run_cancel.html", run=run)


async def act_cancel(visit: Visit) -> Response:
    """End it."""
    form = await visit.form()
    try:
        await visit.app.runs.cancel(visit.caller, visit.id("run"), form.text("reason"))
    except NotFound:
        raise
    except CompanyAgentsError as error:
        run, _ = await _views.run(visit.caller, visit.id("run"), most=1)
        return visit.again("run_cancel.html", form, error, run=run)
    return go(_path(visit, visit.id("run")), done="run-cancelled")


async def act_cut(visit: Visit) -> Response:
    """Cut every run off from a version that this one holds."""
    form = await visit.form()
    await visit.app.runs.get(visit.caller, visit.id("run"))
    await visit.app.runs.cut(visit.caller, _one_id(form, "integration"), version=number(form.text("version")))
    return go(_path(visit, visit.id("run")), done="cut")


def _path(visit: Visit, run_id: UUID) -> str:
    return f"{visit.home}/runs/{run_id}"


_ALL = "/companies/{company:uuid}/runs"
_ONE = _ALL + "/{run:uuid}"

PAGES = [
    Page(_ALL, show_list, permission=Permission.RUN_READ),
    Page(f"{_ALL}/stream", stream_list, permission=Permission.RUN_READ, stream=True),
    Page(f"{_ALL}/new", show_start, act_start, permission=Permission.RUN_START),
    Page(_ONE, show_one, permission=Permission.RUN_READ),
    Page(f"{_ONE}/stream", stream_one, permission=Permission.RUN_READ, stream=True),
    Page(f"{_ONE}/output", show_output, permission=Permission.RUN_READ),
    Page(f"{_ONE}/cancel", show_cancel, act_cancel, permission=Permission.RUN_CANCEL),
    Page(f"{_ONE}/cut", act=act_cut, permission=Permission.RUN_CUT),
]
