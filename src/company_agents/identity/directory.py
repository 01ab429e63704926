"""
Companies: create, list, look at.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from company_agents.audit.log import AuditLog
from company_agents.db.database import Database
from company_agents.errors import NotFound, WrongUsage
from company_agents.identity.paging import Page, cursor_params, page
from company_agents.identity.permissions import Kind, Permission, Role
from company_agents.identity.principal import Caller, Principal

MOST_NAME = 100


def good_name(name: str, what: str) -> str:
    """
    A name as it is stored.

    Raises:
        WrongUsage: empty, too long, or with characters that do not show.
    """
    stripped = name.strip()
    if not stripped or len(stripped) > MOST_NAME or not stripped.isprintable():
        raise WrongUsage(
            f"the name of {what} has 1 to {MOST_NAME} characters that can be seen",
            hint="letters, digits, punctuation and blanks, in one line",
        )
    return stripped


@dataclass(frozen=True, slots=True)
class Company:
    """A tenant."""

    id: UUID
    name: str
    created_at: datetime


@dataclass(frozen=True)
class Companies:
    """The companies of the instance."""

    db: Database
    audit: AuditLog

    async def create(self, principal: Principal, name: str) -> Company:
        """
        Create a company; an operator who creates one owns it.

        Raises:
            Refused: not for this principal.
            Conflict: there is one of this name.
        """
        principal.require(Permission.COMPANY_CREATE)
        name = good_name(name, "a company")
        company_id = uuid4()
        async with self.db.transaction(None) as tx:
            row = await tx.one("company_insert", id=company_id, name=name)
            if principal.kind is Kind.OPERATOR:
                await tx.run("member_set", operator_id=principal.id, company_id=company_id, role=Role.OWNER)
            await self.audit.append(company_id, "company.created", actor=principal.label, name=name)
        assert row is not None
        return Company(**row)

    async def list(self, principal: Principal, after: str | None = None, limit: int = 50) -> Page[Company]:
        """The companies that an operator is a member of; all of them for an owner of the instance."""
        principal.require(Permission.COMPANY_LIST)
        params = cursor_params(after, limit)
        operator = principal.id if principal.kind is Kind.OPERATOR else None
        async with self.db.transaction(None) as tx:
            rows = await tx.all("company_list", operator_id=operator, **params)
        return page([Company(**row) for row in rows], limit)

    async def get(self, caller: Caller) -> Company:
        """The caller's company."""
        caller.require(Permission.COMPANY_READ)
        async with caller.scope.transaction() as tx:
            row = await tx.one("company_get", id=caller.scope.company_id)
        if row is None:
            raise NotFound("this company does not exist")
        return Company(**row)
