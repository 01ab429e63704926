"""
What is to leave of a chain: the events after the last that left, and its end, signed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from company_agents.audit.chain import START
from company_agents.audit.lines import again_line, event_line, head_line
from company_agents.db.database import Database, Tx
from company_agents.secret_store.head_keys import HeadKeys

# As many events leave with one head.
BATCH = 500

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Left:
    """Up to where a chain left; seq 0: not at all."""

    seq: int = 0
    mac: bytes = START


@dataclass(frozen=True, slots=True)
class Part:
    """Some lines of a chain, in order, of which the last is a head; and up to where it has left with them."""

    chain: UUID
    lines: tuple[str, ...]
    first: int
    end: Left
    more: bool


@dataclass(frozen=True)
class Source:
    """The chains, read for those who send them out."""

    db: Database
    instance_id: UUID
    head_keys: HeadKeys

    def scope(self, chain: UUID) -> UUID | None:
        """The company whose chain it is, or None for that of the instance."""
        return None if chain == self.instance_id else chain

    async def part(self, tx: Tx, chain: UUID, left: Left) -> Part | None:
        """
        What comes next, or None where all has left. A chain that does not go on from what left, was brought back from an
        earlier time, or altered: it leaves anew from its first event, behind a line that says so.
        """
        rows = await tx.all("audit_lines_from", chain=chain, seq=max(left.seq, 1), limit=BATCH + 1)
        lines = []
        if left.seq:
            if rows and (rows[0]["seq"], rows[0]["mac"]) == (left.seq, left.mac):
                rows = rows[1:]
            else:
                log.warning("the chain %s does not go on from what left of it, event %d", chain, left.seq)
                lines.append(again_line(chain, left.seq, left.mac))
                rows = await tx.all("audit_lines_from", chain=chain, seq=1, limit=BATCH + 1)
        if not rows and not lines:
            return None
        more, rows = len(rows) >= BATCH, rows[:BATCH]
        lines += [event_line(chain, row) for row in rows]
        end = Left(rows[-1]["seq"], rows[-1]["mac"]) if rows else Left()
        if rows:
            number, sign = await self.head_keys.newest()
            lines.append(head_line(chain, end.seq, end.mac, datetime.now(UTC).isoformat(), number, sign))
        return Part(chain, tuple(lines), rows[0]["seq"] if rows else 0, end, more)
