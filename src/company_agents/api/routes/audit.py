"""
What happened in a company, and whether the record of it is what was written.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from company_agents.api.callers import GuardedRoute, InCompany, Parts
from company_agents.api.paging import Limit
from company_agents.api.schemas import Events, FaultOut, VerifiedOut
from company_agents.identity.permissions import Permission

router = APIRouter(prefix="/v1/companies/{cid}/audit", tags=["audit"], route_class=GuardedRoute)


@router.get("", response_model=Events, operation_id="listEvents", summary="The events, newest first")
async def list_events(
    parts: Parts,
    caller: InCompany,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="the `next` of the page before")] = None,
    limit: Limit = 50,
) -> dict[str, Any]:
    # The events know no callers: who may see them is asked here.
    caller.require(Permission.AUDIT_READ)
    events = await parts.events.newest(caller.scope.company_id, limit=limit, before=before)
    last = events[-1]["seq"] if len(events) == limit else None
    return {"items": events, "next": last if last != 1 else None}


@router.post(
    "/verify",
    response_model=VerifiedOut,
    operation_id="verifyEvents",
    summary="Prove the chain of events from its first",
)
async def verify_events(parts: Parts, caller: InCompany) -> VerifiedOut:
    caller.require(Permission.AUDIT_READ)
    verified = await parts.events.verify(caller.scope.company_id)
    faults = [FaultOut.model_validate(fault) for fault in verified.faults]
    return VerifiedOut(chain=verified.chain, events=verified.events, good=not faults, faults=faults)
