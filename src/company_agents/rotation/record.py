"""
What became of a key goes into the audit log, also when the process died between the change and the record: a change
leaves a mark in its own transaction, and the mark goes when the event is committed. So an event may stand twice, never
not at all.
"""

from __future__ import annotations

from company_agents.audit.log import AuditLog
from company_agents.db.database import Database

# By the state that a key came to.
_ACTIONS = {"active": "key.activated", "archived": "key.archived", "destroyed": "key.destroyed"}


async def record_states(db: Database, audit: AuditLog, *, who: str = "start") -> None:
    """
    Write down every change that is not written down yet.

    Raises:
        Unavailable: it could not be written.
    """
    async with db.instance_transaction() as tx:
        states = await tx.all("master_keys_list")
        rows = {row["key_id"]: row["rows"] for row in await tx.all("secrets_by_key")}
    active = next((row["key_id"] for row in states if row["state"] == "active"), None)
    for row in states:
        if row["recorded"] or row["state"] not in _ACTIONS:
            continue
        # The chain of a new instance begins with its key.
        first = row["state"] == "active" and len(states) == 1
        facts = {"actor": who, "key": row["key_id"], "source": row["source"], "rows": rows.get(row["key_id"], 0)}
        if row["state"] == "active":
            facts |= {"rewrapped": row["rewrapped"]}
        if row["state"] == "archived":
            facts |= {"active": active, "ends_at": row["ends_at"], "compromised": bool(row["compromised_at"])}
        await audit.append(None, "key.created" if first else _ACTIONS[row["state"]], **facts)
        async with db.instance_transaction() as tx:
            await tx.run("master_key_recorded", key_id=row["key_id"], state=row["state"])
