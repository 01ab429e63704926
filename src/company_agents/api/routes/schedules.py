"""
Schedules: runs that are started whenever a cron expression says so.
"""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from company_agents.api.callers import GuardedRoute, InCompany, Parts
from company_agents.api.fields import Id
from company_agents.api.idempotency import Creating
from company_agents.api.paging import After, Limit
from company_agents.api.schedule_schemas import NewSchedule, ScheduleOut
from company_agents.api.schemas import PageOf
from company_agents.identity.paging import Page
from company_agents.runs.schedules import Schedule

router = APIRouter(prefix="/v1/companies/{cid}/schedules", tags=["schedules"], route_class=GuardedRoute)


@router.get("", response_model=PageOf[ScheduleOut], operation_id="listSchedules", summary="The schedules, oldest first")
async def list_schedules(parts: Parts, caller: InCompany, after: After = None, limit: Limit = 50) -> Page[Schedule]:
    return await parts.schedules.list(caller, after, limit)


@router.post(
    "",
    status_code=201,
    response_model=ScheduleOut,
    operation_id="createSchedule",
    summary="Start a run of an agent whenever a cron expression says so",
)
async def create_schedule(parts: Parts, caller: InCompany, body: NewSchedule, creation: Creating) -> Response:
    async def create() -> BaseModel:
        given = body.model_dump(exclude={"agent"})
        return ScheduleOut.model_validate(await parts.schedules.create(caller, body.agent, **given))

    return await creation.answered(caller.scope, caller.label, body, create)


@router.get("/{schedule_id}", response_model=ScheduleOut, operation_id="getSchedule", summary="One schedule")
async def get_schedule(parts: Parts, caller: InCompany, schedule_id: Id) -> Schedule:
    return await parts.schedules.get(caller, schedule_id)


@router.post(
    "/{schedule_id}/pause",
    response_model=ScheduleOut,
    operation_id="pauseSchedule",
    summary="Start nothing until it is resumed",
)
async def pause_schedule(parts: Parts, caller: InCompany, schedule_id: Id) -> Schedule:
    return await parts.schedules.pause(caller, schedule_id)


@router.post(
    "/{schedule_id}/resume",
    response_model=ScheduleOut,
    operation_id="resumeSchedule",
    summary="Start runs again, from the next moment on",
)
async def resume_schedule(parts: Parts, caller: InCompany, schedule_id: Id) -> Schedule:
    return await parts.schedules.resume(caller, schedule_id)


@router.delete("/{schedule_id}", status_code=204, operation_id="deleteSchedule", summary="Delete it; its runs stay")
async def delete_schedule(parts: Parts, caller: InCompany, schedule_id: Id) -> None:
    await parts.schedules.delete(caller, schedule_id)
