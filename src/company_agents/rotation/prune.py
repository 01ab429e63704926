"""
Destroying keys that nothing needs any more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from company_agents.audit.log import AuditLog
from company_agents.db.database import Database, Row
from company_agents.errors import Busy, NotFound, Refused, Unavailable
from company_agents.keysources.base import KeySource
from company_agents.rotation.claim import check_owner
from company_agents.rotation.fence import Fence, overtaken
from company_agents.rotation.record import record_states
from company_agents.secret_store.audit_keys import AuditKeys
from company_agents.secret_store.keys import HeldKeys


@dataclass(frozen=True, slots=True)
class Kept:
    """A key that was not destroyed, and why."""

    key_id: str
    why: str


@dataclass(slots=True)
class Pruned:
    """Keys that were destroyed, and those that were kept. `after_destroy`: what the source says remains."""

    destroyed: list[str] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    after_destroy: str = ""


@dataclass(frozen=True)
class Pruner:
    """Prunes."""

    db: Database
    source: KeySource
    held: HeldKeys
    audit: AuditLog
    audit_keys: AuditKeys
    # Compares what is known of backups with what lies in their place.
    look: Callable[[], Awaitable[object]]

    async def prune(self, key_id: str | None, who: str) -> Pruned:
        """
        Destroy every archived key whose time is over, or the one that is named: that may also be one without an end.
        A key that a row or a backup needs is never destroyed. What was begun is finished.

        Raises:
            NotFound: no key of this id.
            Refused: the key that is named is needed, or its time is not over.
            SourceReadOnly: nothing can be taken away there.
            Busy: somebody else rotates or prunes, or a backup is being made.
        """
        # What became of a key that goes now could not be said any more afterwards.
        await record_states(self.db, self.audit, self.audit_keys, who=who)
        # One that nobody has told of may need a key. Where the place is out of reach, what is known of it counts.
        with contextlib.suppress(Unavailable):
            await self.look()
        async with Fence.taken(self.db) as fence:
            async with fence.step("prune") as tx:
                await tx.all("backups_let_go")
                states = await tx.all("master_keys_list")
                rows = {row["key_id"]: row["rows"] for row in await tx.all("secrets_by_key")}
                backups = await tx.all("backups_list")
            if any(backup["state"] == "running" for backup in backups):
                raise Busy("a backup is being made, which may need every key", hint="try again when it is done")
            if key_id is not None and key_id not in {row["key_id"] for row in states}:
                raise NotFound("there is no key of this id", hint="`company-agents key status` shows them")
            found = await self.source.read()
            check_owner(self.source, found, self.audit.instance_id)
            await self.source.check_writable(found)
            result = Pruned()
            for row in states:
                if row["state"] == "destroyed" or (key_id is not None and row["key_id"] != key_id):
                    continue
                why = _why_kept(row, rows.get(row["key_id"], 0), backups, named=key_id is not None)
                if why is None:
                    await destroy(fence, self.source, self.held, self.audit, row["key_id"])
                    result.destroyed.append(row["key_id"])
                    result.after_destroy = self.source.after_destroy
                elif key_id is not None:
                    raise Refused(f"the key {key_id} is kept: {why}", hint="nothing was changed", code="key_needed")
                else:
                    result.kept.append(Kept(row["key_id"], why))
        await record_states(self.db, self.audit, self.audit_keys, who=who)
        return result

    async def forget(self, key_id: str, who: str) -> None:
        """
        Note that an archived key is gone from the source for good, as after a database has gone back to before it was
        pruned.

        Raises:
            NotFound: no archived key of this id.
            Refused: a row needs it, or the source has it.
        """
        async with Fence.taken(self.db) as fence:
            if key_id in (await self.source.read()).ring:
                raise Refused("the source has this key", hint="`company-agents key prune --id` destroys it")
            async with fence.step("prune") as tx:
                if not any(
                    r["key_id"] == key_id and r["state"] == "archived" for r in await tx.all("master_keys_list")
                ):
                    raise NotFound("there is no archived key of this id", hint="`company-agents key status` shows them")
                if await tx.run("master_key_gone", key_id=key_id) != 1:
                    raise Refused(f"secrets need the key {key_id}", hint="put it back", code="key_needed")
        await record_states(self.db, self.audit, self.audit_keys, who=who)


async def destroy(fence: Fence, source: KeySource, held: HeldKeys, audit: AuditLog, key_id: str) -> None:
    """
    Destroy an archived key that nothing needs: *destroying* is committed first, so that a start knows why it is missing.

    Raises:
        Overtaken: somebody else has taken the fence, or something needs the key after all.
    """
    async with fence.step("destroy") as tx:
        if await tx.run("master_key_destroying", key_id=key_id) != 1:
            raise overtaken()
    seen = await source.read()
    check_owner(source, seen, audit.instance_id)
    await fence.check("destroy")
    await source.destroy(key_id, seen)
    async with fence.step("destroy") as tx:
        if await tx.run("master_key_destroyed", key_id=key_id) != 1:
            raise overtaken()
    held.drop(key_id)


def _why_kept(row: Row, rows: int, backups: list[Row], *, named: bool) -> str | None:
    needing = [backup["file"] for backup in backups if backup["state"] != "gone" and row["key_id"] in backup["key_ids"]]
    if row["state"] == "destroying":
        return None
    if row["state"] != "archived":
        return f"it is {row['state']}"
    if rows:
        return f"{rows} secret{'s need' if rows > 1 else ' needs'} it; `company-agents key rotate --finish` moves them"
    if needing and row["compromised_at"] is None:
        return f"the backup {needing[0]} needs it" + (f", and {len(needing) - 1} more" if len(needing) > 1 else "")
    if row["ends_at"] is None:
        return None if named else "it has no end: prune it by its id, once no copy of the database needs it"
    if row["ends_at"] > datetime.now(UTC):
        return f"its grace period ends at {row['ends_at']:%Y-%m-%d %H:%M}Z"
    return None
