"""
Limits, and what was spent.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from company_agents.api.callers import GuardedRoute, InCompany, Parts
from company_agents.api.cost_schemas import CostOut, LimitChange, LimitOut, MonthOut, SummaryOut
from company_agents.api.fields import Id
from company_agents.api.paging import After
from company_agents.api.paging import Limit as PageLimit
from company_agents.api.schemas import PageOf
from company_agents.identity.limits import Limit
from company_agents.identity.paging import Page
from company_agents.integrations.costs import MOST_DAYS, Entry, Month, Summary

router = APIRouter(prefix="/v1/companies/{cid}", tags=["costs"], route_class=GuardedRoute)

OfAgent = Annotated[Id | None, Query(description="only of this agent")]


@router.get(
    "/limits",
    response_model=LimitOut,
    operation_id="getLimits",
    summary="The limits of the company: of all its agents together, and of each run",
)
async def get_limits(parts: Parts, caller: InCompany) -> Limit:
    return await parts.limits.get(caller)


@router.patch(
    "/limits",
    response_model=LimitOut,
    operation_id="setLimits",
    summary="Change some of them; counts from the next start of a run and the next paid call on",
)
async def set_limits(parts: Parts, caller: InCompany, body: LimitChange) -> Limit:
    return await parts.limits.set(caller, None, body.model_dump(exclude_unset=True))


@router.get(
    "/agents/{agent_id}/limits",
    response_model=LimitOut,
    operation_id="getAgentLimits",
    summary="The limits of an agent",
)
async def get_agent_limits(parts: Parts, caller: InCompany, agent_id: Id) -> Limit:
    return await parts.limits.get(caller, agent_id)


@router.patch(
    "/agents/{agent_id}/limits",
    response_model=LimitOut,
    operation_id="setAgentLimits",
    summary="Change some of them; counts from the next start of a run and the next paid call on",
)
async def set_agent_limits(parts: Parts, caller: InCompany, agent_id: Id, body: LimitChange) -> Limit:
    return await parts.limits.set(caller, agent_id, body.model_dump(exclude_unset=True))


@router.get(
    "/costs",
    response_model=PageOf[CostOut],
    operation_id="listCosts",
    summary="What calls to models used, one entry for each, oldest first",
)
async def list_costs(
    parts: Parts,
    caller: InCompany,
    agent: OfAgent = None,
    run: Annotated[Id | None, Query(description="only of this run")] = None,
    after: After = None,
    limit: PageLimit = 50,
) -> Page[Entry]:
    return await parts.spending.entries(caller, agent=agent, run=run, after=after, limit=limit)


@router.get(
    "/costs/summary",
    response_model=SummaryOut,
    operation_id="getCostSummary",
    summary="Sums by day, agent and model",
)
async def get_summary(
    parts: Parts,
    caller: InCompany,
    agent: OfAgent = None,
    days: Annotated[int, Query(ge=1, le=MOST_DAYS, description="of so many days, with today")] = 30,
) -> Summary:
    return await parts.spending.summary(caller, agent=agent, days=days)


@router.get(
    "/costs/month",
    response_model=MonthOut,
    operation_id="getCostMonth",
    summary="What was spent this month, beside the limits",
)
async def get_month(parts: Parts, caller: InCompany, agent: OfAgent = None) -> Month:
    return await parts.spending.month(caller, agent)
