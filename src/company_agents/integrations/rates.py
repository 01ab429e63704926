"""
How often an agent may call an integration: counted by the database, in minutes of its clock, over all orchestrators.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from company_agents.errors import TooMany

MINUTE = 60


async def count(tx: Any, found: Mapping[str, Any], agent_id: UUID) -> None:
    """
    Count one call, where there is a limit; in the transaction in which the integration was found. One that is refused does
    not count.

    Raises:
        TooMany: the agent has made its calls of this minute.
    """
    limit = found["per_minute"]
    if not limit:
        return
    which = {"company_id": tx.company_id, "integration_id": found["id"], "agent_id": agent_id}
    row = await tx.one("call_count", **which)
    if row["calls"] > limit:
        raise TooMany(
            f"this agent may call this integration {limit} times a minute, and has",
            retry_after=min(max(row["seconds_left"], 1), MINUTE),
        )
