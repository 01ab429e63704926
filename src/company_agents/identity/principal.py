"""
The caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from company_agents.companies.scope import CompanyScope
from company_agents.errors import Refused
from company_agents.identity.permissions import Kind, Permission, Role, allowed


class Via(StrEnum):
    """How a principal showed who it is."""

    TOKEN = "token"
    SESSION = "session"
    CLI = "cli"


@dataclass(frozen=True, slots=True)
class Principal:
    """
    Somebody whose identity was proved: an operator, an agent, a run, or the user of the instance home.

    Of a run, `id` and `name` are its agent's: it does what that may, for as long as nobody else has taken the run on with a
    higher fencing token than `fence`.

    `role` is what an operator is to the instance: owner, or viewer. `ceiling` is the highest role that they may
    use in a company this way: a token's may be lower than theirs.
    """

    kind: Kind
    name: str
    via: Via
    id: UUID | None = None
    company_id: UUID | None = None
    role: Role | None = None
    ceiling: Role | None = None
    run_id: UUID | None = None
    fence: int | None = None
    # When the token of an agent was made that it showed: a new one ends what was opened with it.
    token_at: datetime | None = None

    @property
    def label(self) -> str:
        """Who it is, for the audit log: `agent:<id>`, `run:<id>`, `operator:<id>`, `local:<user>`."""
        return f"{self.kind}:{self.run_id or self.id or self.name}"

    def require(self, permission: Permission) -> None:
        """
        For what belongs to the instance and to no company.

        Raises:
            Refused: the table of permissions does not say yes.
        """
        if not allowed(permission, self.kind, self.role):
            raise Refused(f"this needs the permission {permission}", hint=_hint(self))


@dataclass(frozen=True, slots=True)
class Caller:
    """A principal, in the name of one company; `role` is what an operator is there."""

    principal: Principal
    scope: CompanyScope
    role: Role | None = None

    @property
    def label(self) -> str:
        """Who it is, for the audit log."""
        return self.principal.label

    def require(self, permission: Permission) -> None:
        """
        Raises:
            Refused: the table of permissions does not say yes.
        """
        if not allowed(permission, self.principal.kind, self.role):
            raise Refused(f"this needs the permission {permission}", hint=_hint(self.principal))

    def agent_id(self) -> UUID:
        """
        The agent that calls.

        Raises:
            Refused: the caller is no agent.
        """
        if self.principal.kind not in (Kind.AGENT, Kind.RUN) or self.principal.id is None:
            raise Refused("only an agent may do this", hint="use an agent's token")
        return self.principal.id


def _hint(principal: Principal) -> str:
    if principal.kind is not Kind.OPERATOR:
        return "docs/security/permissions.md has the table"
    if principal.via is Via.TOKEN:
        return "a token has a role of its own, and the lower one counts: make it with --role, or ask an owner"
    return "ask an owner of the company"
