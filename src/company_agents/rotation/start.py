"""
At start: the key source and the database are compared. There is no fallback: without the right key nothing starts.
"""

from __future__ import annotations

from typing import Any

from company_agents.audit.log import AuditLog
from company_agents.crypto.keyring import KeyRing, MasterKey
from company_agents.db.database import Database, Tx
from company_agents.errors import MayNotStart
from company_agents.keysources.base import KeySource
from company_agents.keysources.found import Found

# States in which a key is needed for opening. A staged one may be lost (nothing is sealed under it yet), and a
# destroying one may be gone already.
NEEDED = ("active", "retiring", "archived")


async def unlock(db: Database, source: KeySource) -> KeyRing:
    """
    The ring, once every key that a row may need is in it. On an instance with an empty database the first key is
    created, or adopted where an operator put one.

    Raises:
        MayNotStart: a key is missing, wrong, not ours, or may not be used; the code says which.
    """
    async with db.instance_transaction() as tx:
        # Two first starts at once must not make two first keys.
        await tx.one("master_keys_lock")
        registered = await tx.all("master_keys_list")
        found = await source.read()
        if not registered:
            return await _first(tx, source, found)
        missing = _missing(registered, found)
        if missing:
            # Once more: a copy may have been under way.
            found = await source.read()
            missing = _missing(registered, found)
        _check(registered, found, missing, source)
        active = next(row["key_id"] for row in registered if row["state"] == "active")
        if found.current is not None and found.current.key_id != active:
            # A rotation was killed before it wrote the hint; or somebody put another key of ours there, and
            # that may be the only copy.
            if found.current.key_id in {row["key_id"] for row in registered if row["state"] in NEEDED}:
                await source.add(found.current, found)
            await source.make_current(active, found)
        return KeyRing(found.keys)


async def record_first_key(db: Database, audit: AuditLog) -> None:
    """
    Let the chain of a new instance begin with its key. Not where the key is made: the key of the chain is sealed under
    it. After a kill in between, the chain is still empty at the next start.

    Raises:
        Unavailable: it could not be written.
    """
    async with db.transaction(None) as tx:
        if await tx.one("audit_head", chain=audit.instance_id) is not None:
            return
        first = (await tx.all("master_keys_list"))[0]
    await audit.append(None, "key.created", key=first["key_id"], source=first["source"])


async def _first(tx: Tx, source: KeySource, found: Found) -> KeyRing:
    row = await tx.one("instance_has_rows")
    if row is not None and row["found"]:
        raise MayNotStart(
            "the database has rows, and no master key is registered for them",
            hint="restore the database and the key of one time",
            code="key_missing",
        )
    if len(found.keys) > 1:
        raise MayNotStart(
            "the key source holds several keys, and the database is empty",
            hint="point MASTER_KEY_PATH elsewhere, or restore the database that these keys belong to",
            code="key_not_ours",
        )
    key = found.keys[0] if found.keys else MasterKey.generate()
    # By its id first, then as the hint, and registered last: killed in between, the next start adopts it.
    await source.add(key, found)
    await source.make_current(key.key_id, found)
    await tx.run("master_key_first", key_id=key.key_id, source=source.address)
    return KeyRing((key,))


def _missing(registered: list[dict[str, Any]], found: Found) -> list[str]:
    ring = {key.key_id for key in found.keys}
    return [row["key_id"] for row in registered if row["state"] in NEEDED and row["key_id"] not in ring]


def _check(registered: list[dict[str, Any]], found: Found, missing: list[str], source: KeySource) -> None:
    known = {row["key_id"] for row in registered}
    active = next((row["key_id"] for row in registered if row["state"] == "active"), None)
    if active is None:
        raise MayNotStart("no master key is active", hint="restore the database from a backup", code="key_missing")
    if found.current is not None and found.current.key_id not in known:
        raise MayNotStart(
            f"the master key at {source.address} is {found.current.key_id}, which is not this instance's",
            hint=f"put the key {active} there; a copy may lie beside it in keys/",
            code="key_wrong",
        )
    if missing:
        raise MayNotStart(
            f"the master key {missing[0]} is missing at {source.address}",
            hint="put it back; nothing sealed with it opens without it",
            code="key_missing",
        )
    if found.current is None:
        raise MayNotStart(
            f"there is no master key at {source.address}",
            hint=f"put the key {active} back; a copy may lie beside it in keys/",
            code="key_missing",
        )
