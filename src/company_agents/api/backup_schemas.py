"""
What comes out of the routes of the backups.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from company_agents.api.schemas import Out


class BackupOut(Out):
    """A backup that was begun."""

    id: UUID
    file: str = Field(description="its name in its place")
    place: str = Field(description="the folder or the store that it lies in; may be empty")
    state: Literal["running", "whole", "failed"]
    key_ids: list[str] = Field(description="the master keys without which it does not open")
    lost_keys: list[str] = Field(description="those of them that were destroyed, or that this instance does not know")
    scheduled: bool = Field(description="whether the schedule made it, which also takes it away")
    with_ring: bool = Field(description="whether the key ring is in it, wrapped with a passphrase")
    size: int | None = Field(description="bytes; null until it is whole")
    rows: int | None
    made_by: str
    created_at: datetime
    finished_at: datetime | None
    problem: str = Field(description="why it failed")
    verified_at: datetime | None
    verify_problem: str = Field(description="what was found then; empty: nothing")
    missing_at: datetime | None = Field(description="since when it is not where it was made")
    drilled_at: datetime | None = Field(description="when it was last restored for a trial")
    drill_problem: str = Field(description="what was found then; empty: nothing")


class ConcernOut(Out):
    """One thing that needs attention."""

    kind: Literal["key", "failed", "late", "never", "missing", "verify", "drill", "unverified"]
    sentence: str
    hint: str


class BackupUnderway(Out):
    """What the orchestrator that answers makes or verifies now."""

    what: Literal["make", "verify"]
    file: str = Field(description="of one that is verified; else empty")
    started_at: datetime
    step: str
    done: int = Field(description="bytes")
    total: int = Field(description="about how many there are; 0: not known")


class LastBackup(Out):
    """How the last one ended that the orchestrator that answers made or verified for somebody since it started."""

    what: Literal["make", "verify"]
    ended_at: datetime
    ok: bool = Field(description="whether it was made and is good, or would restore here")
    file: str
    backup_id: UUID | None = None
    opened: int = Field(0, description="how many secrets were opened by a verification")
    not_opened: int = Field(0, description="how many did not open, or were not tried for want of their key")
    code: str | None = Field(None, description="of the error, if it failed; as in a problem")
    detail: str | None = Field(None, description="what was found")
    hint: str | None = None


class BackupsOut(Out):
    """Every backup that is known, newest first, in one page; and how things are with them."""

    items: list[BackupOut]
    next: str | None = Field(None, description="always null")
    scheduled: bool = Field(description="whether backups are made by the schedule")
    concerns: list[ConcernOut] = Field(description="what needs attention, the worst first")
    underway: BackupUnderway | None = None
    last: LastBackup | None = None
