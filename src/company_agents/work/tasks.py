"""
Tasks and their comments: a company's shared list of work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID, uuid4

from company_agents.companies.scope import CompanyScope
from company_agents.errors import NotFound, WrongUsage
from company_agents.identity.holding import still_holds
from company_agents.identity.paging import Page, cursor_params, page
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller

STATUSES = ("open", "in_progress", "blocked", "done", "cancelled")
# In place of an agent: the task is anybody's.
Nobody = Literal["nobody"]
MOST_TITLE = 200
MOST_TEXT = 50_000


@dataclass(frozen=True, slots=True)
class Comment:
    """A remark on a task; `author` is `agent:<id>` or `operator:<id>`."""

    id: UUID
    author: str
    text: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of work."""

    id: UUID
    title: str
    description: str
    status: str
    assignee: UUID | None
    created_by: str
    created_at: datetime
    updated_at: datetime
    comments: list[Comment] = field(default_factory=list)


# Told of a task that was assigned to somebody, in the transaction of that.
Assigned = Callable[[Any, Caller, dict[str, Any]], Awaitable[object]]


@dataclass(frozen=True)
class Tasks:
    """The tasks of a caller's company. `assigned` is told of each that is given to somebody."""

    assigned: Assigned

    async def list(
        self,
        caller: Caller,
        *,
        status: str | None = None,
        assignee: UUID | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Task]:
        """The tasks, oldest first, without their comments."""
        caller.require(Permission.TASK_READ)
        _check_status(status)
        params = cursor_params(after, limit)
        async with caller.scope.transaction() as tx:
            rows = await tx.all("task_list", status=status, assignee=assignee, **params)
        return page([Task(**row) for row in rows], limit)

    async def get(self, caller: Caller, task_id: UUID) -> Task:
        """
        Raises:
            NotFound: no such task in this company.
        """
        caller.require(Permission.TASK_READ)
        return await _task(caller.scope, task_id)

    async def create(self, caller: Caller, title: str, description: str = "", assignee: UUID | None = None) -> Task:
        """
        Raises:
            NotFound: no such agent to assign it to.
            WrongUsage: empty, or too long.
        """
        caller.require(Permission.TASK_WRITE)
        _check_texts(title, description)
        task_id = uuid4()
        async with caller.scope.transaction() as tx:
            await still_holds(tx, caller)
            await _check_assignee(tx, assignee)
            await tx.run(
                "task_insert",
                id=task_id,
                company_id=caller.scope.company_id,
                title=title.strip(),
                description=description,
                assignee=assignee,
                created_by=caller.label,
            )
            await self._tell(tx, caller, task_id, assignee)
        return await _task(caller.scope, task_id)

    async def update(
        self,
        caller: Caller,
        task_id: UUID,
        *,
        title: str | None = None,
        description: str | None = None,
        status: str | None = None,
        assignee: UUID | Nobody | None = None,
    ) -> Task:
        """
        Change what is given; the rest stays. Runs that were started for it go on, whoever it is assigned to now.

        Raises:
            NotFound: no such task, or no such agent to assign it to.
            WrongUsage: a status that is none, empty, or too long.
        """
        caller.require(Permission.TASK_WRITE)
        _check_status(status)
        _check_texts("x" if title is None else title, description or "")
        async with caller.scope.transaction() as tx:
            await still_holds(tx, caller)
            agent = None if assignee == "nobody" else assignee
            await _check_assignee(tx, agent)
            changed = await tx.run(
                "task_update",
                id=task_id,
                title=title.strip() if title else None,
                description=description,
                status=status,
                assignee=agent,
                nobody=assignee == "nobody",
            )
            if not changed:
                raise _unknown_task()
            await self._tell(tx, caller, task_id, agent)
        return await _task(caller.scope, task_id)

    async def _tell(self, tx: Any, caller: Caller, task_id: UUID, assignee: UUID | None) -> None:
        if assignee is not None:
            row = await tx.one("task_get", id=task_id)
            assert row is not None
            await self.assigned(tx, caller, row)

    async def comment(self, caller: Caller, task_id: UUID, text: str) -> Comment:
        """
        Raises:
            NotFound: no such task in this company.
            WrongUsage: empty, or too long.
        """
        caller.require(Permission.TASK_WRITE)
        if not text.strip() or len(text) > MOST_TEXT:
            raise WrongUsage(f"a comment has 1 to {MOST_TEXT} characters")
        async with caller.scope.transaction() as tx:
            await still_holds(tx, caller)
            if await tx.one("task_get", id=task_id) is None:
                raise _unknown_task()
            row = await tx.one(
                "comment_insert",
                id=uuid4(),
                company_id=caller.scope.company_id,
                task_id=task_id,
                author=caller.label,
                text=text,
            )
        assert row is not None
        return Comment(**row)


async def _task(scope: CompanyScope, task_id: UUID) -> Task:
    async with scope.transaction() as tx:
        row = await tx.one("task_get", id=task_id)
        if row is None:
            raise _unknown_task()
        comments = [Comment(**comment) for comment in await tx.all("comment_list", task_id=task_id)]
    return Task(**row, comments=comments)


async def _check_assignee(tx: Any, assignee: UUID | None) -> None:
    if assignee is not None and await tx.one("agent_get", id=assignee) is None:
        raise NotFound("the agent to assign it to does not exist")


def _check_status(status: str | None) -> None:
    if status is not None and status not in STATUSES:
        raise WrongUsage(f"a task has no such status; it may be {', '.join(STATUSES)}")


def _check_texts(title: str, description: str) -> None:
    if not title.strip() or len(title) > MOST_TITLE:
        raise WrongUsage(f"a title has 1 to {MOST_TITLE} characters")
    if len(description) > MOST_TEXT:
        raise WrongUsage(f"a description has at most {MOST_TEXT} characters")


def _unknown_task() -> NotFound:
    return NotFound("this task does not exist", hint="task_list shows the ones that do")
