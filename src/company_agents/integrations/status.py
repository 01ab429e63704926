"""
What an integration's status is, from what was seen: by use, by probe, by a refresh, by time. And its history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.companies.scope import CompanyScope

CONNECTED = "connected"
EXPIRING = "expiring"
REFRESHING = "refreshing"
NEEDS_ATTENTION = "needs attention"

# Entries that an integration's history keeps.
KEPT = 200
LONGEST_REASON = 500

# Why there will be no further refresh unless somebody does something: a call that works for now does not undo that.
BROKEN = frozenset({"rejected", "uncertain", "gone"})

OLD_HINT = "it is older than it is meant to get: rotate it"


@dataclass(frozen=True, slots=True)
class Seen:
    """An entry of the history: since `at` the status was this, as shown by use, probe, refresh, rotation or connect."""

    version: int
    status: str
    reason: str
    seen_by: str
    at: datetime


@dataclass(frozen=True)
class Statuses:
    """The one way to an integration's status."""

    audit: AuditLog

    async def seen(
        self,
        scope: CompanyScope,
        integration_id: UUID,
        version: int,
        status: str,
        reason: str = "",
        hint: str = "",
        seen_by: str = "use",
        scopes: Sequence[str] | None = None,
    ) -> bool:
        """
        Write what a credential version has shown; see `write`.

        Raises:
            Unavailable: the database, or the audit log, cannot be written.
        """
        async with scope.transaction() as tx:
            return await self.write(tx, integration_id, version, status, reason, hint, seen_by, scopes)

    async def write(
        self,
        tx: Any,
        integration_id: UUID,
        version: int,
        status: str,
        reason: str = "",
        hint: str = "",
        seen_by: str = "use",
        scopes: Sequence[str] | None = None,
    ) -> bool:
        """
        The same in a transaction. `status_since` moves only when the status changes, and the history grows only then. Of a
        version that was replaced since, nothing is written: it says nothing of the present one. Returns whether it changed.
        """
        # In two statements: one that has waited for a lock sees every other table as it was before it waited.
        await tx.run("integration_hold", id=integration_id)
        row = await tx.one("status_now", id=integration_id)
        if row is None or row["version"] != version or stays(row, status, seen_by):
            return False
        reason = reason[:LONGEST_REASON]
        if status == CONNECTED and not hint and row["old"]:
            hint = OLD_HINT
        if (row["status"], row["reason"], row["hint"]) != (status, reason, hint) or scopes:
            shown = {"status": status, "reason": reason, "hint": hint}
            await tx.run("status_write", id=integration_id, scopes=[*scopes] if scopes else None, **shown)
        if row["status"] == status:
            return False
        await self.remember(tx, integration_id, version, status, reason, seen_by)
        if status == NEEDS_ATTENTION:
            # Committed before the status is: who listens to the log hears of it, also when this is the last line.
            facts = {"provider": row["provider"], "name": row["name"], "reason": reason, "hint": hint or None}
            await self.audit.append(
                tx.company_id,
                "integration.needs_attention",
                integration=integration_id,
                version=version,
                seen_by=seen_by,
                **facts,
            )
        return True

    async def remember(
        self, tx: Any, integration_id: UUID, version: int, status: str, reason: str, seen_by: str
    ) -> None:
        """Add to the history; the oldest entries go."""
        await tx.run(
            "history_insert",
            company_id=tx.company_id,
            integration_id=integration_id,
            version=version,
            status=status,
            reason=reason,
            seen_by=seen_by,
        )
        await tx.run("history_prune", integration_id=integration_id, kept=KEPT)

    async def history(self, scope: CompanyScope, integration_id: UUID, limit: int = 50) -> list[Seen]:
        """The newest entries, newest first. Who may see them is decided by the caller of this."""
        async with scope.transaction() as tx:
            rows = await tx.all("history_list", integration_id=integration_id, limit=min(limit, KEPT))
        return [Seen(**row) for row in rows]


def stays(row: dict[str, Any], status: str, seen_by: str) -> bool:
    """
    Whether the status that is written outweighs what was seen: each source speaks of what it can know.
    """
    present, broken = row["status"], row["refresh_problem"] in BROKEN
    if seen_by in ("connect", "rotation"):
        return False
    if status == CONNECTED:
        if row["ends_soon"] and present == EXPIRING:
            # It works, and ends all the same.
            return True
        if seen_by == "refresh":
            # A new token is no proof that the provider takes it, where a call or a probe has shown that it does not.
            return bool(present == NEEDS_ATTENTION and row["seen_by"] in ("use", "probe"))
        return bool(present == NEEDS_ATTENTION and broken)
    if status == NEEDS_ATTENTION and seen_by in ("use", "probe"):
        # Why it cannot be renewed says more than that it is refused.
        return bool(present == NEEDS_ATTENTION and broken)
    if status == EXPIRING:
        return bool(present == NEEDS_ATTENTION)
    if status == REFRESHING:
        return present not in (CONNECTED, EXPIRING)
    return False
