"""
What goes in and what comes out of the routes of schedules.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import Field

from company_agents.api.fields import Id, Name
from company_agents.api.schemas import In, Out
from company_agents.runs.model import MOST_PROMPT


class NewSchedule(In):
    """When a run of an agent is started, and what it is to do each time."""

    agent: Id
    name: Name
    cron: str = Field(min_length=1, max_length=200, description="minute hour day month weekday, as `0 9 * * MON-FRI`")
    timezone: str = Field("UTC", min_length=1, max_length=64, description="of the IANA database, as Europe/Berlin")
    prompt: str = Field(min_length=1, max_length=MOST_PROMPT)


class ScheduleOut(Out):
    """A schedule."""

    id: UUID
    company_id: UUID
    agent_id: UUID
    name: str
    cron: str
    timezone: str
    prompt: str
    enabled: bool
    next_at: datetime | None = Field(description="when it comes true next; null: it is paused")
    last_at: datetime | None
    skipped: str = Field(description="why it started no run when it last came true")
    created_by: str
    created_at: datetime
    updated_at: datetime
