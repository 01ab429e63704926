"""
Ending a consent at its provider: when its version has retired, and when a person says so.
"""

from __future__ import annotations

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
from company_agents.secret_store.store import Gone
from company_agents.sensitive import Sensitive

# An address of this form takes an access token, and nothing else (see oauth/quirks.py).
_OF_THE_CLIENT = "{client_id}"


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
        if not keep_consent:
            async with caller.scope.transaction() as tx:
                rows = await tx.all("consents_held", id=integration_id)
                others = await tx.one("consents_elsewhere", id=integration_id, provider=integration.provider)
            beside = others is not None and bool(others["count"]) and self._ends_all(integration.provider)
            for row in rows:
                if row["consent"]:
                    await self._end_with_it(caller, integration, row, beside)
        await self.integrations.delete(caller, integration_id)

    async def _end_with_it(self, caller: Caller, integration: Integration, row: dict[str, Any], beside: bool) -> None:
        """
        Revoke one version of what is about to be deleted, and record how that went. `beside`: it would end others.

        Raises:
            Unavailable, Busy: it was not opened, for a reason that passes.
        """
        facts: dict[str, Any] = {
            "actor": caller.label,
            "integration": integration.id,
            "version": row["version"],
            "provider": integration.provider,
        }
        opened = done = False
        try:
            if not beside:
                async with self.clients.store.use(caller.scope, row["secret_id"], purpose="revoke", **facts) as use:
                    credential = Credential.opened(use.secret)
                    use.ended("opened")
                opened = True
                done = await self._revoked(caller.scope, integration.provider, credential)
        except Gone:
            # It was revoked, or given up, by who sweeps up: what came of it is on record.
            return
        except CompanyAgentsError as error:
            # A provider that is away keeps nobody from deleting, nor does a secret that nobody can open any more.
            if not opened and isinstance(error, Unavailable | Busy):
                raise
        await self.audit.append(
            caller.scope.company_id, "consent.revoked" if done else "credential.not_revoked", **facts
        )

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
