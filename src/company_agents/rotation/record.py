"""
What became of a key goes into the audit log, also when the process died between the change and the record: a change
leaves a mark in its own transaction, and the mark goes when the event is committed. So an event may stand twice, never
not at all.
"""

from __future__ import annotations

import asyncio
from typing import Any

from company_agents.audit.log import AuditLog
from company_agents.db.database import Database, Row
from company_agents.secret_store.audit_keys import AuditKeys

# As many events go with one statement of the committer, at most.
CHAINS_AT_ONCE = 200


async def record_states(db: Database, audit: AuditLog, audit_keys: AuditKeys, *, who: str = "start") -> None:
    """
    Write down every change that is not written down yet. With a rotation the audit key is renewed: whoever has the old
    master key has the audit keys that it sealed.

    Raises:
        Unavailable: it could not be written.
    """
    async with db.instance_transaction() as tx:
        states = await tx.all("master_keys_list")
        if all(row["recorded"] for row in states):
            return
        rows = {row["key_id"]: row["rows"] for row in await tx.all("secrets_by_key")}
    active = next((row for row in states if row["state"] == "active"), None)
    for row in states:
        events = [] if row["recorded"] else _events(row, rows.get(row["key_id"], 0), active, first=len(states) == 1)
        for action, facts in events:
            if action == "key.rotated":
                await _renew(db, audit, audit_keys)
            await audit.append(None, action, actor=who, key=row["key_id"], **facts)
        if not events:
            continue
        async with db.instance_transaction() as tx:
            await tx.run("master_key_recorded", key_id=row["key_id"], state=row["state"])


async def _renew(db: Database, audit: AuditLog, audit_keys: AuditKeys) -> None:
    """A new audit key, and an event under it in each company's chain, which holds fast what stands before it."""
    number = await audit_keys.renew()
    async with db.instance_transaction() as tx:
        chains = [row["chain"] for row in await tx.all("audit_chains_before", number=number)]
    for start in range(0, len(chains), CHAINS_AT_ONCE):
        some = chains[start : start + CHAINS_AT_ONCE]
        events = (audit.append(chain, "audit.key_renewed", number=number) for chain in some)
        await asyncio.gather(*events)


def _events(row: Row, rows: int, active: Row | None, *, first: bool) -> list[tuple[str, dict[str, Any]]]:
    """What there is to say of a key, by the state that it came to."""
    source = {"source": row["source"]}
    if row["state"] == "active":
        # The chain of a new instance begins with its key.
        return [("key.created" if first else "key.activated", source)]
    if row["state"] == "destroyed":
        # One that got out is destroyed by the rotation itself: it was archived for a moment only, which nobody wrote down.
        destroyed = ("key.destroyed", source)
        if row["compromised_at"] is None or row["activated_at"] is None or active is None:
            return [destroyed]
        return [_rotated(row, rows, active), destroyed]
    if row["state"] != "archived":
        return []
    if row["activated_at"] is None or active is None:
        return [("key.adopted", {**source, "rows": rows})]
    return [_rotated(row, rows, active)]


def _rotated(row: Row, rows: int, active: Row) -> tuple[str, dict[str, Any]]:
    return "key.rotated", {
        "new_key": active["key_id"],
        "rows": active["rewrapped"],
        "rows_left": rows,
        "switched_at": active["activated_at"],
        "archived_at": row["archived_at"],
        "ends_at": row["ends_at"],
        "compromised": bool(row["compromised_at"]),
    }
