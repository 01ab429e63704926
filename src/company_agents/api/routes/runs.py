"""
Runs: open, renew, finish, look at, cancel.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.responses import Response

from company_agents.api.callers import GuardedRoute, InCompany, Parts
from company_agents.api.fields import Id
from company_agents.api.idempotency import Creating
from company_agents.api.paging import After, Limit
from company_agents.api.run_schemas import Cancelling, Ending, Held, NewRun, RunOpened, RunOut, RunWithPins
from company_agents.api.schemas import PageOf
from company_agents.identity.paging import Page
from company_agents.runs.model import STATES, Run

router = APIRouter(prefix="/v1/companies/{cid}/runs", tags=["runs"], route_class=GuardedRoute)

State = Annotated[str | None, Query(json_schema_extra={"enum": [*STATES]})]


@router.get(
    "",
    response_model=PageOf[RunOut],
    operation_id="listRuns",
    summary="The runs, oldest first; for an agent, its own, and for a run, itself",
)
async def list_runs(
    parts: Parts,
    caller: InCompany,
    agent: Annotated[Id | None, Query()] = None,
    state: State = None,
    after: After = None,
    limit: Limit = 50,
) -> Page[Run]:
    return await parts.runs.list(caller, agent=agent, state=state, after=after, limit=limit)


@router.post(
    "",
    status_code=201,
    response_model=RunOpened,
    operation_id="openRun",
    summary="Begin a run of the agent that calls; its token is shown this once",
    description="It is pinned to the present credential versions of all integrations that the agent may use. Its token dies "
    "with its lease, which is renewed before it ends.",
)
async def open_run(parts: Parts, caller: InCompany, body: NewRun, creation: Creating) -> Response:
    async def create() -> BaseModel:
        run, token = await parts.runs.open(caller, body.purpose)
        shown = RunWithPins.model_validate(run)
        return RunOpened(**shown.model_dump(), token=token.reveal_text(), replayed=False)

    return await creation.answered(caller.scope, caller.label, body, create)


@router.get("/{run_id}", response_model=RunWithPins, operation_id="getRun", summary="One run, with its pins")
async def get_run(parts: Parts, caller: InCompany, run_id: Id) -> Run:
    return await parts.runs.get(caller, run_id)


@router.post(
    "/{run_id}/renew",
    response_model=RunWithPins,
    operation_id="renewRun",
    summary="Begin its lease anew, before it ends; for who has its fencing token",
)
async def renew_run(parts: Parts, caller: InCompany, run_id: Id, body: Held) -> Run:
    return await parts.runs.renew(caller, run_id, body.fencing_token)


@router.post(
    "/{run_id}/finish",
    response_model=RunWithPins,
    operation_id="finishRun",
    summary="End it; its token is dead from now on",
)
async def finish_run(parts: Parts, caller: InCompany, run_id: Id, body: Ending) -> Run:
    return await parts.runs.finish(caller, run_id, body.fencing_token, outcome=body.outcome, reason=body.reason)


@router.post(
    "/{run_id}/cancel",
    response_model=RunWithPins,
    operation_id="cancelRun",
    summary="End somebody's run; its token is refused from now on",
)
async def cancel_run(parts: Parts, caller: InCompany, run_id: Id, body: Cancelling) -> Run:
    return await parts.runs.cancel(caller, run_id, body.reason)
