"""
A restore goes into the audit log, also where the process died between the commit and the record.
"""

from __future__ import annotations

from company_agents.audit.log import AuditLog
from company_agents.db.database import Database


async def record_restores(db: Database, audit: AuditLog) -> None:
    """
    Write down every restore that is not written down yet: the first event under the new name of the instance.

    Raises:
        Unavailable: it could not be written.
    """
    async with db.transaction(None) as tx:
        rows = await tx.all("restore_unrecorded")
    for row in rows:
        facts = {name: row[name] for name in ("backup_id", "taken_at", "restored_at", "without_secrets")}
        await audit.append(None, "instance.restored", actor="restore", former=row["id"], **facts)
        async with db.instance_transaction() as tx:
            await tx.run("restore_recorded", id=row["id"])
