"""
Agents: hire, pause, resume, retire, and their tokens.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from company_agents.audit.log import AuditLog
from company_agents.db.database import Tx
from company_agents.errors import Conflict, NotFound
from company_agents.identity.directory import good_name
from company_agents.identity.paging import Page, cursor_params, page
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.identity.tokens import new_agent_token
from company_agents.secret_store.store import SecretStore
from company_agents.sensitive import Sensitive

# From which states an agent may come into a state. A retired one stays retired.
MOVES = {"paused": {"active"}, "active": {"paused"}, "retired": {"active", "paused"}}


@dataclass(frozen=True, slots=True)
class Agent:
    """
    An identity in a company. `adapter` says how its runs are executed; without one it opens them itself. A listed one
    comes without its configuration.
    """

    id: UUID
    company_id: UUID
    name: str
    state: str
    created_at: datetime
    updated_at: datetime
    token_created_at: datetime | None
    token_last_used_at: datetime | None
    adapter: str | None = None
    unsandboxed: bool = False
    adapter_config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Agents:
    """The agents of a caller's company."""

    store: SecretStore
    audit: AuditLog
    # Waits, after a commit, until no stream goes on that is no longer allowed.
    closed: Callable[[], Awaitable[None]]

    async def create(self, caller: Caller, name: str) -> tuple[Agent, Sensitive]:
        """
        Hire an agent. Its token is shown to whoever does, this once.

        Raises:
            Conflict: there is one of this name.
        """
        caller.require(Permission.AGENT_MANAGE)
        name = good_name(name, "an agent")
        agent_id = uuid4()
        token = new_agent_token(caller.scope.company_id, agent_id)
        async with caller.scope.transaction() as tx:
            await tx.run("agent_insert", id=agent_id, company_id=caller.scope.company_id, name=name)
            await self.store.put(tx, _secret_name(agent_id), token)
            agent = await agent_in(tx, agent_id)
            # Before the commit: what happened is always on record; at worst the record says one thing too many.
            await self.audit.append(
                caller.scope.company_id, "agent.created", actor=caller.label, agent=agent_id, name=name
            )
        return agent, token

    async def list(self, caller: Caller, after: str | None = None, limit: int = 50) -> Page[Agent]:
        """The agents of the company, oldest first."""
        caller.require(Permission.AGENT_READ)
        params = cursor_params(after, limit)
        async with caller.scope.transaction() as tx:
            return page([Agent(**row) for row in await tx.all("agent_list", **params)], limit)

    async def get(self, caller: Caller, agent_id: UUID) -> Agent:
        """
        Raises:
            NotFound: no such agent in this company.
        """
        caller.require(Permission.AGENT_READ)
        async with caller.scope.transaction() as tx:
            return await agent_in(tx, agent_id)

    async def rotate_token(self, caller: Caller, agent_id: UUID) -> tuple[Agent, Sensitive]:
        """
        Give an agent a new token; the old one is refused from the moment that this returns, and what was opened with it
        has ended.

        Raises:
            NotFound: no such agent.
            Conflict: it is retired.
        """
        caller.require(Permission.AGENT_TOKEN)
        token = new_agent_token(caller.scope.company_id, agent_id)
        async with caller.scope.transaction() as tx:
            if (await agent_in(tx, agent_id)).state == "retired":
                raise Conflict("a retired agent gets no token", hint="hire another agent")
            await self.store.set(tx, _secret_name(agent_id), token)
            agent = await agent_in(tx, agent_id)
            await self.audit.append(caller.scope.company_id, "agent.token_rotated", actor=caller.label, agent=agent_id)
        await self.closed()
        return agent, token

    async def pause(self, caller: Caller, agent_id: UUID) -> Agent:
        """Refuse an agent's token until it is resumed."""
        return await self._move(caller, agent_id, "paused")

    async def resume(self, caller: Caller, agent_id: UUID) -> Agent:
        """Take a paused agent's token again."""
        return await self._move(caller, agent_id, "active")

    async def retire(self, caller: Caller, agent_id: UUID) -> Agent:
        """Refuse an agent's token for good; its history stays."""
        return await self._move(caller, agent_id, "retired")

    async def _move(self, caller: Caller, agent_id: UUID, state: str) -> Agent:
        caller.require(Permission.AGENT_MANAGE)
        async with caller.scope.transaction() as tx:
            moved = await tx.run("agent_move", id=agent_id, state=state, sources=sorted(MOVES[state]))
            agent = await agent_in(tx, agent_id)
            if agent.state != state:
                raise Conflict(f"this agent is {agent.state}, so it cannot become {state}", hint="hire another agent")
            if moved:
                await self.audit.append(
                    caller.scope.company_id, f"agent.{state}", actor=caller.label, agent=agent_id, name=agent.name
                )
        if state != "active":
            await self.closed()
        return agent


def _secret_name(agent_id: UUID) -> str:
    return f"agent_token/{agent_id}"


async def agent_in(tx: Tx, agent_id: UUID) -> Agent:
    """
    One agent, in somebody's transaction.

    Raises:
        NotFound: no such agent in this company.
    """
    row = await tx.one("agent_get", id=agent_id)
    if row is None:
        raise NotFound("this agent does not exist", hint="`company-agents agent list --company ID` shows them")
    return Agent(**row)
