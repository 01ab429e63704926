"""
Consents that are being asked for: kept until the answer comes, and given out for it once.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Never
from urllib.parse import urlsplit
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.companies.scope import CompanyScope
from company_agents.errors import Conflict, Refused
from company_agents.identity.principal import Caller
from company_agents.integrations.clients import issuer_key
from company_agents.integrations.wanted import Asked
from company_agents.secret_store.store import SecretStore

# How long a person may take at the provider.
FLOW_MINUTES = 10
# Flows that one company has at once, with those of the last hour; the rest of the store is for credentials.
MOST_OPEN = 100
# Longer than any question to a provider, with all its proofs (seconds).
ASKING = 120
_STATE = re.compile(r"[A-Za-z0-9_-]{86}")


@dataclass(frozen=True)
class OpenFlows:
    """What was asked for, in every company. device.py has those for who has no browser here."""

    store: SecretStore
    audit: AuditLog

    async def keep(
        self,
        caller: Caller,
        flow_id: UUID,
        asked: Asked,
        ends_at: datetime,
        state_hash: bytes | None = None,
    ) -> None:
        """
        Seal what was asked for, until the answer comes.

        Raises:
            Conflict: too many are being asked for.
        """
        company_id, provider = caller.scope.company_id, asked.wanted.provider
        integration = asked.wanted.integration_id
        await self.audit.append(
            company_id,
            "consent.begun",
            actor=caller.label,
            integration=integration,
            provider=provider,
            host=urlsplit(asked.endpoints.authorization or asked.endpoints.token).hostname,
            flow=asked.flow,
        )
        await self.room(caller.scope)
        async with caller.scope.transaction() as tx:
            secret_id = await self.store.put(tx, flow_secret(flow_id), asked.sealed_form())
            await tx.run(
                "flow_insert",
                id=flow_id,
                company_id=company_id,
                provider=provider,
                kind=asked.flow,
                integration_id=integration,
                secret_id=secret_id,
                ends_at=ends_at,
                state_hash=state_hash,
                session_id=asked.session_id,
            )

    async def room(self, scope: CompanyScope) -> None:
        """
        Raises:
            Conflict: too many are being asked for.
        """
        async with scope.transaction() as tx:
            open_now = await tx.one("flows_open")
        if open_now is not None and open_now["count"] >= MOST_OPEN:
            raise Conflict(
                "too many consents of this company were asked for", hint="those of the last hour count: try again later"
            )

    async def asking(self, scope: CompanyScope, flow_id: UUID) -> bool:
        """Begin to ask the provider about a device's code; False: somebody else is at it, or it is used up."""
        async with scope.transaction() as tx:
            return await tx.one("flow_asking", id=flow_id, lease=ASKING) is not None

    async def asked(self, scope: CompanyScope, flow_id: UUID) -> None:
        """The provider has answered: whoever comes next may ask."""
        async with scope.transaction() as tx:
            await tx.run("flow_asked", id=flow_id)

    async def claim(self, scope: CompanyScope, flow_id: UUID, state_hash: bytes | None) -> dict[str, Any] | None:
        """Use a flow up, whatever comes of it; None where it was used before, or never was. What it sealed is deleted."""
        async with scope.transaction() as tx:
            row = await tx.one("flow_claim", id=flow_id, state_hash=state_hash)
            if row is not None:
                secret = await tx.one("secret_by_name", company_id=scope.company_id, name=flow_secret(flow_id))
                if secret is not None:
                    await self.store.delete(tx, secret["id"])
        return row

    async def claimed(self, caller: Caller, session_id: UUID, provider: str, state: str, server: str) -> Asked:
        """
        What was asked for, by the state that came back. `server` stands for the one whose redirect address it came to.

        Raises:
            Refused: it is none of ours, was used, is too late, or belongs to another session or provider.
        """
        known, scope = read_state(state), caller.scope
        if known is None or known[0] != scope.company_id:
            self._refuse(caller, provider, "state", "this answer belongs to nothing that was asked for here")
        flow_id, state_hash = known[1], hash_of(state)
        sealed = await self.store.open_own(scope, flow_secret(flow_id))
        row = await self.claim(scope, flow_id, state_hash)
        if row is None:
            async with scope.transaction() as tx:
                used = await tx.one("flow_known", id=flow_id, state_hash=state_hash)
            if used is None:
                self._refuse(caller, provider, "state", "this answer belongs to nothing that was asked for here")
            self._refuse(caller, provider, "replayed", "this answer was used before")
        if row["ends_at"] <= datetime.now(UTC) or sealed is None:
            self._refuse(caller, provider, "late", f"this took longer than {FLOW_MINUTES} minutes")
        # Whose it is, is taken from what is sealed: the row beside it is not.
        asked = Asked.opened(sealed)
        if asked.session_id != session_id:
            self._refuse(caller, provider, "session", "this consent was begun in another browser, or by somebody else")
        if asked.wanted.provider != provider:
            self._refuse(caller, provider, "mixed_up", "this answer came from another provider than the one asked")
        if server != (issuer_key(asked.wanted.issuer) if asked.wanted.issuer else ""):
            self._refuse(caller, provider, "mixed_up", "this answer came from another server than the one asked")
        return asked

    async def sweep(self) -> None:
        """Delete what was asked for and never answered, in every company."""
        async with self.store.db.instance_transaction() as tx:
            for row in await tx.all("flows_ended"):
                await self.store.delete(tx, row["secret_id"])
            await tx.run("flows_over")

    def _refuse(self, caller: Caller, provider: str, reason: str, sentence: str) -> Never:
        self.audit.refusal(
            caller.scope.company_id, "consent.refused", actor=caller.label, provider=provider, reason=reason
        )
        raise Refused(sentence, hint="nothing was connected; begin again", code=f"consent_{reason}")


def flow_secret(flow_id: UUID) -> str:
    """What the secret of a flow is called."""
    return f"oauth_flow/{flow_id}"


def read_state(state: str) -> tuple[UUID, UUID] | None:
    """The company and the flow that a state names; None where it is none of ours. That it is right is not said by that."""
    if not _STATE.fullmatch(state):
        return None
    found = base64.urlsafe_b64decode(state + "==")
    return UUID(bytes=found[:16]), UUID(bytes=found[16:32])


def new_state(company_id: UUID, flow_id: UUID) -> str:
    """A state that nobody guesses."""
    return base64.urlsafe_b64encode(company_id.bytes + flow_id.bytes + secrets.token_bytes(32)).rstrip(b"=").decode()


def hash_of(state: str) -> bytes:
    """SHA-256 of a state: what is kept of it."""
    return hashlib.sha256(state.encode()).digest()


def is_of_another(asked: Asked, params: Mapping[str, str]) -> bool:
    """Whether an answer names another server than the one that was asked, or none where it would (RFC 9207)."""
    said = params.get("iss")
    return said != asked.endpoints.issuer if said or asked.endpoints.iss_in_reply else False
