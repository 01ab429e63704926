"""
An operator's own tokens. They are made on the page Account, by a person; a token makes none.
"""

from __future__ import annotations

from fastapi import APIRouter

from company_agents.api.callers import GuardedRoute, Parts, Person
from company_agents.api.fields import Id
from company_agents.api.schemas import OperatorTokenOut, PageOf
from company_agents.identity.operators import OperatorToken
from company_agents.identity.paging import Page

router = APIRouter(prefix="/v1/operator-tokens", tags=["operator tokens"], route_class=GuardedRoute)


@router.get(
    "",
    response_model=PageOf[OperatorTokenOut],
    operation_id="listOperatorTokens",
    summary="Your own tokens without their values, in one page",
)
async def list_operator_tokens(parts: Parts, person: Person) -> Page[OperatorToken]:
    return Page(list(await parts.operators.tokens(person)))


@router.delete(
    "/{token_id}", status_code=204, operation_id="revokeOperatorToken", summary="Revoke one of your own tokens"
)
async def revoke_operator_token(parts: Parts, person: Person, token_id: Id) -> None:
    await parts.operators.revoke_token(person, token_id)
