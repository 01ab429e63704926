"""
How an agent's runs are executed: set, taken away, and the secret that signs what is handed over to a remote agent.

The configuration is shown to whoever may look at the agent, and given to what is executed: nothing in it may be secret.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.db.database import Tx
from company_agents.errors import Conflict, NotFound, WrongUsage
from company_agents.identity.agents import Agent, agent_in
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.integrations.provider import Providers
from company_agents.outgoing.receiver import host_of
from company_agents.outgoing.standard_webhooks import OVERLAP, Held, new_secret
from company_agents.runs.adapters.base import Adapter
from company_agents.runs.adapters.http import secret_name
from company_agents.runs.no_secrets import check_no_secrets
from company_agents.secret_store.store import SecretStore
from company_agents.sensitive import Sensitive

MOST_CONFIG = 32 * 1024


@dataclass(frozen=True)
class Adapters:
    """The adapters that there are, by their kind, and which one each agent has."""

    store: SecretStore
    audit: AuditLog
    providers: Providers
    kinds: Mapping[str, Adapter]

    async def set(
        self, caller: Caller, agent_id: UUID, kind: str, config: Mapping[str, Any], *, unsandboxed: bool = False
    ) -> tuple[Agent, Sensitive | None]:
        """
        Say how the runs of an agent are executed from now on, in the place of what was said before. Returns the agent,
        and for a remote one (`http`) the secret that signs what it is handed, which is not shown again.

        `unsandboxed` lets a process run as the orchestrator does, so that it can read the master key: only an owner of
        the instance may say so, and whatever else opens its sandbox.

        Raises:
            WrongUsage: no such adapter, a configuration that will not do, or one with something secret in it.
            NotFound: no such agent, or an integration that there is not.
            Conflict: the agent is retired.
        """
        caller.require(Permission.AGENT_ADAPTER)
        adapter = self.kinds.get(kind)
        if adapter is None:
            raise WrongUsage("there is no such adapter", hint="there are " + ", ".join(sorted(self.kinds)))
        checked = adapter.check(config)
        check_no_secrets(checked, self.providers.list())
        if unsandboxed and kind != "process":
            raise WrongUsage("only a process can leave the sandbox", hint="leave --unsandboxed away")
        opened = [*(["unsandboxed"] if unsandboxed else []), *adapter.opens(checked)]
        if opened:
            caller.principal.require(Permission.AGENT_UNSANDBOX)
        held = None
        if kind == "http":
            held = Held(checked["url"], checked["allow_private_network"], new_secret())
            # For people. The query may hold a token of the receiver, and what is obeyed is sealed.
            checked["url"] = held.url.partition("?")[0]
        text = json.dumps(checked, ensure_ascii=False)
        if len(text.encode()) > MOST_CONFIG:
            raise WrongUsage(f"the configuration of an agent has at most {MOST_CONFIG // 1024} KiB")
        facts: dict[str, Any] = {"adapter": kind, "opens": opened} if kind == "process" else {"adapter": kind}
        if held is not None:
            facts["host"] = host_of(held.url)
        async with caller.scope.transaction() as tx:
            await _usable(tx, agent_id)
            if kind == "llm":
                await _known_integration(tx, checked["integration"])
            await self._replace_secret(tx, agent_id, held)
            await tx.run("agent_adapter_set", id=agent_id, adapter=kind, config=text, unsandboxed=unsandboxed)
            agent = await agent_in(tx, agent_id)
            await self._record(caller, "agent.unsandboxed" if unsandboxed else "agent.adapter_set", agent, **facts)
        return agent, held.secret if held else None

    async def remove(self, caller: Caller, agent_id: UUID) -> Agent:
        """
        Execute nothing for an agent any more: it opens its runs itself. What is under way goes on.

        Raises:
            NotFound: no such agent.
        """
        caller.require(Permission.AGENT_ADAPTER)
        async with caller.scope.transaction() as tx:
            await _held_agent(tx, agent_id)
            await self._replace_secret(tx, agent_id, None)
            await tx.run("agent_adapter_set", id=agent_id, adapter=None, config="{}", unsandboxed=False)
            agent = await agent_in(tx, agent_id)
            await self._record(caller, "agent.adapter_removed", agent)
        return agent

    async def rotate_secret(self, caller: Caller, agent_id: UUID) -> tuple[Agent, Sensitive, datetime]:
        """
        A new secret that signs what a remote agent is handed, which is not shown again; and until when the present one
        signs beside it. One before that signs no more.

        Raises:
            NotFound: no such agent.
            Conflict: it is none that runs are handed over to.
        """
        caller.require(Permission.AGENT_ADAPTER)
        secret, until = new_secret(), datetime.now(UTC) + OVERLAP
        async with caller.scope.transaction() as tx:
            agent = await _held_agent(tx, agent_id)
            sealed = await tx.one("secret_by_name", company_id=tx.company_id, name=secret_name(agent_id))
            if agent.adapter != "http" or sealed is None:
                raise Conflict(
                    "this agent is handed nothing that would be signed",
                    hint="only one with the adapter http is: `company-agents agent adapter --http URL`",
                )
            held = Held.from_sealed(await self.store.open_row(sealed))
            await self.store.replace(tx, secret_name(agent_id), held.rotated(secret, until).to_sealed())
            await self._record(caller, "agent.secret_rotated", agent, previous_until=until.isoformat())
        return agent, secret, until

    async def _replace_secret(self, tx: Tx, agent_id: UUID, held: Held | None) -> None:
        former = await tx.one("secret_by_name", company_id=tx.company_id, name=secret_name(agent_id))
        if former is not None:
            await self.store.delete(tx, former["id"])
        if held is not None:
            await self.store.put(tx, secret_name(agent_id), held.to_sealed())

    async def _record(self, caller: Caller, action: str, agent: Agent, **facts: Any) -> None:
        # Before the commit: at worst the record says one thing too many.
        who = {"actor": caller.label, "agent": agent.id}
        await self.audit.append(caller.scope.company_id, action, **who, **facts)


async def _held_agent(tx: Tx, agent_id: UUID) -> Agent:
    """An agent that nobody else changes meanwhile."""
    await tx.run("agent_hold", agent_id=agent_id)
    return await agent_in(tx, agent_id)


async def _usable(tx: Tx, agent_id: UUID) -> None:
    if (await _held_agent(tx, agent_id)).state == "retired":
        raise Conflict("a retired agent has no runs any more", hint="hire another agent")


async def _known_integration(tx: Tx, named: str) -> None:
    """That there is such an integration now; whether the agent may use it is asked at each call."""
    if await tx.one("integration_known", named=named) is None:
        raise NotFound(
            "this company has no such integration", hint="`company-agents integration list --company ID` shows them"
        )
