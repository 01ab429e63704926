"""
Reading a chain back and proving it.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from company_agents.audit.chain import START, link
from company_agents.db.database import Tx
from company_agents.sensitive import Sensitive


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a chain, at one event."""

    chain: UUID
    seq: int
    what: str


@dataclass(frozen=True, slots=True)
class Verified:
    """How many events of a chain were read, and what is wrong with it."""

    chain: UUID
    events: int
    faults: tuple[Fault, ...]
    # Events whose audit key did not come back with a restore: nobody can prove them any more.
    unproved: int = 0


async def verify_chain(
    tx: Tx, chain: UUID, keys: dict[int, Sensitive], lost: int = 0, most_faults: int = 20
) -> Verified:
    """
    `lost`: audit keys up to this number were left out by a restore without secrets.

    Follow a chain from its first event: one that was edited, deleted, reordered or inserted is named. What
    cannot be seen here is a chain that was cut at its end together with its head: compare with a copy of
    the head that was kept elsewhere. The transaction is to see one moment (`audit_one_moment`): else an event
    that is appended between the reading of the chain and that of its head would look like one that is missing.
    """
    faults: list[Fault] = []
    seq, mac, number = 0, START, 0
    unproved = 0
    async for row in tx.stream("audit_chain", chain=chain):
        expected = seq + 1
        if row["seq"] != expected:
            missing = (
                "it is missing" if row["seq"] == expected + 1 else f"it and all up to {row['seq'] - 1} are missing"
            )
            faults.append(Fault(chain, expected, missing))
            # The link to what is missing cannot be checked: go on from what this event says of itself.
        elif (key := keys.get(row["audit_key"])) is None:
            if row["audit_key"] <= lost:
                unproved += 1
            else:
                faults.append(Fault(chain, row["seq"], "it names an audit key that does not exist"))
        elif row["audit_key"] < number:
            faults.append(Fault(chain, row["seq"], "it is linked with an audit key that was replaced before"))
        elif not hmac.compare_digest(link(key, chain, row["seq"], mac, row["record"]), row["mac"]):
            faults.append(Fault(chain, row["seq"], "it is not what was written, or not in its place"))
        seq, mac, number = row["seq"], row["mac"], max(number, row["audit_key"])
        if len(faults) >= most_faults:
            return Verified(chain, seq, tuple(faults), unproved)
    head = await tx.one("audit_head", chain=chain)
    if (head["seq"], head["mac"]) != (seq, mac) if head else seq > 0:
        faults.append(
            Fault(chain, seq + 1, "the chain does not end where its head says: events are missing at the end")
        )
    return Verified(chain, seq, tuple(faults), unproved)


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """An event for people and programs."""
    # Its number comes first, and what the record says of a number does not count.
    record: dict[str, Any] = json.loads(row["record"])
    return {"seq": 0} | record | {"seq": row["seq"]}


async def newest(tx: Tx, chain: UUID, *, limit: int, before: int | None = None) -> list[dict[str, Any]]:
    """The newest events of a chain, newest first."""
    return [shown(row) for row in await tx.all("audit_newest", chain=chain, limit=limit, before=before)]


async def following(tx: Tx, chain: UUID, after: int) -> AsyncIterator[dict[str, Any]]:
    """The events of a chain after one, oldest first."""
    for row in await tx.all("audit_after", chain=chain, after=after):
        yield shown(row)
