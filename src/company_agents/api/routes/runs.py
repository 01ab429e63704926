"""
Runs: start, open, claim, renew, finish, look at, cancel.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.responses import Response

from company_agents.api.callers import GuardedRoute, InCompany, Parts
from company_agents.api.fields import Id
from company_agents.api.idempotency import Creating
from company_agents.api.paging import After, Limit
from company_agents.api.run_schemas import (
    Cancelling,
    Ending,
    Held,
    LinesOut,
    NewRun,
    PutOut,
    RunOpened,
    RunOut,
    RunWithPins,
    Starting,
)
from company_agents.api.schemas import PageOf
from company_agents.identity.paging import Page
from company_agents.runs.model import STATES, Run

router = APIRouter(prefix="/v1/companies/{cid}/runs", tags=["runs"], route_class=GuardedRoute)
of_agent = APIRouter(prefix="/v1/companies/{cid}/agents/{agent_id}/runs", tags=["runs"], route_class=GuardedRoute)

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
    task: Annotated[Id | None, Query()] = None,
    after: After = None,
    limit: Limit = 50,
) -> Page[Run]:
    return await parts.runs.list(caller, agent=agent, state=state, task=task, after=after, limit=limit)


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


@of_agent.post(
    "",
    status_code=201,
    response_model=RunWithPins,
    operation_id="startRun",
    summary="Start a run of an agent, for a task or a prompt: it is queued, and executed by its adapter",
)
async def start_run(parts: Parts, caller: InCompany, agent_id: Id, body: Starting, creation: Creating) -> Response:
    async def create() -> BaseModel:
        return RunWithPins.model_validate(await parts.runs.start(caller, agent_id, **body.model_dump()))

    return await creation.answered(caller.scope, caller.label, body, create)


@router.get("/{run_id}", response_model=RunWithPins, operation_id="getRun", summary="One run, with its pins")
async def get_run(parts: Parts, caller: InCompany, run_id: Id) -> Run:
    return await parts.runs.get(caller, run_id)


@router.get(
    "/{run_id}/output",
    response_model=LinesOut,
    operation_id="getRunOutput",
    summary="What it has put out, without what was taken out of it",
)
async def run_output(
    parts: Parts,
    caller: InCompany,
    run_id: Id,
    after: Annotated[int, Query(ge=0, le=2**63 - 1, description="the number of the last piece that is known")] = 0,
    limit: Limit = 200,
) -> dict[str, Any]:
    lines = await parts.runs.output(caller, run_id, after, limit)
    return {"items": lines, "next": lines[-1].seq if lines else after}


@router.post(
    "/{run_id}/output",
    status_code=204,
    operation_id="putRunOutput",
    summary="Add to what it has put out, for who holds it; what looks like a token is taken out",
)
async def put_run_output(parts: Parts, caller: InCompany, run_id: Id, body: PutOut) -> None:
    await parts.runs.put_out(caller, run_id, body.fencing_token, body.text, body.stream)


@router.post(
    "/{run_id}/claim",
    response_model=RunOpened,
    operation_id="claimRun",
    summary="Begin a queued run that was handed over to the agent that calls; its token is shown this once",
    description="Only for an agent whose adapter is `http`. What `openRun` gives, for work that somebody else has started.",
)
async def claim_run(parts: Parts, caller: InCompany, run_id: Id) -> RunOpened:
    run, token = await parts.runs.claim(caller, run_id)
    return RunOpened(**RunWithPins.model_validate(run).model_dump(), token=token.reveal_text(), replayed=False)


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
