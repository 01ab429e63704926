"""
Agents: hire, pause, resume, retire, and their tokens.
"""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from company_agents.api.agent_schemas import (
    AdapterIn,
    AdapterSecret,
    AdapterSet,
    AgentCreated,
    AgentDetail,
    AgentOut,
    AgentToken,
    NewAgent,
)
from company_agents.api.callers import GuardedRoute, InCompany, Parts
from company_agents.api.fields import Id
from company_agents.api.idempotency import Creating
from company_agents.api.paging import After, Limit
from company_agents.api.schemas import PageOf
from company_agents.identity.agents import Agent
from company_agents.identity.paging import Page

router = APIRouter(prefix="/v1/companies/{cid}/agents", tags=["agents"], route_class=GuardedRoute)


@router.get("", response_model=PageOf[AgentOut], operation_id="listAgents", summary="The agents, oldest first")
async def list_agents(parts: Parts, caller: InCompany, after: After = None, limit: Limit = 50) -> Page[Agent]:
    return await parts.agents.list(caller, after, limit)


@router.post(
    "",
    status_code=201,
    response_model=AgentCreated,
    operation_id="createAgent",
    summary="Hire an agent; its token is shown this once",
)
async def create_agent(parts: Parts, caller: InCompany, body: NewAgent, creation: Creating) -> Response:
    async def create() -> BaseModel:
        agent, token = await parts.agents.create(caller, body.name)
        shown = AgentOut.model_validate(agent)
        return AgentCreated(**shown.model_dump(), token=token.reveal_text(), replayed=False)

    return await creation.answered(caller.scope, caller.label, body, create)


@router.get("/{agent_id}", response_model=AgentDetail, operation_id="getAgent", summary="One agent")
async def get_agent(parts: Parts, caller: InCompany, agent_id: Id) -> Agent:
    return await parts.agents.get(caller, agent_id)


@router.put(
    "/{agent_id}/adapter",
    response_model=AdapterSet,
    operation_id="setAdapter",
    summary="Say how its runs are executed, in the place of what was said before",
)
async def set_adapter(parts: Parts, caller: InCompany, agent_id: Id, body: AdapterIn) -> AdapterSet:
    agent, secret = await parts.adapters.set(caller, agent_id, body.adapter, body.config, unsandboxed=body.unsandboxed)
    shown = AgentDetail.model_validate(agent)
    return AdapterSet(**shown.model_dump(), secret=secret.reveal_text() if secret else None)


@router.delete(
    "/{agent_id}/adapter",
    response_model=AgentDetail,
    operation_id="removeAdapter",
    summary="Execute nothing for it any more: it opens its runs itself",
)
async def remove_adapter(parts: Parts, caller: InCompany, agent_id: Id) -> Agent:
    return await parts.adapters.remove(caller, agent_id)


@router.post(
    "/{agent_id}/adapter/rotate-secret",
    response_model=AdapterSecret,
    operation_id="rotateAdapterSecret",
    summary="A new secret that signs what a remote agent is handed; the old one signs beside it for 24 hours",
)
async def rotate_adapter_secret(parts: Parts, caller: InCompany, agent_id: Id) -> AdapterSecret:
    agent, secret, until = await parts.adapters.rotate_secret(caller, agent_id)
    return AdapterSecret(id=agent.id, secret=secret.reveal_text(), previous_until=until)


@router.post(
    "/{agent_id}/rotate-token",
    response_model=AgentToken,
    operation_id="rotateAgentToken",
    summary="Give an agent a new token, shown this once; the old one is refused from now on",
)
async def rotate_agent_token(parts: Parts, caller: InCompany, agent_id: Id) -> AgentToken:
    agent, token = await parts.agents.rotate_token(caller, agent_id)
    return AgentToken(id=agent.id, token=token.reveal_text())


@router.post(
    "/{agent_id}/pause",
    response_model=AgentOut,
    operation_id="pauseAgent",
    summary="Refuse its token until it is resumed",
)
async def pause_agent(parts: Parts, caller: InCompany, agent_id: Id) -> Agent:
    return await parts.agents.pause(caller, agent_id)


@router.post(
    "/{agent_id}/resume",
    response_model=AgentOut,
    operation_id="resumeAgent",
    summary="Take a paused agent's token again",
)
async def resume_agent(parts: Parts, caller: InCompany, agent_id: Id) -> Agent:
    return await parts.agents.resume(caller, agent_id)


@router.post(
    "/{agent_id}/retire", response_model=AgentOut, operation_id="retireAgent", summary="Refuse its token for good"
)
async def retire_agent(parts: Parts, caller: InCompany, agent_id: Id) -> Agent:
    return await parts.agents.retire(caller, agent_id)
