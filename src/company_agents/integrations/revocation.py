"""
Ending a consent at its provider: when its version has retired, and when a person says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Set
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.companies.scope import CompanyScope
from company_agents.errors import Busy, CompanyAgentsError, NotFound, Refused, Unavailable
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.integrations.clients import Clients
from company_agents.integrations.credential import Credential
from company_agents.integrations.integrations import Integration, Integrations
from company_agents.integrations.oauth.calls import OAuthCalls
from company_agents.integrations.oauth.model import Client, Consent
from company_agents.integrations.provider import Provider, Providers
from company_agents.integrations.versions import held
from company_agents.secret_store.store import Gone
from company_agents.sensitive import Sensitive

# An address of this form takes an access token, and nothing else (see oauth/quirks.py).
_OF_THE_CLIENT = "{client_id}"
# How long (seconds) providers are waited for, for all versions together of what is to be deleted.
MOST_SECONDS = 30.0
# How often it is looked whether another consent came in meanwhile.
MOST_ROUNDS = 3


@dataclass(frozen=True)
class Revocation:
    """Revokes credentials at their providers."""

    audit: AuditLog
    calls: OAuthCalls
    clients: Clients
    providers: Providers
    integrations: Integrations

    async def retired(self, scope: CompanyScope, integration_id: UUID, version: int, credential: Credential) -> bool:
        """
        Revoke a version that has gone. False: the provider has no way; or its way would end consents that live on.

        Raises:
            Rejected, NotNow, Uncertain: the provider did not do it.
        """
        async with scope.transaction() as tx:
            row = await tx.one("integration_get", id=integration_id, agent_id=None)
            others = await tx.one("consents_beside", id=integration_id, version=version)
        if row is None or credential.consent is None:
            return False
        if others is not None and others["count"] and self._ends_all(row["provider"]):
            return False
        return await self._revoke(scope, row["provider"], credential, credential.consent)

    async def end(self, caller: Caller, integration_id: UUID) -> Integration:
        """
        End the present consent at its provider, now. The credential is tried afterwards, and the status says so.

        Raises:
            NotFound: no such integration.
            Refused: it is no consent, or the provider has no way.
            Rejected, NotNow, Uncertain: the provider did not do it.
        """
        caller.require(Permission.INTEGRATION_DELETE)
        integration = await self.integrations.get(caller, integration_id)
        credential = await self.integrations.present(caller, integration_id)
        facts: dict[str, Any] = {
            "actor": caller.label,
            "integration": integration_id,
            "version": integration.version,
            "provider": integration.provider,
        }
        await self.audit.append(caller.scope.company_id, "consent.revoking", **facts)
        if not await self._revoked(caller.scope, integration.provider, credential):
            raise Refused(
                "this cannot be revoked from here", hint="revoke it on the provider's own page", code="not_revocable"
            )
        await self.audit.append(caller.scope.company_id, "consent.revoked", **facts)
        return await self.integrations.check(caller, integration_id)

    async def delete(self, caller: Caller, integration_id: UUID, *, keep_consent: bool = False) -> None:
        """
        Delete an integration. What was consented to is revoked at its provider first, as far as that can be done, since
        nobody has its tokens afterwards; `keep_consent` leaves it as it is there.

        Raises:
            NotFound: no such integration.
            Unavailable, Busy: a consent could not be opened for it, for a reason that passes; nothing is deleted.
        """
        caller.require(Permission.INTEGRATION_DELETE)
        integration = await self.integrations.get(caller, integration_id)
        if keep_consent:
            await self._deleted(caller, integration, frozenset(), anyhow=True)
            await self.integrations.versions.closed()
            return
        deadline = asyncio.get_running_loop().time() + MOST_SECONDS
        asked: set[tuple[int, int]] = set()
        for left in reversed(range(MOST_ROUNDS)):
            async with caller.scope.transaction() as tx:
                rows = await _consents(tx, integration_id, asked)
                others = await tx.one("consents_elsewhere", id=integration_id, provider=integration.provider)
            beside = others is not None and bool(others["count"]) and self._ends_all(integration.provider)
            for row in rows:
                if await self._end_with_it(caller, integration, row, None if beside else deadline):
                    asked.add(_which(row))
            if await self._deleted(caller, integration, asked, anyhow=not left):
                await self.integrations.versions.closed()
                return

    async def _end_with_it(
        self, caller: Caller, integration: Integration, row: dict[str, Any], deadline: float | None
    ) -> bool:
        """
        Revoke one version of what is about to be deleted, and record how that went. False: somebody else is at it.
        `deadline`: what the loop's clock shows when no provider is waited for any more; None, where it would end others.

        Raises:
            Unavailable, Busy: it was not opened, for a reason that passes.
        """
        facts = {**_facts(caller, integration), "version": row["version"]}
        opened = done = False
        try:
            if deadline is not None and asyncio.get_running_loop().time() < deadline:
                async with self.clients.store.use(caller.scope, row["secret_id"], purpose="revoke", **facts) as use:
                    credential = Credential.opened(use.secret)
                    use.ended("opened")
                opened = True
                async with asyncio.timeout_at(deadline):
                    done = await self._revoked(caller.scope, integration.provider, credential)
        except Gone:
            # It was revoked, or given up, by who sweeps up: what came of it is on record.
            return False
        except TimeoutError:
            pass
        except CompanyAgentsError as error:
            # A provider that is away keeps nobody from deleting, nor does a secret that nobody can open any more.
            if not opened and isinstance(error, Unavailable | Busy):
                raise
        await self.audit.append(
            caller.scope.company_id, "consent.revoked" if done else "credential.not_revoked", **facts
        )
        return True

    async def _deleted(
        self, caller: Caller, integration: Integration, asked: Set[tuple[int, int]], *, anyhow: bool
    ) -> bool:
        """
        Delete an integration, unless a consent of it came in that nobody has `asked` to revoke. `anyhow`: then too, and
        that one is on record.
        """
        company_id, facts = caller.scope.company_id, _facts(caller, integration)
        async with caller.scope.transaction() as tx:
            # Whoever refreshes or rotates waits for this lock: what is read behind it is what is deleted.
            present = await held(tx, integration.id)
            rest = await _consents(tx, integration.id, asked)
            if rest and not anyhow:
                return False
            for row in rest:
                await self.audit.append(company_id, "credential.not_revoked", **facts, version=row["version"])
            secrets = await tx.all("integration_secrets", id=integration.id)
            await tx.run("integration_delete", id=integration.id)
            for row in secrets:
                await self.clients.store.delete(tx, row["secret_id"])
            del facts["provider"]
            await self.audit.append(company_id, "integration.deleted", **facts, name=present["name"])
        return True

    async def _revoked(self, scope: CompanyScope, provider: str, credential: Credential) -> bool:
        consent = credential.consent
        return consent is not None and await self._revoke(scope, provider, credential, consent)

    def _ends_all(self, provider: str) -> bool:
        try:
            oauth = self.providers.get(provider).oauth
        except NotFound:
            return False
        return oauth is not None and (oauth.revocation_ends_all or oauth.one_consent)

    async def _revoke(self, scope: CompanyScope, name: str, credential: Credential, consent: Consent) -> bool:
        url = consent.endpoints.revocation
        if url is None:
            return False
        try:
            provider = self.providers.get(name)
            client = await self.clients.get(scope, name, consent.endpoints.issuer or "", purpose="revoke")
        except NotFound:
            return False
        if (client.id, client.endpoints.revocation) != (consent.client_id, url):
            # It was configured anew: neither its secret nor this token is for the other's endpoint.
            return False
        return await revoke_tokens(self.calls, provider, client, credential.token, consent.refresh)


def _facts(caller: Caller, integration: Integration) -> dict[str, Any]:
    return {"actor": caller.label, "integration": integration.id, "provider": integration.provider}


async def _consents(tx: Any, integration_id: UUID, asked: Set[tuple[int, int]]) -> list[dict[str, Any]]:
    """What is held of an integration's consents, without those that were `asked` to be revoked."""
    rows = await tx.all("consents_held", id=integration_id)
    return [row for row in rows if row["consent"] and _which(row) not in asked]


def _which(row: dict[str, Any]) -> tuple[int, int]:
    """A version, and the refresh that wrote what is sealed of it."""
    return row["version"], row["written_by"]


async def revoke_tokens(
    calls: OAuthCalls, provider: Provider, client: Client, access: Sensitive, refresh: Sensitive | None
) -> bool:
    """
    End a consent at its provider by its tokens. False: the provider has no way.

    Raises:
        Rejected, NotNow, Uncertain: the provider did not do it.
    """
    by_refresh = refresh is not None and _OF_THE_CLIENT not in (client.endpoints.revocation or "")
    if refresh is not None and by_refresh:
        by_refresh = await calls.revoke(provider, client, refresh, "refresh_token")
    # Of its own: whether it dies with the refresh token is the server's choice (RFC 7009, 2.1).
    return await calls.revoke(provider, client, access, "access_token", refresh_revoked=by_refresh)
