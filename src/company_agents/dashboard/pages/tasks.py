"""
Company → Tasks: the board, one task with what was said about it and its runs, and everything that changes one.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from starlette.responses import Response

from company_agents.dashboard.forms import Form
from company_agents.dashboard.live import Feed, Lines, Part, seen_at, streamed
from company_agents.dashboard.named import Names, all_agents
from company_agents.dashboard.visit import Page, Visit, go
from company_agents.errors import CompanyAgentsError, Conflict, NotFound, WrongUsage
from company_agents.identity.agents import Agent
from company_agents.identity.permissions import Permission
from company_agents.runs.views import Board, Thread, Views
from company_agents.work.tasks import STATUSES, Task

# Looks after which a page is made anew although nothing has changed: times are said as «3 minutes ago».
STALE = 30

_views = Views()


async def show_board(visit: Visit) -> Response:
    """Every task by its status."""
    board = await _views.board(visit.caller)
    assert board is not None
    return visit.page("tasks.html", board=board, live=f"{visit.home}/tasks/stream?after={board.mark}")


class _BoardFeed(Feed):
    def __init__(self, visit: Visit) -> None:
        self.at = seen_at(visit)
        self.over = False
        self._visit = visit
        self._board: Board | None = None
        self._looks = 0

    async def look(self) -> list[Part | Lines]:
        board = await _views.board(self._visit.caller, self.at)
        self._looks += 1
        if board is None and (self._board is None or self._looks % STALE):
            return []
        self._board = board or self._board
        assert self._board is not None
        self.at = self._board.mark
        return [
            Part(f"column-{status}", self._visit.part("tasks_column.html", board=self._board, status=status))
            for status in STATUSES
        ]


async def stream_board(visit: Visit) -> Response:
    """What changes on it."""
    return streamed(visit, _BoardFeed(visit))


async def show_new(visit: Visit) -> Response:
    """The form."""
    return visit.page("task_new.html", agents=await _assignable(visit))


async def act_new(visit: Visit) -> Response:
    """Write it down."""
    form = await visit.form()
    try:
        assignee = _agent_of(form)
        if not form.text("title"):
            form.failed_at = "title"
        task = await visit.app.tasks.create(
            visit.caller, form.text("title"), form.text("description"), assignee=assignee
        )
    except CompanyAgentsError as error:
        return visit.again("task_new.html", form, error, agents=await _assignable(visit))
    return go(_path(visit, task.id), done="task-created")


async def show_one(visit: Visit) -> Response:
    """One task: what is to be done, who does it, what was said, and its runs."""
    return await _thread_page(visit, Form())


async def _thread_page(visit: Visit, form: Form) -> Response:
    after = visit.query("after")
    thread = await _views.thread(visit.caller, visit.id("task"), after=after)
    assert thread is not None
    names = Names(visit)
    await names.add(_labels(thread))
    live = "" if after else f"{_path(visit, thread.id)}/stream?after={thread.mark}"
    status = form.error.http_status if form.error else 200
    assignable = await _assignable(visit) if visit.may("TASK_WRITE") else []
    context: dict[str, Any] = {"thread": thread, "names": names, "agents": assignable, "after": after}
    return visit.page("task.html", status=status, live=live, form=form, **context)


class _ThreadFeed(Feed):
    def __init__(self, visit: Visit) -> None:
        self.at = seen_at(visit)
        self.over = False
        self._visit = visit
        self._names = Names(visit)
        self._thread: Thread | None = None
        self._looks = 0

    async def look(self) -> list[Part | Lines]:
        thread = await _views.thread(self._visit.caller, self._visit.id("task"), self.at)
        self._looks += 1
        if thread is None and (self._thread is None or self._looks % STALE):
            return []
        self._thread = thread or self._thread
        assert self._thread is not None
        self.at = self._thread.mark
        await self._names.add(_labels(self._thread))
        context = {"thread": self._thread, "names": self._names}
        return [
            Part(part, self._visit.part(f"{part.replace('-', '_')}.html", **context))
            for part in ("task-head", "task-text", "task-said", "task-runs")
        ]


async def stream_one(visit: Visit) -> Response:
    """What changes about it."""
    await _task(visit)
    return streamed(visit, _ThreadFeed(visit))


async def show_edit(visit: Visit) -> Response:
    """The form, with what it says now."""
    task = await _task(visit)
    form = Form({"title": [task.title], "description": [task.description], "seen": [task.updated_at.isoformat()]})
    return visit.page("task_edit.html", task=task, form=form)


async def act_edit(visit: Visit) -> Response:
    """Make it so."""
    task = await _task(visit)
    form = await visit.form()
    try:
        if form.text("seen") != task.updated_at.isoformat():
            # What is typed stays in the form; what it says now is a click away.
            form.values["seen"] = [task.updated_at.isoformat()]
            raise Conflict(
                "somebody changed this task meanwhile", hint="look at it, and save again if yours is to stand"
            )
        if not form.text("title"):
            form.failed_at = "title"
            raise WrongUsage("a title has 1 to 200 characters")
        await visit.app.tasks.update(
            visit.caller, task.id, title=form.text("title"), description=form.text("description")
        )
    except CompanyAgentsError as error:
        return visit.again("task_edit.html", form, error, task=task)
    return go(_path(visit, task.id), done="task-saved")


async def act_move(visit: Visit) -> Response:
    """Give it another status, from the board or from its own page."""
    form = await visit.form()
    task = await visit.app.tasks.update(visit.caller, visit.id("task"), status=form.text("status"))
    return go(f"{visit.home}/tasks" if form.text("from") == "board" else _path(visit, task.id), done="task-moved")


async def act_assign(visit: Visit) -> Response:
    """Give it to an agent, or take it from the one that has it."""
    form = await visit.form()
    try:
        with form.at("assignee"):
            if not form.has("assignee"):
                raise WrongUsage("choose who is to do it")
            assignee = _agent_of(form)
            task = await visit.app.tasks.update(visit.caller, visit.id("task"), assignee=assignee or "nobody")
    except CompanyAgentsError as error:
        form.error = error
        return await _thread_page(visit, form)
    return go(_path(visit, task.id), done="task-assigned" if assignee else "task-unassigned")


async def act_comment(visit: Visit) -> Response:
    """Say something about it."""
    form = await visit.form()
    try:
        with form.at("text"):
            await visit.app.tasks.comment(visit.caller, visit.id("task"), form.text("text"))
    except NotFound:
        raise
    except CompanyAgentsError as error:
        form.error = error
        return await _thread_page(visit, form)
    return go(_path(visit, visit.id("task")), done="commented")


async def show_acted(visit: Visit) -> Response:
    """An act was loaded again: to where it led."""
    return go(_path(visit, (await _task(visit)).id))


async def _task(visit: Visit) -> Task:
    return await visit.app.tasks.get(visit.caller, visit.id("task"))


async def _assignable(visit: Visit) -> list[Agent]:
    return [agent for agent in await all_agents(visit) if agent.state != "retired"]


def _agent_of(form: Form) -> UUID | None:
    chosen = [value for value in form.all("assignee") if value]
    return form.ids("assignee")[0] if chosen else None


def _labels(thread: Thread) -> list[str]:
    return [thread.created_by, *(said.author for said in thread.said.items)]


def _path(visit: Visit, task_id: UUID) -> str:
    return f"{visit.home}/tasks/{task_id}"


_ALL = "/companies/{company:uuid}/tasks"
_ONE = _ALL + "/{task:uuid}"

PAGES = [
    Page(_ALL, show_board, permission=Permission.TASK_READ),
    Page(f"{_ALL}/stream", stream_board, permission=Permission.TASK_READ, stream=True),
    Page(f"{_ALL}/new", show_new, act_new, permission=Permission.TASK_WRITE),
    Page(_ONE, show_one, permission=Permission.TASK_READ),
    Page(f"{_ONE}/stream", stream_one, permission=Permission.TASK_READ, stream=True),
    Page(f"{_ONE}/edit", show_edit, act_edit, permission=Permission.TASK_WRITE),
    Page(f"{_ONE}/move", show_acted, act_move, permission=Permission.TASK_WRITE),
    Page(f"{_ONE}/assign", show_acted, act_assign, permission=Permission.TASK_WRITE),
    Page(f"{_ONE}/comment", show_acted, act_comment, permission=Permission.TASK_WRITE),
]
