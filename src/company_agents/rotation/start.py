"""
At start: the key source and the database are compared. There is no fallback: without the right key nothing starts.
"""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from company_agents.crypto.keyring import KeyRing, MasterKey
from company_agents.db.database import Database, Row, Tx
from company_agents.errors import Busy, MayNotStart, Unavailable
from company_agents.keysources.base import KeySource
from company_agents.keysources.failures import SourceReadOnly, read_only
from company_agents.keysources.file import FileSource
from company_agents.keysources.found import Found
from company_agents.rotation.claim import check_owner, claim

# States in which a key is needed for opening. A staged one may be lost (nothing is sealed under it yet), and a
# destroying one may be gone already.
NEEDED = ("active", "retiring", "archived")


async def unlock(db: Database, source: KeySource, instance: UUID, *, gone: str | None = None) -> KeyRing:
    """
    The ring, once every key that a row may need is in it, and the source is this instance's. On an instance with an
    empty database the first key is created in a file, or adopted where an operator put one. `gone` is an archived key
    that an operator gives up; others of its kind may be missing then too, and are given up after it.

    Raises:
        MayNotStart: a key is missing, wrong, not ours, or may not be used, or the source is out of reach; the code says
            which.
        Busy: another process starts, and takes long.
    """
    try:
        async with db.instance_transaction() as tx:
            # Two first starts at once must not make two first keys.
            await tx.one("starts_wait_time")
            await tx.one("master_keys_lock")
            # Whoever waited for a restore to end has another instance before it than it was started for.
            present = await tx.one("instance_get")
            if present is not None and present["id"] != instance:
                raise Busy("the instance was restored just now", hint="start again", code="instance_restored")
            registered = await tx.all("master_keys_list")
            found = await source.read()
            formers = [row["id"] for row in await tx.all("restore_source_owners")]
            check_owner(source, found, instance, formers)
            if not registered:
                return (await _first(tx, source, found, instance, formers)).ring
            missing = _missing(registered, found, gone)
            if missing:
                # Once more: a copy may have been under way. And then the states: what a prune destroys it marks before.
                before, found = registered, await source.read()
                registered = await tx.all("master_keys_list")
                missing = [k for k in _missing(registered, found, gone) if k in _missing(before, found, gone)]
            _check(registered, found, missing, source)
            # Not before: a place that does not have our keys is not ours, and may be somebody else's.
            found = await claim(source, found, instance, new=False, formers=formers)
            if found.owner == instance and formers:
                await tx.run("restore_source_taken")
            if await _reconcile(tx, source, registered, found):
                found = await source.read()
            return found.ring
    except (Unavailable, SourceReadOnly) as error:
        raise MayNotStart(error.sentence, hint=error.hint, code=error.reason) from error


async def _first(tx: Tx, source: KeySource, found: Found, instance: UUID, formers: Collection[UUID]) -> Found:
    row = await tx.one("instance_has_rows")
    assert row is not None
    if row["found"]:
        raise MayNotStart(
            "the database has rows, and no master key is registered for them",
            hint="restore the database and the key of one time",
            code="key_missing",
        )
    if len(found.keys) > 1 and not row["restored"]:
        raise MayNotStart(
            "the key source holds several keys, and the database is empty",
            hint="point MASTER_KEY_PATH elsewhere, or restore the database that these keys belong to",
            code="key_not_ours",
        )
    if not found.keys and not isinstance(source, FileSource):
        raise MayNotStart(
            f"there is no master key at {source.address}",
            hint="`company-agents key init` makes one there, or put one there yourself: docs/master-key.md",
            code="key_missing",
        )
    found = await claim(source, found, instance, new=True, formers=formers)
    key = found.current or (found.keys[0] if found.keys else MasterKey.generate())
    return await first_key(tx, source, found, key)


async def first_key(tx: Tx, source: KeySource, found: Found, key: MasterKey) -> Found:
    """Give a new instance its first key. Returns the source as it is then."""
    if found.owner is None and key not in found.keys:
        raise read_only(source.address)
    if found.owner is not None:
        # By its id first, then as the hint, and registered last: killed in between, the next start adopts it.
        await source.add(key, found)
        found = await source.read()
        await source.make_current(key.key_id, found)
        found = await source.read()
        if key.key_id not in found.kept:
            raise MayNotStart(
                f"the key source {source.address} took the key and does not have it", code="key_source_lost"
            )
    # Else the source may only be read, and the key stays as it was put there.
    await tx.run("master_key_first", key_id=key.key_id, source=source.address)
    return found


