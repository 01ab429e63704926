"""
Whose token this is.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from company_agents.api.callers import QuickRoute, who_calls
from company_agents.api.schemas import AgentMe, OperatorMe, RunMe
from company_agents.identity.principal import Principal

router = APIRouter(prefix="/v1", tags=["me"], route_class=QuickRoute)


@router.get("/me", response_model=AgentMe | RunMe | OperatorMe, operation_id="getMe", summary="Whose token this is")
async def get_me(request: Request) -> Response:
    # Written out by hand: agents ask this all the time, and the token's check has said everything already.
    who = who_calls(request)
    shown: dict[str, Any]
    if isinstance(who, Principal):
        shown = {"kind": "operator", "id": str(who.id), "name": who.name, "role": who.role}
    elif who.principal.run_id is not None:
        run = who.principal
        whose = {"id": str(run.run_id), "agent": str(run.id), "name": run.name, "company": str(run.company_id)}
        shown = {"kind": "run", **whose}
    else:
        agent = who.principal
        shown = {"kind": "agent", "id": str(agent.id), "name": agent.name, "company": str(agent.company_id)}
    return Response(json.dumps(shown, separators=(",", ":")), media_type="application/json")
