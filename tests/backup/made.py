"""
Rows of backups, as tests want them.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from company_agents.backup.rows import BackupRow


def at(text: str) -> datetime:
    """A time in UTC, `2026-03-01 03:00`."""
    return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=UTC)


def row(when: datetime, **given: Any) -> BackupRow:
    """A good backup of the schedule, taken then, unless told otherwise."""
    made = BackupRow(
        id=uuid4(),
        file=f"company-agents-{when:%Y%m%dT%H%M%SZ}.tar.zst",
        place="file:///backups",
        state="whole",
        key_ids=(),
        scheduled=True,
        with_ring=False,
        size=1000,
        rows=10,
        made_by="schedule",
        created_at=when,
        finished_at=when,
        verified_at=when,
    )
    return replace(made, **given)
