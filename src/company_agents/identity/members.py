"""
The members of a company: who they are, and how one is removed. They come by an invitation.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.db.database import Database, Tx
from company_agents.errors import Conflict, NotFound
from company_agents.identity.permissions import Permission, Role
from company_agents.identity.principal import Caller


@dataclass(frozen=True, slots=True)
class Member:
    """A person, and what they are in a company."""

    id: UUID
    name: str
    role: Role
    instance_owner: bool
    created_at: datetime
    disabled_at: datetime | None


@dataclass(frozen=True)
class Members:
    """The people of a caller's company."""

    db: Database
    audit: AuditLog

    async def list(self, caller: Caller) -> list[Member]:
        """The members of the company, in the order in which they came."""
        caller.require(Permission.MEMBER_MANAGE)
        # In the scope of the instance, whose the names of people are: the company is in the statement.
        async with self.db.transaction(None) as tx:
            return await _members(tx, caller)

    async def get(self, caller: Caller, operator_id: UUID) -> Member:
        """
        Raises:
            NotFound: not a member of this company.
        """
        return _one_of(await self.list(caller), operator_id)

    async def remove(self, caller: Caller, operator_id: UUID) -> Member:
        """
        Remove somebody from the company: from now on it does not exist for their sessions and tokens. Open invitations
        to it are void: who made one is not kept with it, and it may be theirs.

        Raises:
            NotFound: not a member of this company.
            Conflict: they are its last owner, and nobody owns the instance either.
        """
        caller.require(Permission.MEMBER_MANAGE)
        company = caller.scope.company_id
        async with self.db.transaction(None) as tx:
            await tx.all("members_lock", company_id=company)
            members = await _members(tx, caller)
            member = _one_of(members, operator_id)
            others = [one for one in members if one is not member and one.role == Role.OWNER and not one.disabled_at]
            # An owner of the instance owns each of its companies, so that there is somebody left.
            if member.role == Role.OWNER and not others and await tx.one("instance_owner_any") is None:
                raise Conflict("the last owner of a company cannot be removed", hint="invite another owner first")
            await tx.run("member_remove", company_id=company, operator_id=operator_id)
            links = await tx.run("links_void_company", company_id=company)
            facts = {"operator": operator_id, "name": member.name, "role": member.role, "links_void": links}
            await self.audit.append(company, "member.removed", actor=caller.label, **facts)
        return member


async def _members(tx: Tx, caller: Caller) -> list[Member]:
    rows = await tx.all("member_list", company_id=caller.scope.company_id)
    return [Member(**{**row, "role": Role(row["role"])}) for row in rows]


def _one_of(members: list[Member], operator_id: UUID) -> Member:
    for member in members:
        if member.id == operator_id:
            return member
    raise NotFound("this person is not a member of this company")
