"""
What goes in and what comes out of the routes of runs.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StrictBool

from company_agents.api.fields import Fence, Id
from company_agents.api.schemas import In, Out
from company_agents.runs.model import LONGEST_HERE, MOST_PROMPT
from company_agents.runs.model import MOST_TEXT as MOST_REASON
from company_agents.runs.output import MOST_GIVEN
from company_agents.runs.starting import LEAST_TIME

Seconds = Annotated[int, Field(strict=True, ge=LEAST_TIME, le=LONGEST_HERE)]
Many = Annotated[int, Field(strict=True, ge=1, le=2**63 - 1)]


class NewRun(In):
    """A run of the agent that calls."""

    purpose: str = Field("", max_length=MOST_REASON, description="what it is for, in a sentence")


class Starting(In):
    """What an agent is to do, and how far its run may go. A limit beyond those of the agent is lowered to them."""

    task: Id | None = None
    prompt: str = Field("", max_length=MOST_PROMPT)
    time_limit: Seconds | None = None
    token_limit: Many | None = Field(None, description="tokens that its calls to models may use")
    micros_limit: Many | None = Field(None, description="millionths of a US dollar that its calls may cost")


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
    adapter: str | None = Field(description="how it is executed; null: its agent opened it itself")
    task_id: UUID | None
    schedule_id: UUID | None
    started_by: str
    time_limit: int | None = Field(description="seconds from its first start")
    token_limit: int | None
    micros_limit: int | None
    tokens: int = Field(description="what its calls to models have used so far")
    micros: int = Field(description="what they have cost, in millionths of a US dollar")


class RunWithPins(RunOut):
    """A run, what it is to do, and the credential versions that it uses."""

    prompt: str
    pins: list[PinOut]


class LineOut(Out):
    """A piece of what a run put out; it may hold several lines, or end in the middle of one."""

    seq: int
    fence: int = Field(description="which start of the run it is of")
    stream: Literal["output", "error", "note"]
    text: str
    at: datetime


class PutOut(Held):
    """What a run has put out, said by who holds it elsewhere. It may end in the middle of a line."""

    text: str = Field(min_length=1, max_length=MOST_GIVEN)
    stream: Literal["output", "error", "note"] = "output"


class LinesOut(Out):
    """What a run has put out; `next` goes into `after` to get what follows, now or later."""

    items: list[LineOut]
    next: int


class RunOpened(RunWithPins):
    """A new run with its token: the only time that it is shown."""

    token: str | None = Field(description="null where the answer is a replay: a token is not kept to be shown again")
    replayed: bool = Field(False, description="whether this Idempotency-Key had opened it before")
