"""
Which token is this, is it good, and for whom. Asked on every call; nothing is cached, so that a rotation, a
pause or a retirement counts at once on every replica.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.companies.scope import CompanyScope, InstanceScope
from company_agents.db.database import Database
from company_agents.errors import CompanyAgentsError, NotFound, Unauthenticated, Unavailable
from company_agents.identity.permissions import Kind, Role, lower_role
from company_agents.identity.principal import Caller, Principal, Via
from company_agents.identity.tokens import (
    OPERATOR_PREFIX,
    RUN_PREFIX,
    AgentClaim,
    RunClaim,
    mark_of,
    read_agent_token,
    read_operator_token,
    read_run_token,
)
from company_agents.secret_store.store import SecretStore
from company_agents.sensitive import Sensitive

# Whether whoever calls knows this stored token.
Proves = Callable[[Sensitive], bool]


@dataclass(frozen=True)
class Identity:
    """
    Verifies tokens. Every refusal reads alike; its reason goes to the audit log.
    """

    db: Database
    store: SecretStore
    audit: AuditLog

    async def agent(self, token: str) -> Caller:
        """
        The agent of a token, in its company.

        Raises:
            Unauthenticated: not a token of ours, or bad, rotated, or of a paused or retired agent.
        """
        claim = read_agent_token(token)
        if claim is None:
            raise self._refused("malformed")
        return await self._agent(claim, lambda stored: stored == Sensitive(token))

    async def _agent(self, claim: AgentClaim, proves: Proves) -> Caller:
        row = await self.db.look_up("agent_token_lookup", claim.company_id, claim.agent_id)
        if row is None:
            raise self._refused("unknown")
        if not proves(await self._stored(row)):
            raise self._refused("rotated or forged", agent=claim.agent_id)
        if row["agent_state"] != "active":
            raise self._refused(row["agent_state"], agent=claim.agent_id)
        self.store.used(claim.company_id, row["id"])
        principal = Principal(
            *(Kind.AGENT, row["agent_name"], Via.TOKEN, claim.agent_id, claim.company_id), token_at=row["made_at"]
        )
        return Caller(principal, CompanyScope(claim.company_id, self.db))

    async def run(self, token: str) -> Caller:
        """
        The run of a token, in its company.

        Raises:
            Unauthenticated: not a token of ours, or bad; its run has ended, its lease has, or its agent is paused or retired.
        """
        claim = read_run_token(token)
        if claim is None:
            raise self._refused("malformed")
        return await self._run(claim, lambda stored: stored == Sensitive(token))

    async def _run(self, claim: RunClaim, proves: Proves) -> Caller:
        row = await self.db.look_up("run_token_lookup", claim.company_id, claim.run_id)
        if row is None:
            # The token of a run that has ended is deleted with its end.
            raise self._refused("unknown or ended")
        if not proves(await self._stored(row)):
            raise self._refused("forged", run=claim.run_id)
        if not row["is_good"]:
            state = row["run_state"]
            raise self._refused("lease ended" if state == "running" else state, run=claim.run_id)
        if row["agent_state"] != "active":
            raise self._refused(row["agent_state"], agent=row["agent_id"], run=claim.run_id)
        self.store.used(claim.company_id, row["id"])
        principal = Principal(
            *(Kind.RUN, row["agent_name"], Via.TOKEN, row["agent_id"], claim.company_id),
            run_id=claim.run_id,
            fence=row["fence"],
        )
        return Caller(principal, CompanyScope(claim.company_id, self.db))

    async def worker(self, token: str) -> Caller:
        """
        An agent, or one of its runs, in its company.

        Raises:
            Unauthenticated: see `agent` and `run`.
        """
        return await (self.run(token) if token.startswith(RUN_PREFIX) else self.agent(token))

    async def marked(self, claim: AgentClaim | RunClaim, message: bytes, mark: bytes) -> Caller:
        """
        The agent or the run whose token a message was marked with; see `tokens.mark_of`. With the token, the mark has an end.

        Raises:
            Unauthenticated: it was not, or its token would be refused now.
        """

        def proves(stored: Sensitive) -> bool:
            return hmac.compare_digest(mark_of(stored, message), mark)

        return await (self._run(claim, proves) if isinstance(claim, RunClaim) else self._agent(claim, proves))

    async def operator(self, token: str) -> Principal:
        """
        The operator of a token.

        Raises:
            Unauthenticated: not a token of ours, or bad, revoked, expired, or of a disabled operator.
        """
        claim = read_operator_token(token)
        if claim is None:
            raise self._refused("malformed")
        found = await self.db.call("operator_token_lookup", (claim.token_id,))
        if not found or Sensitive(token) != await self._stored(found[0]):
            raise self._refused("unknown, revoked or expired")
        row = found[0]
        self.store.used(None, row["id"])
        ceiling = Role(row["token_role"])
        role = lower_role(ceiling, Role.OWNER if row["instance_owner"] else Role.VIEWER)
        return Principal(Kind.OPERATOR, row["operator_name"], Via.TOKEN, row["operator_id"], None, role, ceiling)

    async def bearer(self, token: str) -> Caller | Principal:
        """
        An agent or a run, in its company, or an operator. The prefix decides which, and a bad token of one kind is
        never tried as another.

        Raises:
            Unauthenticated: see `agent`, `run` and `operator`.
        """
        return await (self.operator(token) if token.startswith(OPERATOR_PREFIX) else self.worker(token))

    async def in_company(self, principal: Principal, company_id: UUID) -> Caller:
        """
        An operator, in the name of a company.

        Raises:
            NotFound: the company does not exist, or the operator is not a member of it.
        """
        found = await self.db.call("operator_role_lookup", (principal.id, company_id))
        unknown = NotFound("this company does not exist", hint="`company-agents company list` shows them")
        if not found:
            raise unknown
        scope = CompanyScope(company_id, self.db)
        if principal.kind is Kind.LOCAL:
            return Caller(principal, scope)
        role = found[0]["role"]
        if principal.kind is not Kind.OPERATOR or principal.ceiling is None or role is None:
            raise unknown
        return Caller(principal, scope, lower_role(principal.ceiling, Role(role)))

    def instance_scope(self) -> InstanceScope:
        """Where rows belong to no company: what was answered to somebody who created one."""
        return InstanceScope(self.db)

    async def _stored(self, row: dict[str, object]) -> Sensitive:
        try:
            return await self.store.open_row(row)
        except Unavailable:
            raise
        except CompanyAgentsError as error:
            # An altered row is a bad token to its caller; the log knows better.
            raise self._refused("does not open") from error

    def _refused(self, reason: str, *, agent: UUID | None = None, run: UUID | None = None) -> Unauthenticated:
        self.audit.refusal(None, "token.refused", reason=reason, agent=agent, run=run)
        return Unauthenticated(
            "this token is not good",
            hint="it may have been rotated, its run ended, or its agent paused; an operator can issue a new one",
        )
