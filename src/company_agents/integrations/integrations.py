"""
Connect, look at, allow, rotate, check.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from company_agents.audit.log import AuditLog
from company_agents.companies.scope import CompanyScope
from company_agents.errors import CompanyAgentsError, Conflict, ProbeFailed
from company_agents.identity.directory import good_name
from company_agents.identity.paging import Page, cursor_params, page
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.integrations.checks import Checks
from company_agents.integrations.credential import (
    Credential,
    CredentialLost,
    check_token,
    destination_for,
    known_destination,
)
from company_agents.integrations.permitted import agent_of, agents_exist
from company_agents.integrations.probe import Proof, Unproven, probe
from company_agents.integrations.provider import Provider, Providers
from company_agents.integrations.replacing import MOST_ROUNDS, kills_others, may_be_same, shown
from company_agents.integrations.rules import NOTHING_SAID, Rules
from company_agents.integrations.status import CONNECTED, NEEDS_ATTENTION, Statuses
from company_agents.integrations.versions import Versions, current_version, held, secret_of, unknown_integration
from company_agents.outgoing.client import Outgoing
from company_agents.outgoing.destination import Destination
from company_agents.secret_store.store import SecretStore, Use
from company_agents.sensitive import Sensitive


@dataclass(frozen=True, slots=True)
class Integration:
    """A company's connection to a provider: everything but the credential's value."""

    id: UUID
    company_id: UUID
    provider: str
    name: str
    destination: str
    status: str
    status_reason: str
    status_since: datetime
    status_hint: str
    kind: str
    account: str
    expires_at: datetime | None
    rotate_every: int | None
    scopes: list[str]
    allow_all: bool
    agents: list[UUID]
    version: int
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None


@dataclass(frozen=True)
class Integrations:
    """The integrations of a caller's company."""

    store: SecretStore
    audit: AuditLog
    outgoing: Outgoing
    providers: Providers
    versions: Versions
    statuses: Statuses
    checks: Checks

    async def list(self, caller: Caller, after: str | None = None, limit: int = 50) -> Page[Integration]:
        """The integrations, oldest first; for an agent, those that it may use."""
        caller.require(Permission.INTEGRATION_READ)
        params = cursor_params(after, limit)
        async with caller.scope.transaction() as tx:
            rows = await tx.all("integration_list", agent_id=agent_of(caller), **params)
        return page([Integration(**row) for row in rows], limit)

    async def get(self, caller: Caller, integration_id: UUID) -> Integration:
        """
        Raises:
            NotFound: no such integration in this company, or not for this agent.
        """
        caller.require(Permission.INTEGRATION_READ)
        async with caller.scope.transaction() as tx:
            row = await tx.one("integration_get", id=integration_id, agent_id=agent_of(caller))
        if row is None:
            raise unknown_integration()
        return Integration(**row)

    async def connect(
        self,
        caller: Caller,
        provider_name: str,
        token: Sensitive,
        *,
        name: str | None = None,
        base_url: str | None = None,
        allow_private_network: bool = False,
        header: str | None = None,
        allow: Sequence[UUID] = (),
        allow_all: bool = False,
        rules: Rules = NOTHING_SAID,
    ) -> Integration:
        """
        Connect by API token. The token is tried at the provider first, then sealed with its destination.

        Raises:
            NotFound: no such provider, or no such agent to allow.
            WrongUsage: token, address or header will not do.
            ProbeFailed: the provider did not accept the token.
            Conflict: there is one of this name.
        """
        caller.require(Permission.INTEGRATION_CONNECT)
        provider = self.providers.get(provider_name)
        destination = destination_for(provider, base_url, allow_private=allow_private_network, header=header)
        credential = Credential(destination, check_token(token))
        whom: dict[str, Any] = {"allow": allow, "allow_all": allow_all, "rules": rules}
        return await self.establish(caller, provider, credential, name=name, **whom)

    async def establish(
        self,
        caller: Caller,
        provider: Provider,
        credential: Credential,
        *,
        name: str | None = None,
        allow: Sequence[UUID] = (),
        allow_all: bool = False,
        rules: Rules = NOTHING_SAID,
        account: str = "",
    ) -> Integration:
        """
        Make an integration of a credential that is at hand. It is tried at the provider first. `rules` are for all agents;
        `account` is whose it is, where that is known and the probe does not say.

        Raises:
            NotFound, ProbeFailed, Conflict: as for `connect`.
        """
        caller.require(Permission.INTEGRATION_CONNECT)
        name = good_name(provider.name if name is None else name, "an integration")
        integration_id = uuid4()
        # Before the probe: a name that is taken is not worth a call.
        await self.check_free(caller.scope, name, allow)
        proof = await self._probed(caller, provider, credential, integration_id, version=1)
        async with caller.scope.transaction() as tx:
            await tx.run(
                "integration_insert",
                id=integration_id,
                company_id=caller.scope.company_id,
                provider=provider.name,
                name=name,
                allow_all=allow_all,
                **shown(credential, proof, account),
            )
            await tx.run("rules_of_all_set", integration_id=integration_id, **rules.columns())
            await self.versions.add(tx, integration_id, 1, credential, provider)
            await self.statuses.remember(tx, integration_id, 1, CONNECTED, "", "connect")
            for agent_id in dict.fromkeys(allow):
                await tx.run(
                    "integration_allow",
                    company_id=caller.scope.company_id,
                    integration_id=integration_id,
                    agent_id=agent_id,
                )
            await self._record(
                caller,
                "integration.connected",
                integration_id,
                provider=provider.name,
                host=credential.destination.host,
                allowed="all" if allow_all else [*allow],
                **rules.facts(),
            )
        return await self.get(caller, integration_id)

    async def rotate(self, caller: Caller, integration_id: UUID, token: Sensitive) -> Integration:
        """
        Replace the credential by a new token for the same destination. It is tried first; if the provider does not
        accept it, the old one stays.

        Raises:
            NotFound, WrongUsage, ProbeFailed: as for `connect`.
            Conflict: somebody else rotated it meanwhile.
        """
        caller.require(Permission.INTEGRATION_ROTATE)
        token = check_token(token)
        destination = await self.destination(caller, integration_id)
        return await self.supersede(caller, integration_id, Credential(destination, token))

    async def destination(self, caller: Caller, integration_id: UUID) -> Destination:
        """
        Where the present credential may go, for a new one in its place: from what is sealed, never from the row beside it.

        Raises:
            NotFound: no such integration.
            CredentialLost: nothing that is sealed says it, nor the provider's file.
        """
        try:
            return (await self.present(caller, integration_id)).destination
        except CredentialLost:
            row = await self.get(caller, integration_id)
            return known_destination(self.providers.get(row.provider), row.destination)

    async def present(self, caller: Caller, integration_id: UUID) -> Credential:
        """
        The present credential, for a new one in its place: where it may go, and how it was consented to.

        Raises:
            NotFound: no such integration.
        """
        caller.require(Permission.INTEGRATION_ROTATE)
        async with self._opened(caller, integration_id, "rotate") as (_, present, use):
            use.ended("opened")
        return present

    async def supersede(
        self, caller: Caller, integration_id: UUID, credential: Credential, *, account: str = ""
    ) -> Integration:
        """
        Make a credential that is at hand the current version. It is tried first; if the provider does not accept it, the
        old one stays. Where the new one has killed the old one at the provider, it is kept also where it could not be tried,
        and takes the place of whatever is current by then; the status says so.

        Raises:
            NotFound, ProbeFailed: as for `connect`.
            Conflict: somebody else rotated it meanwhile.
        """
        caller.require(Permission.INTEGRATION_ROTATE)
        first = await self.get(caller, integration_id)
        provider = self.providers.get(first.provider)
        kills = kills_others(provider, credential)
        for left in reversed(range(MOST_ROUNDS)):
            integration = await self.get(caller, integration_id)
            proof, untried = await self._tried(caller, provider, credential, integration, first.version, kills=kills)
            row = shown(credential, proof, account)
            async with caller.scope.transaction() as tx:
                present = await held(tx, integration_id)
                if present["version"] != integration.version:
                    if not kills:
                        raise Conflict("somebody else rotated it just now", hint="look at it again")
                    if left:
                        # Which of the two was given last, and lives, the provider knows: it is asked once more.
                        continue
                version = await self.versions.supersede(
                    *(tx, integration_id, present["version"], credential, provider, caller.label),
                    kills=kills and may_be_same(integration.account, row["account"]),
                )
                await tx.run("integration_superseded", id=integration_id, **row)
                await self.statuses.remember(tx, integration_id, version, CONNECTED, "", "rotation")
                if untried is not None:
                    reason, hint = f"it could not be tried: {untried.sentence}", untried.hint
                    await self.statuses.write(tx, integration_id, version, NEEDS_ATTENTION, reason, hint, "rotation")
                await self._record(caller, "integration.rotated", integration_id, version=version)
            break
        await self._revoke_retired(caller, integration_id)
        return await self.get(caller, integration_id)

    async def allow(
        self, caller: Caller, integration_id: UUID, agent_id: UUID, rules: Rules = NOTHING_SAID
    ) -> Integration:
        """
        Let an agent use an integration, by rules of its own where some are given. Allowed again, what is not said stays, and
        what it has open by other rules ends before this returns.

        Raises:
            NotFound: no such integration or agent in this company.
        """
        caller.require(Permission.INTEGRATION_ALLOW)
        await self.get(caller, integration_id)
        await agents_exist(caller.scope, [agent_id])
        async with caller.scope.transaction() as tx:
            await tx.run(
                "rules_of_agent_set",
                company_id=caller.scope.company_id,
                integration_id=integration_id,
                agent_id=agent_id,
                **rules.columns(),
            )
            await self._record(caller, "integration.allowed", integration_id, agent=agent_id, **rules.facts())
        if not rules.says_nothing:
            await self.versions.closed()
        return await self.get(caller, integration_id)

    async def disallow(self, caller: Caller, integration_id: UUID, agent_id: UUID) -> Integration:
        """
        No longer let an agent use an integration; counts at its next call, and what it has open ends before this returns.

        Raises:
            NotFound: no such integration or agent in this company.
            Conflict: everybody may use it, so this agent would go on.
        """
        caller.require(Permission.INTEGRATION_ALLOW)
        integration = await self.get(caller, integration_id)
        if integration.allow_all:
            raise Conflict(
                "all agents may use this integration", hint="on its page in the dashboard, choose the agents that may"
            )
        await agents_exist(caller.scope, [agent_id])
        async with caller.scope.transaction() as tx:
            if await tx.run("integration_disallow", integration_id=integration_id, agent_id=agent_id):
                await self._record(caller, "integration.disallowed", integration_id, agent=agent_id)
        await self.versions.closed()
        return await self.get(caller, integration_id)

    async def allow_all(self, caller: Caller, integration_id: UUID, on: bool) -> Integration:
        """Let every agent of the company use an integration, or only those that are named."""
        caller.require(Permission.INTEGRATION_ALLOW)
        await self.get(caller, integration_id)
        async with caller.scope.transaction() as tx:
            await tx.run("integration_allow_all", id=integration_id, on=on)
            action = "integration.allowed" if on else "integration.disallowed"
            await self._record(caller, action, integration_id, agent="all")
        if not on:
            await self.versions.closed()
        return await self.get(caller, integration_id)

    async def check(self, caller: Caller, integration_id: UUID) -> Integration:
        """
        Try the credential at the provider now; the status says how it went.

        Raises:
            NotFound: no such integration.
            ProbeFailed, Unavailable, Refused: it could not be tried, and the status stays.
        """
        caller.require(Permission.INTEGRATION_CHECK)
        await self.checks.check(caller.scope, integration_id, actor=caller.label)
        return await self.get(caller, integration_id)

    async def check_free(self, scope: CompanyScope, name: str, allow: Sequence[UUID]) -> None:
        """
        Raises:
            Conflict: there is an integration of this name.
            NotFound: no such agent in this company.
        """
        async with scope.transaction() as tx:
            if await tx.one("integration_named", name=name) is not None:
                raise Conflict(f"there is an integration {name} already", hint="give another --name", code="duplicate")
        await agents_exist(scope, allow)

    async def _revoke_retired(self, caller: Caller, integration_id: UUID) -> None:
        # What was asked for is done by now; who sweeps up tries this again.
        with contextlib.suppress(CompanyAgentsError):
            await self.versions.revoke_retired(caller.scope, caller.label, integration_id)

    async def _probed(
        self, caller: Caller, provider: Provider, credential: Credential, integration_id: UUID, *, version: int
    ) -> Proof:
        facts: dict[str, Any] = {
            "provider": provider.name,
            "host": credential.destination.host,
            "version": version,
        }
        await self._record(caller, "integration.probe", integration_id, **facts)
        try:
            return await probe(self.outgoing, provider, credential)
        except CompanyAgentsError as error:
            await self._record(caller, "integration.probe_failed", integration_id, error=error.reason, **facts)
            raise

    async def _tried(
        self, caller: Caller, provider: Provider, new: Credential, present: Integration, first: int, *, kills: bool
    ) -> tuple[Proof, CompanyAgentsError | None]:
        """A new credential's proof; or, where it `kills` the version `first`, why it could not be tried."""
        try:
            return await self._probed(caller, provider, new, present.id, version=present.version + 1), None
        except CompanyAgentsError as error:
            if not kills:
                raise
            if isinstance(error, Unproven) or not isinstance(error, ProbeFailed):
                return Proof(), error
            reason = f"it was killed by a new consent, and that one was refused: {error.sentence}"
            shows = (NEEDS_ATTENTION, reason, "give a new consent")
            await self.statuses.seen(caller.scope, present.id, first, *shows, seen_by="rotation")
            raise

    @contextlib.asynccontextmanager
    async def _opened(
        self, caller: Caller, integration_id: UUID, purpose: str, **call: Any
    ) -> AsyncIterator[tuple[int, Credential, Use]]:
        """The current version, open for as long as it is used; `call` says what for."""
        async with caller.scope.transaction() as tx:
            current = await current_version(tx, integration_id)
        facts = {"integration": integration_id, "version": current["version"], "purpose": purpose, **call}
        async with self.store.use(caller.scope, secret_of(current), actor=caller.label, **facts) as use:
            yield current["version"], Credential.opened(use.secret), use

    async def _record(self, caller: Caller, action: str, integration_id: UUID, **facts: Any) -> None:
        await self.audit.append(
            caller.scope.company_id, action, actor=caller.label, integration=integration_id, **facts
        )
