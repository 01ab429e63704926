"""
An integration, for an agent or a run that may use it at this moment, and whether it may make this very call.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.errors import Busy, Refused
from company_agents.identity.principal import Caller
from company_agents.integrations import rates, rules
from company_agents.integrations.streams import Streams
from company_agents.integrations.versions import Versions, unknown_integration
from company_agents.outgoing.client import OutgoingRequest
from company_agents.secret_store.store import SecretStore

Found = dict[str, Any]


@dataclass(frozen=True)
class Finder:
    """Looks integrations up for whoever calls."""

    store: SecretStore
    audit: AuditLog
    versions: Versions
    open_streams: Streams

    async def find(
        self, caller: Caller, integration: str, request: OutgoingRequest | None, *, again: bool = False
    ) -> Found:
        """
        An integration, for a caller that may use it now. `request` is what it is asked for, and judged as well; `again`: it
        was before.

        Raises:
            NotFound: no such integration, or not for this caller; both read alike.
            Refused: no rule allows it (`not_allowed_here`), or the run was cut off from its version (`credential_cut`).
            TooMany: the agent has made its calls of this minute.
            Busy: what has to be approved was changed meanwhile.
        """
        try:
            by: dict[str, Any] = {"id": UUID(integration), "name": None}
        except ValueError:
            by = {"id": None, "name": integration}
        mark = self.open_streams.mark()
        row = await self._looked_up(caller, by)
        if row is not None and caller.principal.run_id is not None and not row["is_pinned"]:
            # Allowed after the run began: it is pinned at its first use.
            async with caller.scope.transaction() as tx:
                await self.versions.pin(tx, caller.principal.run_id, caller.agent_id(), row["id"])
            row = await self._looked_up(caller, by)
        if row is not None and not row["is_cut"] and request is not None:
            await self._permitted(caller, row, request, again=again)
        there = await self._there(caller, by) if row is None else None
        if row is None:
            # What there is not is not named: an agent may ask for anything, and each word would be an event of its own.
            self.audit.refusal(
                caller.scope.company_id,
                "integration.refused",
                actor=caller.label,
                integration=there["id"] if there else None,
                reason="not allowed" if there else "unknown",
            )
            raise unknown_integration()
        if row["is_cut"]:
            facts = {"actor": caller.label, "integration": row["id"], "version": row["version"], "reason": "cut"}
            self.audit.refusal(caller.scope.company_id, "integration.refused", **facts)
            raise Refused(
                "this run was cut off from the credential that it began with",
                hint="nothing takes its place: a new run has the present one",
                code="credential_cut",
            )
        row["looked_at"], row["mark"] = time.monotonic(), mark
        return row

    async def _looked_up(self, caller: Caller, by: dict[str, Any]) -> Found | None:
        principal = caller.principal
        return await self.store.db.look_up(
            "integration_lookup",
            *(caller.scope.company_id, caller.agent_id(), principal.run_id, principal.fence, principal.token_at),
            *(by["id"], by["name"]),
        )

    async def _there(self, caller: Caller, by: dict[str, Any]) -> Found | None:
        async with caller.scope.transaction() as tx:
            found: Found | None = await tx.one("integration_there", **by)
            return found

    async def _permitted(self, caller: Caller, found: Found, request: OutgoingRequest, *, again: bool) -> None:
        """Whether this very call may be made: its method and path, how often. Looked up `again`, it counts once."""
        try:
            found["is_asked"] = rules.judge(found, request)
            if not again and found["per_minute"]:
                async with caller.scope.transaction() as tx:
                    await rates.count(tx, found, caller.agent_id())
        except Refused as error:
            # Not the path: an agent may ask for any, and each would be an event of its own.
            facts = {"actor": caller.label, "integration": found["id"], "reason": error.reason}
            self.audit.refusal(caller.scope.company_id, "integration.refused", **facts)
            raise
        if again and found["is_asked"]:
            raise Busy("what has to be approved was changed just now", hint="try again")
