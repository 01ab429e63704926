"""
Approvals: requests of agents that a person has to approve; and the rules that say which.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from company_agents.api.approval_schemas import (
    ApprovalOut,
    ApprovalWithRequest,
    Decision,
    HeaderOut,
    RequestOut,
    RulesOut,
    Said,
)
from company_agents.api.callers import GuardedRoute, InCompany, Parts
from company_agents.api.fields import Id
from company_agents.api.paging import After, Limit
from company_agents.api.schemas import PageOf
from company_agents.identity.paging import Page
from company_agents.identity.permissions import Kind, Permission, allowed
from company_agents.identity.principal import Caller
from company_agents.integrations.approval_forms import AsSent, KeptReply
from company_agents.integrations.approvals import STATES, Approval
from company_agents.integrations.asking import MOST_WAIT
from company_agents.integrations.request import shown_reply
from company_agents.integrations.rulebook import RulesOfIntegration

_PREFIX = "/v1/companies/{cid}"
router = APIRouter(prefix=f"{_PREFIX}/approvals", tags=["approvals"], route_class=GuardedRoute)
rules = APIRouter(prefix=f"{_PREFIX}/integrations", tags=["approvals"], route_class=GuardedRoute)

State = Annotated[str | None, Query(json_schema_extra={"enum": [*STATES]})]
Wait = Annotated[int, Query(ge=0, le=MOST_WAIT, description="seconds to wait for what becomes of it")]


@router.get(
    "",
    response_model=PageOf[ApprovalOut],
    operation_id="listApprovals",
    summary="The approvals, oldest first; for an agent, its own",
)
async def list_approvals(
    parts: Parts, caller: InCompany, state: State = None, after: After = None, limit: Limit = 50
) -> Page[Approval]:
    return await parts.approvals.list(caller, state=state, after=after, limit=limit)


@router.get(
    "/{approval_id}",
    response_model=ApprovalWithRequest,
    operation_id="getApproval",
    summary="One approval; with the request for who may decide, and with the reply for the agent that asked",
    description="That somebody was shown the request is on record. An agent is told the reply for as long as it is kept.",
)
async def get_approval(parts: Parts, caller: InCompany, approval_id: Id, wait: Wait = 0) -> Response:
    found = await parts.approvals.get(caller, approval_id)
    request = reply = None
    if caller.principal.kind in (Kind.AGENT, Kind.RUN):
        found, kept = await parts.asking.result(caller, approval_id, wait=wait)
        reply = None if kept is None else _reply(kept)
    else:
        await parts.asking.over(caller, approval_id, wait)
        found = await parts.approvals.get(caller, approval_id)
        if _decides(caller):
            asked = await parts.approvals.shown(caller, approval_id)
            request = None if asked is None else _request(asked)
    shown = ApprovalWithRequest.model_validate(found).model_dump(mode="json")
    shown |= {"request": None if request is None else request.model_dump(mode="json"), "reply": reply}
    # Escaped: a provider's JSON may hold halves of characters, which UTF-8 cannot carry.
    return Response(json.dumps(shown, separators=(",", ":")), media_type="application/json")


@router.post(
    "/{approval_id}/approve",
    response_model=ApprovalOut,
    operation_id="approveRequest",
    summary="Have it sent: once, and as it was shown; begins at once, behind the answer",
)
async def approve_request(parts: Parts, caller: InCompany, approval_id: Id, body: Decision) -> Approval:
    return await parts.approvals.approve(caller, approval_id, body.note)


@router.post(
    "/{approval_id}/refuse",
    response_model=ApprovalOut,
    operation_id="refuseRequest",
    summary="Have it not sent; the agent is told, with the note",
)
async def refuse_request(parts: Parts, caller: InCompany, approval_id: Id, body: Decision) -> Approval:
    return await parts.approvals.refuse(caller, approval_id, body.note)


@rules.get(
    "/{integration_id}/rules",
    response_model=RulesOut,
    operation_id="getIntegrationRules",
    summary="What agents may call with it, how often, and what a person approves first; for an agent, without others' rules",
)
async def get_rules(parts: Parts, caller: InCompany, integration_id: Id) -> RulesOfIntegration:
    return await parts.rulebook.get(caller, integration_id)


@rules.put(
    "/{integration_id}/rules",
    response_model=RulesOut,
    operation_id="setIntegrationRules",
    summary="Say what counts for all agents, as far as nothing is said of one by itself; what is not said stays",
)
async def set_rules(parts: Parts, caller: InCompany, integration_id: Id, body: Said) -> RulesOfIntegration:
    return await parts.rulebook.set(caller, integration_id, body.rules())


def _decides(caller: Caller) -> bool:
    return allowed(Permission.APPROVAL_DECIDE, caller.principal.kind, caller.role)


def _reply(kept: KeptReply) -> dict[str, Any]:
    found = {**dataclasses.asdict(shown_reply(kept.status, kept.headers, kept.content)), "cut": kept.is_cut}
    try:
        json.dumps(found, allow_nan=False)
    except (ValueError, RecursionError):
        # What a provider calls JSON need not be any.
        found["body"] = kept.content.decode(errors="replace")
    return found


def _request(asked: AsSent) -> RequestOut:
    return RequestOut(
        method=asked.method,
        url=asked.url,
        headers=[HeaderOut(name=name, value=value) for name, value in asked.headers],
        body=asked.text,
        base64=base64.b64encode(asked.body).decode() if asked.text is None else None,
        size=len(asked.body),
        sha256=asked.sha256,
    )
