"""
Clients at providers, and consents that need no browser here. The others begin on the dashboard.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.responses import Response

from company_agents.api.callers import GuardedRoute, InCompany, Parts
from company_agents.api.consent_schemas import MOST_URL, ClientOut, ConsentOut, NewClient, NewConsent
from company_agents.api.fields import Id
from company_agents.api.idempotency import Creating
from company_agents.api.schemas import IntegrationOut, PageOf
from company_agents.identity.paging import Page
from company_agents.integrations.clients import ClientInfo
from company_agents.integrations.devices import Waiting
from company_agents.integrations.integrations import Integration
from company_agents.integrations.rules import Rules
from company_agents.integrations.wanted import Wanted

clients = APIRouter(prefix="/v1/companies/{cid}/clients", tags=["consents"], route_class=GuardedRoute)
router = APIRouter(prefix="/v1/companies/{cid}/consents", tags=["consents"], route_class=GuardedRoute)

Issuer = Annotated[str, Query(max_length=MOST_URL)]


@clients.get(
    "",
    response_model=PageOf[ClientOut],
    operation_id="listClients",
    summary="What the company is to its providers, in one page",
)
async def list_clients(parts: Parts, caller: InCompany) -> Page[ClientInfo]:
    return Page(await parts.clients.list(caller))


@clients.put(
    "/{name}",
    response_model=ClientOut,
    operation_id="configureClient",
    summary="Say what the company is to a provider, in place of what was said before",
)
async def configure_client(parts: Parts, caller: InCompany, name: str, body: NewClient) -> ClientInfo:
    return await parts.clients.configure(
        caller,
        name,
        client_id=body.client_id,
        secret=body.client_secret,
        issuer=body.issuer,
        auth=body.auth,
        key_id=body.key_id,
        allow_private=body.allow_private_network,
        register=body.register_client,
    )


@clients.delete(
    "/{name}",
    status_code=204,
    operation_id="deleteClient",
    summary="Forget a client; what was consented to through it is not refreshed any more",
)
async def delete_client(parts: Parts, caller: InCompany, name: str, issuer: Issuer = "") -> None:
    await parts.clients.delete(caller, name, issuer)


@router.post(
    "",
    status_code=201,
    response_model=ConsentOut,
    operation_id="beginConsent",
    summary="Ask for a consent, for a new integration or for a new credential of one",
    description="With the device flow a person opens the link, anywhere, and types the code; ask until they have. A provider "
    "that has only the flow with a browser is connected on the dashboard.",
)
async def begin_consent(parts: Parts, caller: InCompany, body: NewConsent, creation: Creating) -> Response:
    wanted = Wanted(
        body.provider,
        issuer=body.issuer,
        name=body.name,
        base_url=body.base_url,
        allow_private=body.allow_private_network,
        scopes=tuple(body.scopes),
        allow=tuple(body.allow),
        allow_all=body.allow_all,
        integration_id=body.integration,
        installation=body.installation,
        rules=Rules.read(body.only, body.ask, body.per_minute),
    )

    async def create() -> BaseModel:
        if body.flow == "device":
            return _shown(await parts.devices.begin(caller, wanted))
        return _shown(await parts.flows.at_once(caller, wanted, body.flow))

    return await creation.answered(caller.scope, caller.label, body, create)


@router.post(
    "/{consent_id}/poll",
    response_model=ConsentOut,
    operation_id="pollConsent",
    summary="Ask whether the person has consented; then it is connected",
)
async def poll_consent(parts: Parts, caller: InCompany, consent_id: Id) -> ConsentOut:
    return _shown(await parts.devices.poll(caller, consent_id))


@router.delete("/{consent_id}", status_code=204, operation_id="cancelConsent", summary="No longer wait for a consent")
async def cancel_consent(parts: Parts, caller: InCompany, consent_id: Id) -> None:
    await parts.devices.cancel(caller, consent_id)


def _shown(found: Waiting | Integration) -> ConsentOut:
    if isinstance(found, Integration):
        return ConsentOut(integration=IntegrationOut.model_validate(found))
    return ConsentOut.model_validate(found)
