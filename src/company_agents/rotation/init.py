"""
The first key of an instance, in a source that does not make one by itself; and whose a source is, said by an operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from company_agents.crypto.keyring import MasterKey
from company_agents.db.database import Database
from company_agents.errors import Conflict, MayNotStart
from company_agents.keysources.base import KeySource
from company_agents.rotation.start import first_key


@dataclass(frozen=True, slots=True)
class Initialized:
    """The key that is active now; whether it was made just now, and from whom the source was taken over."""

    key_id: str
    source: str
    created: bool
    taken_over_from: UUID | None


async def initialize(db: Database, source: KeySource, instance: UUID, *, adopt: bool, take_over: bool) -> Initialized:
    """
    Claim the source for this instance and, where it has no key yet, create its first one there. `adopt` takes a key that
    an operator put there; `take_over` takes the source from the instance that has it, which then cannot start any more.

    Raises:
        Conflict: there is a key already, here or there.
        MayNotStart: the source is another instance's, its keys are not those of the database, or the database has rows
            that no new key would open.
        SourceReadOnly: nothing can be written there.
        SourceChanged: another instance was faster.
    """
    async with db.instance_transaction() as tx:
        await tx.one("starts_wait_time")
        await tx.one("master_keys_lock")
        registered = await tx.all("master_keys_list")
        found = await source.read()
        former = found.owner if found.owner != instance else None
        if former is not None and not take_over:
            raise Conflict(
                f"the key source {source.address} belongs to the instance {former}",
                hint="--take-over-source makes it this one's, and locks that one out for good",
                code="key_source_claimed",
            )
        if found.keys and not (adopt or former is not None or found.owner == instance):
            raise Conflict(
                f"there is a key at {source.address} already",
                hint="--adopt takes it for this instance",
                code="key_there",
            )
        if registered and found.owner == instance:
            raise Conflict(
                "this instance has a master key, and its source is its own",
                hint="`company-agents key rotate` brings a new one",
                code="key_there",
            )
        active = next((row["key_id"] for row in registered if row["state"] == "active"), None)
        if registered and active not in found.ring:
            raise MayNotStart(
                f"the master key {active} of this instance is not at {source.address}",
                hint="put it there first; docs/master-key.md says how a key moves to another source",
                code="key_missing",
            )
        row = await tx.one("instance_has_rows")
        if not registered and row is not None and row["found"]:
            raise MayNotStart(
                "the database has rows, and no master key is registered for them",
                hint="restore the database and the key of one time",
                code="key_missing",
            )
        if not registered and len(found.keys) > 1:
            raise MayNotStart(
                "the key source holds several keys, and this instance is new",
                hint="use another source, or restore the database that these keys belong to",
                code="key_not_ours",
            )
        await source.check_writable(found)
        if found.owner != instance:
            await source.claim(instance, found)
            found = await source.read()
        if active is not None:
            return Initialized(active, source.address, False, former)
        key = found.keys[0] if found.keys else MasterKey.generate()
        await first_key(tx, source, found, key)
        return Initialized(key.key_id, source.address, key not in found.keys, former)
