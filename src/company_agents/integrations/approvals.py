"""
Requests that a person has to approve: looked at and decided. asking.py has them asked for and collected by agents, sending.py
sends what was approved.

    waiting ──approve──► approved ──► sending ──► done
       │                     │           ├──────► failed      it was not sent
       │                     │           └──────► uncertain   it may have been sent; nobody sends it again
       │                     └──────────────────► failed
       ├──refuse──► refused
       └──time──► expired

The database lets nothing move otherwise. What is shown is what is sent: it stands sealed, and its digest beside it.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.companies.scope import CompanyScope
from company_agents.errors import (
    Conflict,
    NotFound,
    Tampered,
    Unauthenticated,
    WrongUsage,
)
from company_agents.identity.holding import still_holds
from company_agents.identity.paging import Page, cursor_params, page
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.integrations.approval_forms import AsSent
from company_agents.integrations.permitted import agent_of
from company_agents.secret_store.store import SecretStore
from company_agents.sensitive import Sensitive

STATES = ("waiting", "approved", "sending", "done", "failed", "uncertain", "refused", "expired")
UNDER_WAY = ("waiting", "approved", "sending")
MOST_NOTE = 1000
_KEY = "approval_key"
_SHOWN_LATEST = 50


@dataclass(frozen=True, slots=True)
class Approval:
    """One request that a person has to approve, or had to; without what it says. `path` is a template of its path."""

    id: UUID
    company_id: UUID
    integration_id: UUID
    integration: str
    agent_id: UUID
    agent: str
    run_id: UUID | None
    state: str
    method: str
    host: str
    path: str
    version: int
    size: int
    reply_status: int | None
    reason: str
    note: str
    created_at: datetime
    expires_at: datetime
    decided_at: datetime | None
    decided_by: str | None
    ended_at: datetime | None
    collected_at: datetime | None
    is_kept: bool


@dataclass
class Approvals:
    """The approvals of a caller's company. `approved` is told of each that was approved."""

    store: SecretStore
    audit: AuditLog
    approved: Callable[[CompanyScope, UUID], None] = lambda scope, approval_id: None

    # — for people —

    async def list(
        self, caller: Caller, *, state: str | None = None, after: str | None = None, limit: int = 50
    ) -> Page[Approval]:
        """The approvals, oldest first; for an agent, its own."""
        caller.require(Permission.APPROVAL_READ)
        if state is not None and state not in STATES:
            raise WrongUsage(f"an approval has no such state; it may be {', '.join(STATES)}")
        params = {**cursor_params(after, limit), "state": state, "agent_id": agent_of(caller)}
        async with caller.scope.transaction() as tx:
            rows = await tx.all("approval_list", **params)
        return page([Approval(**row) for row in rows], limit)

    async def latest(self, caller: Caller) -> Sequence[Approval]:
        """Those that wait no more, newest first; the last fifty. For an agent, its own."""
        caller.require(Permission.APPROVAL_READ)
        given = {"agent_id": agent_of(caller), "limit": _SHOWN_LATEST}
        async with caller.scope.transaction() as tx:
            return [Approval(**row) for row in await tx.all("approvals_latest", **given)]

    async def waiting(self, caller: Caller) -> int:
        """How many wait for a person."""
        return (await self.mark(caller))[0]

    async def mark(self, caller: Caller) -> tuple[int, str]:
        """How many wait; and a text that is another one once anything has changed."""
        caller.require(Permission.APPROVAL_READ)
        async with caller.scope.transaction() as tx:
            row = await tx.one("approvals_mark", agent_id=agent_of(caller))
        assert row is not None
        return row["waiting"], f"{row['waiting']}-{row['changed'] or 0}"

    async def get(self, caller: Caller, approval_id: UUID) -> Approval:
        """
        Raises:
            NotFound: no such approval in this company, or not of this agent.
        """
        caller.require(Permission.APPROVAL_READ)
        return approval_of(await self.row(caller, approval_id))

    async def shown(self, caller: Caller, approval_id: UUID) -> AsSent | None:
        """
        What it says, for whoever decides; None where it is no longer kept. Recorded before it is opened.

        Raises:
            NotFound: no such approval in this company.
            Tampered: what is kept is not what was asked.
        """
        caller.require(Permission.APPROVAL_DECIDE)
        row = await self.row(caller, approval_id)
        if row["request"] is None:
            return None
        sealed = await self.audit.append_and_read(
            caller.scope.company_id, row["request"], "approval.shown", actor=caller.label, **facts_of(row)
        )
        return None if sealed is None else await self.opened(caller.scope, row, sealed)

    async def approve(self, caller: Caller, approval_id: UUID, note: str = "") -> Approval:
        """
        Have it sent: once, and as it was asked. Begins at once, behind this.

        Raises:
            NotFound: no such approval in this company.
            Conflict: somebody else has decided, or its time is over (`approval_over`).
        """
        decided = await self._decide(caller, approval_id, "approved", note)
        self.approved(caller.scope, approval_id)
        return decided

    async def refuse(self, caller: Caller, approval_id: UUID, note: str = "") -> Approval:
        """
        Have it not sent. The agent is told, with the note.

        Raises:
            NotFound, Conflict: as for `approve`.
        """
        return await self._decide(caller, approval_id, "refused", note)

    async def _decide(self, caller: Caller, approval_id: UUID, state: str, note: str) -> Approval:
        caller.require(Permission.APPROVAL_DECIDE)
        note = note.strip()
        if len(note) > MOST_NOTE:
            raise WrongUsage(f"a note has at most {MOST_NOTE} characters")
        await self.row(caller, approval_id)
        async with caller.scope.transaction() as tx:
            changed = await tx.run("approval_decide", id=approval_id, state=state, by=caller.label, note=note)
            row = await tx.one("approval_get", id=approval_id, agent_id=None)
            if row is None or not changed:
                now = row["state"] if row else "gone"
                raise Conflict(
                    f"this approval is {now}: there is nothing to decide any more",
                    hint="look at it again: somebody was quicker, or its time is over",
                    code="approval_over",
                )
            await self.record(caller.scope, f"approval.{state}", caller.label, row)
        return approval_of(row)

    # — for who asks, and who sends —

    async def row(self, caller: Caller, approval_id: UUID) -> dict[str, Any]:
        """
        An approval, if it is this caller's. An agent is looked at again: it may have waited.

        Raises:
            NotFound: it is not there, or another's.
        """
        agent_id = agent_of(caller)
        async with caller.scope.transaction() as tx:
            if agent_id is not None:
                await still_holds(tx, caller)
                if await tx.one("approval_agent_is_active", agent_id=agent_id) is None:
                    raise Unauthenticated("this agent is no longer active")
            row = await tx.one("approval_get", id=approval_id, agent_id=agent_id)
        if row is None:
            raise NotFound(
                "this approval does not exist", hint="`company-agents approval list --company ID` shows them"
            )
        return row

    async def key(self, scope: CompanyScope) -> Sensitive:
        """The key of a company's digests, made at its first use."""
        found = await self.store.open_own(scope, _KEY)
        if found is None:
            try:
                async with scope.transaction() as tx:
                    await self.store.put(tx, _KEY, Sensitive(os.urandom(32)))
            except Conflict:
                # Somebody else's came first.
                pass
            found = await self.store.open_own(scope, _KEY)
        assert found is not None
        return found

    async def opened(self, scope: CompanyScope, row: Mapping[str, Any], sealed: dict[str, Any]) -> AsSent:
        """
        A request that was kept, if it is the one that was asked for.

        Raises:
            Tampered: it is another one.
        """
        asked = AsSent.opened(await self.store.open_row(sealed))
        digest = asked.digest(await self.key(scope))
        if asked.approval != row["id"] or not hmac.compare_digest(digest, bytes(row["digest"])):
            self.audit.refusal(scope.company_id, "secret.tampered", secret=row["request"], approval=row["id"])
            raise Tampered(
                "what is kept of this approval is not what was asked", hint="refuse it, and look who wrote it"
            )
        return asked

    async def record(
        self, scope: CompanyScope, action: str, actor: str | None, row: Mapping[str, Any], **facts: Any
    ) -> None:
        """Put on record what happens to an approval."""
        await self.audit.append(scope.company_id, action, actor=actor, **facts_of(row), **facts)


def facts_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Which approval, for the record."""
    return {"approval": row["id"], "integration": row["integration_id"], "agent": row["agent_id"]}


def approval_of(row: Mapping[str, Any]) -> Approval:
    """An approval as it is shown."""
    return Approval(**{name: row[name] for name in Approval.__dataclass_fields__})
