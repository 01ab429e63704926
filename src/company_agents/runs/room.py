"""
How many runs there may be: under way at once, of an agent and of a company, and waiting.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from company_agents.db.database import Tx
from company_agents.errors import TooMany
from company_agents.identity.limits import Limits, lower
from company_agents.runs.model import LEASE

# Runs of one agent under way at once, whatever its limits: each holds credentials, and one that opens them in a loop is out
# of order.
MOST_RUNNING = 100
# Runs of one agent that wait.
MOST_QUEUED = 1000


@dataclass(frozen=True, slots=True)
class Room:
    """How many more runs of an agent may be under way, and why no more than that."""

    left: int
    why: str


async def room(tx: Tx, agent_id: UUID) -> Room:
    """Counted under a lock of the company's, to the end of the transaction: nobody else begins a run of it meanwhile."""
    # In a statement of its own: only what comes after it sees what was committed while it waited.
    await tx.run("runs_hold", company_id=tx.company_id)
    limits = await Limits.of(tx, agent_id)
    counts = await tx.one("runs_under_way", agent_id=agent_id)
    assert counts is not None
    most = lower(limits.agent.runs_at_once, MOST_RUNNING) or MOST_RUNNING
    found = Room(most - counts["of_agent"], f"this agent has {counts['of_agent']} runs under way, and may have no more")
    of_company = limits.company.runs_at_once
    if of_company is not None and of_company - counts["of_company"] < found.left:
        said = f"this company has {counts['of_company']} runs under way, and may have no more"
        return Room(of_company - counts["of_company"], said)
    return found


async def check_room(tx: Tx, agent_id: UUID) -> None:
    """
    Raises:
        TooMany: the agent, or its company, has as many runs under way as it may.
    """
    found = await room(tx, agent_id)
    if found.left <= 0:
        hint = "finish those that are done, or end them with `company-agents run cancel`"
        raise TooMany(found.why, retry_after=LEASE, hint=hint)


async def check_queue(tx: Tx, agent_id: UUID) -> None:
    """
    Raises:
        TooMany: the agent has as many runs waiting as it may.
    """
    row = await tx.one("runs_waiting", agent_id=agent_id)
    assert row is not None
    if row["count"] >= MOST_QUEUED:
        raise TooMany(f"{row['count']} runs of this agent are waiting, and no more may", retry_after=LEASE)
