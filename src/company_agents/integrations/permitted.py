"""
Agents for which integrations are.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from company_agents.companies.scope import CompanyScope
from company_agents.errors import NotFound
from company_agents.identity.permissions import Kind
from company_agents.identity.principal import Caller


async def agents_exist(scope: CompanyScope, agents: Sequence[UUID]) -> None:
    """
    Raises:
        NotFound: there is no such agent in this company.
    """
    async with scope.transaction() as tx:
        for agent_id in agents:
            if await tx.one("agent_get", id=agent_id) is None:
                raise NotFound(
                    f"the agent {agent_id} does not exist in this company",
                    hint="`company-agents agent list --company ID` shows them",
                )


def agent_of(caller: Caller) -> UUID | None:
    """The agent that calls, also through a run; None: a person."""
    return caller.principal.id if caller.principal.kind in (Kind.AGENT, Kind.RUN) else None
