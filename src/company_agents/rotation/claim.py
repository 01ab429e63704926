"""
Whose a key source is. Two instances that shared one would prune each other's keys.
"""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from company_agents.errors import MayNotStart
from company_agents.keysources.base import KeySource
from company_agents.keysources.failures import SourceChanged, SourceReadOnly
from company_agents.keysources.found import Found


def check_owner(source: KeySource, found: Found, instance: UUID, formers: Collection[UUID] = ()) -> None:
    """
    See that it is ours, or in a name that was ours before a restore.

    Raises:
        MayNotStart: the source is another instance's.
    """
    if found.owner not in (None, instance, *formers):
        raise MayNotStart(
            f"the key source {source.address} belongs to the instance {found.owner}, and this is {instance}",
            hint="use another source; if that instance is gone for good, or this is its copy that takes its place: "
            "`company-agents key init --take-over-source` locks the other one out",
            code="key_source_claimed",
        )


async def claim(source: KeySource, found: Found, instance: UUID, *, new: bool, formers: Collection[UUID] = ()) -> Found:
    """
    Make the source ours, if it is nobody's. One that may only be read is used as it is, and never written.

    Raises:
        MayNotStart: it is another's; or two could claim it at once, so that an operator must say whose it is.
    """
    check_owner(source, found, instance, formers)
    if found.owner == instance:
        return found
    try:
        await source.check_writable(found)
        if not source.claims_alone and found.owner is None:
            raise MayNotStart(
                f"the key source {source.address} belongs to no instance yet",
                hint=f"`company-agents key init{' --adopt' if found.keys or not new else ''}` makes it this one's",
                code="key_source_unclaimed",
            )
        await source.claim(instance, found)
    except SourceReadOnly:
        return found
    except SourceChanged:
        # Another instance may have been faster.
        found = await source.read()
        check_owner(source, found, instance)
        if found.owner is None:
            raise
        return found
    return await source.read()