async def _reconcile(tx: Tx, source: KeySource, registered: list[Row], found: Found) -> bool:
    """
    Let the states say what the source has, whenever they disagree: after a kill, a restore, or when the database went
    back in time. Returns whether anything was changed.
    """
    moved = await _other_server(tx)
    if not (any(_differences(registered, found)) or moved):
        return False
    lock = await tx.one("rotator_lock_now")
    if lock is None or not lock["taken"]:
        # A rotation is under way, which is why they differ; it sees to it.
        return False
    await tx.one("fence_take")
    # Once more, now that nobody rotates: one may have ended since, and its hint is not to be set back.
    registered, found = await tx.all("master_keys_list"), await source.read()
    unknown, lost, other_hint = _differences(registered, found)
    active = next(row["key_id"] for row in registered if row["state"] == "active")
    bare = found.current is not None and found.current.key_id not in found.kept
    for key_id in unknown:
        # Never pruned by itself: which copy of the database needs it, nobody here knows.
        await tx.run("master_key_adopt", key_id=key_id, source=source.address)
    for key_id in lost:
        await tx.run("master_key_drop_staged", key_id=key_id)
    if moved:
        # This may be a copy beside the original, which still needs what is archived here, now or later.
        await tx.run("master_keys_without_end")
        await tx.run("instance_server_set", server=moved)
    if other_hint:
        try:
            if bare and found.current is not None:
                # Somebody put another key of ours there, and that may be the only copy.
                await source.add(found.current, found)
                found = await source.read()
            if active not in found.kept:
                await source.add(found.ring.get(active), found)
                found = await source.read()
            await source.make_current(active, found)
        except (SourceReadOnly, Busy):
            # It is for people; nothing hangs on it.
            return True
    return True


def _differences(registered: list[Row], found: Found) -> tuple[list[str], list[str], bool]:
    """The keys that only the source has, the staged ones that it has not, and whether its hint names another key."""
    states = {row["key_id"]: row["state"] for row in registered}
    unknown = [key.key_id for key in found.keys if states.get(key.key_id, "destroyed") == "destroyed"]
    lost = [key_id for key_id, state in states.items() if state == "staged" and key_id not in found.ring]
    hinted = states.get(found.current.key_id) if found.current is not None else None
    return unknown, lost, found.owner is not None and hinted != "active"


async def _other_server(tx: Tx) -> str | None:
    """The server that this database is on now, if it is another one than last time, or has another history."""
    row = await tx.one("instance_server")
    assert row is not None
    if row["before"] == row["now"]:
        return None
    if row["before"] is None:
        await tx.run("instance_server_set", server=row["now"])
        return None
    return str(row["now"])


def _missing(registered: list[Row], found: Found, gone: str | None) -> list[str]:
    return [
        row["key_id"]
        for row in registered
        if row["state"] in NEEDED
        and row["key_id"] not in found.ring
        and not (gone is not None and row["state"] == "archived")
    ]


def _check(registered: list[Row], found: Found, missing: list[str], source: KeySource) -> None:
    states = {row["key_id"]: row["state"] for row in registered}
    active = next((row["key_id"] for row in registered if row["state"] == "active"), None)
    current = found.current
    if active is None:
        raise MayNotStart("no master key is active", hint="restore the database from a backup", code="key_missing")
    if current is not None and current.key_id not in states and current.key_id not in found.kept:
        raise MayNotStart(
            f"the master key at {source.address} is {current.key_id}, which is not this instance's",
            hint=f"put the key {active} there; a copy may lie beside it in keys/",
            code="key_wrong",
        )
    if missing:
        archived = states[missing[0]] == "archived"
        raise MayNotStart(
            f"the {'archived' if archived else 'master'} key {missing[0]} is missing at {source.address}",
            hint="put it back; nothing sealed with it opens without it"
            + (f". If it was pruned for good: `company-agents key prune --gone {missing[0]}`" if archived else ""),
            code="key_missing",
        )
    if current is None and isinstance(source, FileSource):
        raise MayNotStart(
            f"there is no master key at {source.address}",
            hint=f"put the key {active} back; a copy may lie beside it in keys/",
            code="key_missing",
        )
