"""
The services that can be connected.
"""

from __future__ import annotations

from fastapi import APIRouter

from company_agents.api.callers import GuardedRoute, Parts
from company_agents.api.schemas import PageOf, ProviderOut
from company_agents.identity.paging import Page
from company_agents.integrations.provider import Provider

router = APIRouter(prefix="/v1/providers", tags=["providers"], route_class=GuardedRoute)


@router.get(
    "", response_model=PageOf[ProviderOut], operation_id="listProviders", summary="All of them, by name, in one page"
)
async def list_providers(parts: Parts) -> Page[Provider]:
    return Page(parts.providers.list())


@router.get("/{name}", response_model=ProviderOut, operation_id="getProvider", summary="One provider")
async def get_provider(parts: Parts, name: str) -> Provider:
    return parts.providers.get(name)
