"""
What became of a key goes into the audit log, also when the process died between the change and the record: a change
leaves a mark in its own transaction, and the mark goes when the event is committed. So an event may stand twice, never
not at all.
"""

from __future__ import annotations

from typing import Any

from company_agents.audit.log import AuditLog
from company_agents.db.database import Database, Row
from company_agents.secret_store.audit_keys import AuditKeys


async def record_states(db: Database, audit: AuditLog, audit_keys: AuditKeys, *, who: str = "start") -> None:
    """
    Write down every change that is not written down yet. With a rotation the audit key is renewed: whoever has the old
    master key has the audit keys that it sealed.

    Raises:
        Unavailable: it could not be written.
    """
    async with db.instance_transaction() as tx:
        states = await tx.all("master_keys_list")
        rows = {row["key_id"]: row["rows"] for row in await tx.all("secrets_by_key")}
    active = next((row for row in states if row["state"] == "active"), None)
    for row in states:
        event = None if row["recorded"] else _event(row, rows.get(row["key_id"], 0), active, first=len(states) == 1)
        if event is None:
            continue
        action, facts = event
        if action == "key.rotated":
            await audit_keys.renew()
        await audit.append(None, action, actor=who, key=row["key_id"], **facts)
        async with db.instance_transaction() as tx:
            await tx.run("master_key_recorded", key_id=row["key_id"], state=row["state"])


def _event(row: Row, rows: int, active: Row | None, *, first: bool) -> tuple[str, dict[str, Any]] | None:
    """What there is to say of a key, by the state that it came to."""
    if row["state"] == "active":
        # The chain of a new instance begins with its key.
        return ("key.created" if first else "key.activated"), {"source": row["source"]}
    if row["state"] == "destroyed":
        return "key.destroyed", {"source": row["source"]}
    if row["state"] != "archived":
        return None
    if row["activated_at"] is None or active is None:
        return "key.adopted", {"source": row["source"], "rows": rows}
    return "key.rotated", {
        "new_key": active["key_id"],
        "rows": active["rewrapped"],
        "rows_left": rows,
        "switched_at": active["activated_at"],
        "archived_at": row["archived_at"],
        "ends_at": row["ends_at"],
        "compromised": bool(row["compromised_at"]),
    }
