"""
The instance as a whole: the panic button.
"""

from __future__ import annotations

from fastapi import APIRouter

from company_agents.api.callers import GuardedRoute, Parts, Who
from company_agents.api.key_schemas import SealedOut
from company_agents.identity.permissions import Permission

router = APIRouter(prefix="/v1/instance", tags=["instance"], route_class=GuardedRoute)


@router.post(
    "/seal",
    response_model=SealedOut,
    operation_id="sealInstance",
    summary="Panic: every orchestrator drops its keys and answers 503 until an owner unseals, which no token can",
)
async def seal_instance(parts: Parts, who: Who) -> SealedOut:
    who.require(Permission.INSTANCE_SEAL)
    await parts.panic.seal(who.label)
    return SealedOut(sealed=True)
