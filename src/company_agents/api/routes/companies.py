"""
Companies.
"""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from company_agents.api.callers import GuardedRoute, InCompany, Parts, Who
from company_agents.api.idempotency import Creating
from company_agents.api.paging import After, Limit
from company_agents.api.schemas import CompanyOut, NewCompany, PageOf
from company_agents.identity.directory import Company
from company_agents.identity.paging import Page

router = APIRouter(prefix="/v1/companies", tags=["companies"], route_class=GuardedRoute)


@router.get(
    "",
    response_model=PageOf[CompanyOut],
    operation_id="listCompanies",
    summary="The companies that you are a member of",
)
async def list_companies(parts: Parts, who: Who, after: After = None, limit: Limit = 50) -> Page[Company]:
    return await parts.companies.list(who, after, limit)


@router.post(
    "", status_code=201, response_model=CompanyOut, operation_id="createCompany", summary="Create a company and own it"
)
async def create_company(parts: Parts, who: Who, body: NewCompany, creation: Creating) -> Response:
    async def create() -> BaseModel:
        return CompanyOut.model_validate(await parts.companies.create(who, body.name))

    return await creation.answered(parts.identity.instance_scope(), who.label, body, create)


@router.get("/{cid}", response_model=CompanyOut, operation_id="getCompany", summary="One company")
async def get_company(parts: Parts, caller: InCompany) -> Company:
    return await parts.companies.get(caller)
