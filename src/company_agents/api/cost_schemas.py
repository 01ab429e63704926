"""
What goes in and what comes out of the routes of limits and costs. Money is in millionths of a US dollar.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field

from company_agents.api.schemas import In, Out
from company_agents.identity.limits import MOST_MICROS, MOST_TOKENS

_AtOnce = Annotated[int | None, Field(ge=1, le=1000, strict=True, description="runs at once; null: no limit")]
_Seconds = Annotated[
    int | None, Field(ge=10, le=86_400, strict=True, description="that a run may take; null: no limit")
]
_Tokens = Annotated[int | None, Field(ge=1, le=MOST_TOKENS, strict=True, description="null: no limit")]
_Micros = Annotated[int | None, Field(ge=1, le=MOST_MICROS, strict=True, description="null: no limit")]


class LimitChange(In):
    """Which limits become others; null removes one, and what is left out stays as it is."""

    runs_at_once: _AtOnce = None
    run_seconds: _Seconds = None
    run_tokens: _Tokens = None
    run_micros: _Micros = None
    month_tokens: _Tokens = None
    month_micros: _Micros = None


class LimitOut(Out):
    """The limits of an agent, or of a company and of each of its runs; null: there is none."""

    runs_at_once: int | None
    run_seconds: int | None
    run_tokens: int | None
    run_micros: int | None
    month_tokens: int | None
    month_micros: int | None


class MonthOut(Out):
    """What was spent since the month began, in UTC, and the limits beside it."""

    month: date = Field(description="its first day")
    begins_anew: date = Field(description="the first day of the next")
    calls: int
    tokens: int
    micros: int = Field(description="what is known of the cost")
    unpriced: int = Field(description="calls whose cost is not known, and not in it")
    limit: LimitOut


class CostOut(Out):
    """What one call to a model used."""

    id: UUID
    agent_id: UUID
    run_id: UUID | None
    integration_id: UUID
    provider: str
    model: str
    input_tokens: int = Field(description="those that no cache had part in")
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    micros: int | None = Field(description="null: its price is not known")
    estimated: bool = Field(description="the provider did not say how many tokens")
    late: bool = Field(description="somebody else had taken the run on by then: its counters do not have it")
    created_at: datetime


class SumOut(Out):
    """Some calls together."""

    calls: int
    tokens: int
    micros: int = Field(description="what is known of the cost")
    unpriced: int = Field(description="calls whose cost is not known, and not in it")
    estimated: int = Field(description="calls of which nobody said how many tokens")


class DaySumOut(SumOut):
    """An agent's calls to one model on one day, in UTC."""

    day: date
    agent_id: UUID
    agent: str
    provider: str
    model: str


class SummaryOut(Out):
    """The newest days first, and all of them together."""

    days: list[DaySumOut]
    total: SumOut
    is_cut: bool = Field(description="whether there are more rows, which are in neither")
