"""
The rules of an integration: those for all agents, and those of single ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.errors import NotFound
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.integrations.integrations import Integrations
from company_agents.integrations.permitted import agent_of
from company_agents.integrations.rules import Rules


@dataclass(frozen=True, slots=True)
class RulesOfAgent:
    """What is said of one agent; null: nothing, so that what is said of all counts."""

    agent: UUID
    only: list[str] | None
    ask: list[str] | None
    per_minute: int | None


@dataclass(frozen=True, slots=True)
class RulesOfIntegration:
    """
    What is said of all agents: no `only` is anything, no `ask` never, and `per_minute` 0 no limit; and of those agents of which
    something else is said.
    """

    id: UUID
    only: list[str]
    ask: list[str]
    per_minute: int
    agents: list[RulesOfAgent] = field(default_factory=list)


@dataclass(frozen=True)
class Rulebook:
    """The rules of a caller's company."""

    audit: AuditLog
    integrations: Integrations

    async def get(self, caller: Caller, integration_id: UUID) -> RulesOfIntegration:
        """
        The rules of an integration; an agent sees of the others' none.

        Raises:
            NotFound: no such integration in this company, or not for this agent.
        """
        await self.integrations.get(caller, integration_id)
        async with caller.scope.transaction() as tx:
            row = await tx.one("rules_of_all", integration_id=integration_id)
            agents = await tx.all("rules_of_agents", integration_id=integration_id)
        assert row is not None
        own = agent_of(caller)
        return RulesOfIntegration(
            integration_id,
            *_columns(row),
            [RulesOfAgent(each["agent_id"], *_columns(each)) for each in agents if own in (None, each["agent_id"])],
        )

    async def set(self, caller: Caller, integration_id: UUID, rules: Rules) -> RulesOfIntegration:
        """
        Say what counts for all agents of which nothing else is said. What is not said here stays as it is. Counts at the
        next call, and what is open by other rules ends before this returns.

        Raises:
            NotFound: no such integration.
        """
        caller.require(Permission.INTEGRATION_ALLOW)
        await self.integrations.get(caller, integration_id)
        if not rules.says_nothing:
            async with caller.scope.transaction() as tx:
                await tx.run("rules_of_all_set", integration_id=integration_id, **rules.columns())
                await self.audit.append(
                    caller.scope.company_id,
                    "integration.rules_set",
                    actor=caller.label,
                    integration=integration_id,
                    **rules.facts(),
                )
            await self.integrations.versions.closed()
        return await self.get(caller, integration_id)

    async def replace(self, caller: Caller, integration_id: UUID, agent_id: UUID, rules: Rules) -> RulesOfIntegration:
        """
        Say what counts for one agent that may use it; what is not said is as for all. What it has open by other rules ends
        before this returns.

        Raises:
            NotFound: no such integration, or it is not for this agent by itself.
        """
        caller.require(Permission.INTEGRATION_ALLOW)
        await self.integrations.get(caller, integration_id)
        which = {"integration_id": integration_id, "agent_id": agent_id}
        async with caller.scope.transaction() as tx:
            if not await tx.run("rules_of_agent_replace", **which, **rules.columns()):
                raise NotFound("this agent is not among those that were named", hint="allow it first")
            facts = {"agent": agent_id, **({"only": "as for all"} if rules.says_nothing else rules.facts())}
            await self.audit.append(
                caller.scope.company_id,
                "integration.rules_set",
                actor=caller.label,
                integration=integration_id,
                **facts,
            )
        await self.integrations.versions.closed()
        return await self.get(caller, integration_id)

    async def for_agent(self, caller: Caller, integrations: Sequence[UUID]) -> dict[UUID, Rules]:
        """The rules that count for the agent that calls, by integration."""
        async with caller.scope.transaction() as tx:
            rows = await tx.all("rules_for_agent", agent_id=caller.agent_id(), integrations=[*integrations])
        return {row["id"]: Rules.of(row) for row in rows}


def _columns(row: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return row["allows"], row["asks"], row["per_minute"]
