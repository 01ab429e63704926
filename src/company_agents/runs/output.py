"""
What a run puts out: through the redactor into its log, in batches, within its limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from company_agents.db.database import Tx
from company_agents.errors import WrongUsage

MOST_LINES = 1000


@dataclass(frozen=True, slots=True)
class Line:
    """A piece of what a run put out; it may hold several lines, or end in the middle of one."""

    seq: int
    fence: int
    stream: str
    text: str
    at: datetime


async def lines_of(tx: Tx, run_id: UUID, after: int, limit: int) -> list[Line]:
    """The pieces after a number, oldest first."""
    if not 1 <= limit <= MOST_LINES:
        raise WrongUsage(f"limit is {limit}; it may be 1 to {MOST_LINES}")
    rows = await tx.all("run_output_list", run_id=run_id, after=max(after, 0), limit=limit)
    return [Line(**row) for row in rows]
