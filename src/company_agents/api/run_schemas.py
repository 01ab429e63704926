"""
What goes in and what comes out of the routes of runs.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field, StrictBool

from company_agents.api.fields import Fence
from company_agents.api.schemas import In, Out
from company_agents.runs.model import MOST_TEXT as MOST_REASON


class NewRun(In):
    """A run of the agent that calls."""

    purpose: str = Field("", max_length=MOST_REASON, description="what it is for, in a sentence")


class Held(In):
    """What the holder of a run knows."""

    fencing_token: Fence


class Ending(Held):
    """How a run ended."""

    outcome: Literal["finished", "failed"] = "finished"
    reason: str = Field("", max_length=MOST_REASON)


class Cancelling(In):
    """Why a run is ended."""

    reason: str = Field("", max_length=MOST_REASON)


class Cutting(In):
    """Which versions runs are cut off from: one, every one, or neither: those that drain."""

    version: int | None = Field(None, ge=1, le=2**31 - 1, strict=True)
    every: StrictBool = False


class CutOut(Out):
    """Who was cut off: how many runs, and from which versions."""

    integration: UUID
    versions: list[int]
    runs: int


class PinOut(Out):
    """The version of an integration that a run uses; where it was cut off, it may no more."""

    integration: UUID
    name: str
    version: int
    pinned_at: datetime
    cut_at: datetime | None


class RunOut(Out):
    """One piece of work by one agent."""

    id: UUID
    company_id: UUID
    agent_id: UUID
    state: Literal["queued", "running", "finished", "failed", "expired", "cancelled"]
    purpose: str
    reason: str = Field(description="why it ended so, where somebody said so")
    fencing_token: int = Field(description="grows with each start; who has an older one may write nothing more")
    lease_until: datetime | None = Field(description="when its token dies, unless it is renewed before")
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class RunWithPins(RunOut):
    """A run, and the credential versions that it uses."""

    pins: list[PinOut]


class RunOpened(RunWithPins):
    """A new run with its token: the only time that it is shown."""

    token: str | None = Field(description="null where the answer is a replay: a token is not kept to be shown again")
    replayed: bool = Field(False, description="whether this Idempotency-Key had opened it before")
