"""
A credential is tried at its provider, because a person asks or because it is time; the status says how it went.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from company_agents.audit.chain import path_template
from company_agents.companies.scope import CompanyScope
from company_agents.errors import ProbeFailed, Refused, Unavailable
from company_agents.integrations import vouching
from company_agents.integrations.credential import Credential
from company_agents.integrations.probe import Proof, Unproven, probe
from company_agents.integrations.provider import Provider, Providers
from company_agents.integrations.refresh import Refresher
from company_agents.integrations.status import CONNECTED, NEEDS_ATTENTION, Statuses
from company_agents.integrations.versions import secret_of, unknown_integration
from company_agents.outgoing.client import Outgoing
from company_agents.secret_store.store import SecretStore


@dataclass(frozen=True)
class Checks:
    """Probes of what is connected."""

    store: SecretStore
    outgoing: Outgoing
    providers: Providers
    statuses: Statuses
    refresher: Refresher

    async def check(self, scope: CompanyScope, integration_id: UUID, *, actor: str | None = None) -> None:
        """
        Try the current credential. A consent whose token ends is renewed before, and one that is refused, after.

        Raises:
            NotFound: no such integration.
            Unproven: the provider is busy or broken; the status stays.
            Unavailable, Refused: the call could not be made; the status stays.
        """
        row = await self._current(scope, integration_id)
        if row["consent"] and row["is_ending"]:
            try:
                await self.refresher.fresh(scope, integration_id, row["version"], actor=actor)
            except (Refused, Unavailable):
                # There is nothing to be tried, and the refresh has said so.
                return
        proof, problem = await self._tried(scope, integration_id, row, actor)
        if problem is not None and row["consent"]:
            state = await self.refresher.replaced(scope, integration_id, row["version"], row["written_by"], actor=actor)
            if state is not None and state.written_by > row["written_by"]:
                row = await self._current(scope, integration_id)
                proof, problem = await self._tried(scope, integration_id, row, actor)
        await self.statuses.seen(
            scope,
            integration_id,
            row["version"],
            NEEDS_ATTENTION if problem else CONNECTED,
            problem.sentence if problem else "",
            problem.hint if problem else "",
            seen_by="probe",
            scopes=proof.scopes,
        )

    async def _current(self, scope: CompanyScope, integration_id: UUID) -> dict[str, Any]:
        async with scope.transaction() as tx:
            row = await tx.one("check_current", id=integration_id)
        if row is None:
            raise unknown_integration()
        return row

    async def _tried(
        self, scope: CompanyScope, integration_id: UUID, row: dict[str, Any], actor: str | None
    ) -> tuple[Proof, ProbeFailed | None]:
        provider = self.providers.get(row["provider"])
        facts = {
            "actor": actor,
            "integration": integration_id,
            "version": row["version"],
            "purpose": "check",
            "host": row["destination"],
            **_call_of(provider),
        }
        async with self.store.use(scope, secret_of(row), **facts) as use:
            credential = Credential.opened(use.secret)
            there = credential.destination.origin
            try:
                proof = await probe(self.outgoing, provider, credential)
                there = vouching.host(provider, credential) or there
                await vouching.check(self.refresher.clients, self.refresher.calls, scope, provider, credential, actor)
            except Unproven:
                use.ended("unproven", host=there)
                raise
            except ProbeFailed as error:
                use.ended("refused", host=there)
                return Proof(), error
            use.ended("accepted", host=there)
            return proof, None


def _call_of(provider: Provider) -> dict[str, str]:
    call = provider.probe
    return {"method": call.method, "path": path_template(call.path)} if call else {}
