"""
Tasks and what is said about them.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.responses import Response

from company_agents.api.callers import GuardedRoute, InCompany, Parts
from company_agents.api.fields import Id, Status
from company_agents.api.idempotency import Creating
from company_agents.api.paging import After, Limit
from company_agents.api.schemas import CommentOut, NewComment, NewTask, PageOf, TaskChange, TaskOut, TaskWithComments
from company_agents.identity.paging import Page
from company_agents.work.tasks import Comment, Task

router = APIRouter(prefix="/v1/companies/{cid}/tasks", tags=["tasks"], route_class=GuardedRoute)


@router.get("", response_model=PageOf[TaskOut], operation_id="listTasks", summary="The tasks, oldest first")
async def list_tasks(
    parts: Parts,
    caller: InCompany,
    status: Annotated[Status | None, Query(description="only those of this status")] = None,
    assignee: Annotated[Id | None, Query(description="only those of this agent")] = None,
    after: After = None,
    limit: Limit = 50,
) -> Page[Task]:
    return await parts.tasks.list(caller, status=status, assignee=assignee, after=after, limit=limit)


@router.post("", status_code=201, response_model=TaskWithComments, operation_id="createTask", summary="Create a task")
async def create_task(parts: Parts, caller: InCompany, body: NewTask, creation: Creating) -> Response:
    async def create() -> BaseModel:
        task = await parts.tasks.create(caller, body.title, body.description, body.assignee)
        return TaskWithComments.model_validate(task)

    return await creation.answered(caller.scope, caller.label, body, create)


@router.get(
    "/{task_id}", response_model=TaskWithComments, operation_id="getTask", summary="One task, with its comments"
)
async def get_task(parts: Parts, caller: InCompany, task_id: Id) -> Task:
    return await parts.tasks.get(caller, task_id)


@router.patch(
    "/{task_id}",
    response_model=TaskWithComments,
    operation_id="changeTask",
    summary="Change what is given; the rest stays",
)
async def change_task(parts: Parts, caller: InCompany, task_id: Id, body: TaskChange) -> Task:
    changes = body.model_dump(exclude_unset=True)
    if "assignee" in changes and body.assignee is None:
        changes["assignee"] = "nobody"
    return await parts.tasks.update(caller, task_id, **changes)


@router.get(
    "/{task_id}/comments",
    response_model=PageOf[CommentOut],
    operation_id="listComments",
    summary="What was said about a task, oldest first, in one page",
)
async def list_comments(parts: Parts, caller: InCompany, task_id: Id) -> Page[Comment]:
    return Page((await parts.tasks.get(caller, task_id)).comments)


@router.post(
    "/{task_id}/comments",
    status_code=201,
    response_model=CommentOut,
    operation_id="createComment",
    summary="Say something about a task",
)
async def create_comment(
    parts: Parts, caller: InCompany, task_id: Id, body: NewComment, creation: Creating
) -> Response:
    async def create() -> BaseModel:
        return CommentOut.model_validate(await parts.tasks.comment(caller, task_id, body.text))

    return await creation.answered(caller.scope, caller.label, body, create)
