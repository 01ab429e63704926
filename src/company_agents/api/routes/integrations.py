"""
Integrations: connect, allow, rotate, check, delete; and the call of an agent through one.
"""

from __future__ import annotations

import json

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from company_agents.api.approval_schemas import Allowing
from company_agents.api.callers import GuardedRoute, InCompany, Parts, SendingRoute
from company_agents.api.fields import Id
from company_agents.api.idempotency import Creating
from company_agents.api.paging import After, Limit
from company_agents.api.run_schemas import CutOut, Cutting
from company_agents.api.schemas import (
    Answer,
    Call,
    IntegrationOut,
    IntegrationWithVersions,
    NewIntegration,
    NewToken,
    PageOf,
    Reminder,
    Switch,
    VersionOut,
    Whom,
)
from company_agents.errors import Refused, WrongUsage
from company_agents.identity.paging import Page
from company_agents.integrations.integrations import Integration
from company_agents.integrations.rules import Rules
from company_agents.integrations.versions import Cut

_PREFIX = "/v1/companies/{cid}/integrations"
router = APIRouter(prefix=_PREFIX, tags=["integrations"], route_class=GuardedRoute)
sending = APIRouter(prefix=_PREFIX, tags=["integrations"], route_class=SendingRoute)


@router.get(
    "",
    response_model=PageOf[IntegrationOut],
    operation_id="listIntegrations",
    summary="The integrations; for an agent, those that it may use",
)
async def list_integrations(
    parts: Parts, caller: InCompany, after: After = None, limit: Limit = 50
) -> Page[Integration]:
    return await parts.integrations.list(caller, after, limit)


@router.post(
    "",
    status_code=201,
    response_model=IntegrationOut,
    operation_id="connectIntegration",
    summary="Connect by API token",
    description="The token is tried at the provider first. Under an Idempotency-Key the token is not compared: the "
    "same key with another token but otherwise the same request is the same request.",
)
async def connect_integration(parts: Parts, caller: InCompany, body: NewIntegration, creation: Creating) -> Response:
    async def create() -> BaseModel:
        connected = await parts.integrations.connect(
            caller,
            body.provider,
            body.token,
            name=body.name,
            base_url=body.base_url,
            allow_private_network=body.allow_private_network,
            header=body.header,
            allow=body.allow,
            allow_all=body.allow_all,
            rules=Rules.read(body.only, body.ask, body.per_minute),
        )
        return IntegrationOut.model_validate(connected)

    return await creation.answered(caller.scope, caller.label, body, create)


@router.get(
    "/{integration_id}",
    response_model=IntegrationWithVersions,
    operation_id="getIntegration",
    summary="One integration, with its credential versions and how many runs hold each",
)
async def get_integration(parts: Parts, caller: InCompany, integration_id: Id) -> BaseModel:
    shown = IntegrationOut.model_validate(await parts.integrations.get(caller, integration_id))
    versions = await parts.integrations.versions.list(caller.scope, integration_id)
    return IntegrationWithVersions(
        **shown.model_dump(), versions=[VersionOut.model_validate(version) for version in versions]
    )


@router.post(
    "/{integration_id}/allow",
    response_model=IntegrationOut,
    operation_id="allowAgent",
    summary="Let an agent use it, by rules of its own where some are given; what is not said stays",
)
async def allow_agent(parts: Parts, caller: InCompany, integration_id: Id, body: Allowing) -> Integration:
    return await parts.integrations.allow(caller, integration_id, body.agent, body.rules())


@router.post(
    "/{integration_id}/disallow",
    response_model=IntegrationOut,
    operation_id="disallowAgent",
    summary="No longer let an agent use it; counts at its next call",
)
async def disallow_agent(parts: Parts, caller: InCompany, integration_id: Id, body: Whom) -> Integration:
    return await parts.integrations.disallow(caller, integration_id, body.agent)


@router.post(
    "/{integration_id}/allow-all",
    response_model=IntegrationOut,
    operation_id="allowAllAgents",
    summary="Let every agent of the company use it, or only those that are named",
)
async def allow_all_agents(parts: Parts, caller: InCompany, integration_id: Id, body: Switch) -> Integration:
    return await parts.integrations.allow_all(caller, integration_id, body.on)


@router.post(
    "/{integration_id}/rotate",
    response_model=IntegrationOut,
    operation_id="rotateIntegration",
    summary="Replace the token; the new one is tried first, and if it is not accepted, the old one stays",
)
async def rotate_integration(parts: Parts, caller: InCompany, integration_id: Id, body: NewToken) -> Integration:
    return await parts.integrations.rotate(caller, integration_id, body.token)


@router.post(
    "/{integration_id}/cut",
    response_model=CutOut,
    operation_id="cutRuns",
    summary="Cut runs off from the versions that they hold; their next call with it is refused",
)
async def cut_runs(parts: Parts, caller: InCompany, integration_id: Id, body: Cutting) -> Cut:
    return await parts.runs.cut(caller, integration_id, version=body.version, every=body.every)


@router.post(
    "/{integration_id}/remind",
    response_model=IntegrationOut,
    operation_id="remindIntegration",
    summary="Ask for a rotation so many days after the last one, or never",
)
async def remind_integration(parts: Parts, caller: InCompany, integration_id: Id, body: Reminder) -> Integration:
    return await parts.looks.remind(caller, integration_id, body.days)


@router.post(
    "/{integration_id}/check",
    response_model=IntegrationOut,
    operation_id="checkIntegration",
    summary="Try the credential at the provider now; the status says how it went",
)
async def check_integration(parts: Parts, caller: InCompany, integration_id: Id) -> Integration:
    return await parts.integrations.check(caller, integration_id)


@router.delete(
    "/{integration_id}",
    status_code=204,
    operation_id="deleteIntegration",
    summary="Delete it with its credential; a consent is revoked at the provider first, unless it is to be kept there",
)
async def delete_integration(parts: Parts, caller: InCompany, integration_id: Id, keep_consent: bool = False) -> None:
    await parts.revocation.delete(caller, integration_id, keep_consent=keep_consent)


@sending.post(
    "/{integration_id}/request",
    response_model=Answer,
    operation_id="sendRequest",
    summary="Make one call with its credential, which is added on the way; for agents",
)
async def send_request(parts: Parts, caller: InCompany, integration_id: Id, body: Call) -> Response:
    try:
        reply = await parts.requests.request(
            caller,
            str(integration_id),
            body.method,
            body.path,
            query=body.query,
            headers=body.headers,
            body=body.body,
            wait=body.wait,
        )
    except RecursionError:
        raise WrongUsage("the body is nested too deeply") from None
    try:
        # Escaped: a provider's JSON may hold halves of characters, which UTF-8 cannot carry.
        shown = {"status": reply.status, "headers": reply.headers, "body": reply.body}
        text = json.dumps(shown, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        raise Refused("what the provider answered cannot be written as JSON", code="reply_unusable") from None
    return Response(text, media_type="application/json")
