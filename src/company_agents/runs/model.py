"""
What a run is: its states, its fields, and the limits that hold for every one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from company_agents.db.database import Tx
from company_agents.errors import Conflict, NotFound, WrongUsage
from company_agents.identity.permissions import Kind
from company_agents.identity.principal import Caller

# Seconds; docs/runs.md has both. Long enough to outlive a restart of an orchestrator or a failover of the database, short
# enough that the token of a run whose holder died is of no use soon.
LEASE = 300
# A holder renews when this share of it is over: two more attempts fit in before it ends.
RENEW_AT = 0.6
# Seconds from its first start; however often it is renewed, a run and its token do not outlive that: one whose holder renews
# for ever would keep an old credential from retiring for ever, and a token that was stolen would be good for ever.
LONGEST = 24 * 3600
# What is executed here has a minute of that to be ended in.
LONGEST_HERE = LONGEST - 60
# Starts of one run whose lease may run out: work that takes its holder down with it would else go on doing so for ever.
MOST_LOST = 3

STATES = ("queued", "running", "finished", "failed", "expired", "cancelled")
OUTCOMES = ("finished", "failed")
MOST_TEXT = 1000
MOST_PROMPT = 50_000


@dataclass(frozen=True, slots=True)
class Pin:
    """The version of an integration that a run uses; with a time of `cut_at`, it may no more."""

    integration: UUID
    name: str
    version: int
    pinned_at: datetime
    cut_at: datetime | None


@dataclass(frozen=True, slots=True)
class Run:
    """
    One piece of work by one agent. Without an `adapter`, its agent opened it itself; with one, it was started by
    `started_by` (a label, as `operator:<id>`), for a task, for a prompt, or by a schedule. `time_limit` is in seconds from
    its first start, money in millionths of a US dollar. A listed one comes without its pins, and without its prompt.
    """

    id: UUID
    company_id: UUID
    agent_id: UUID
    state: str
    purpose: str
    reason: str
    fencing_token: int
    lease_until: datetime | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    adapter: str | None = None
    task_id: UUID | None = None
    schedule_id: UUID | None = None
    started_by: str = ""
    time_limit: int | None = None
    token_limit: int | None = None
    micros_limit: int | None = None
    tokens: int = 0
    micros: int = 0
    prompt: str = ""
    pins: list[Pin] = field(default_factory=list)


async def run_in(tx: Tx, run_id: UUID, caller: Caller | None = None) -> Run:
    """
    A run with its pins, in somebody's transaction.

    Raises:
        NotFound: no such run in this company, or not this caller's.
    """
    row = await tx.one("run_get", id=run_id, agent_id=agent_of(caller) if caller else None)
    if row is None or (caller and caller.principal.run_id not in (None, run_id)):
        raise NotFound("this run does not exist", hint="`company-agents run list --company ID` shows them")
    return Run(**row, pins=[Pin(**pin) for pin in await tx.all("pins_of_run", run_id=run_id)])


async def lost(tx: Tx, run_id: UUID, fencing_token: int) -> Conflict:
    """Why who was the holder is none any more."""
    row = await tx.one("run_get", id=run_id, agent_id=None)
    assert row is not None
    if row["fencing_token"] != fencing_token:
        return stale()
    last = row["started_at"] and row["started_at"] + timedelta(seconds=LONGEST)
    if row["state"] in ("running", "expired") and last is not None and row["lease_until"] >= last:
        return Conflict(
            f"this run has had its longest life of {LONGEST // 3600} hours",
            hint="stop; work that is still to be done needs a new run",
            code="run_over",
        )
    state = "over its time: its lease ran out" if row["state"] in ("running", "queued") else row["state"]
    return Conflict(f"this run is {state}", hint="stop; work that is still to be done needs a new run", code="run_over")


def stale() -> Conflict:
    """Somebody has an older fencing token than the run."""
    return Conflict(
        "somebody else has taken this run on", hint="stop: what you write now is not wanted", code="stale_fence"
    )


def agent_of(caller: Caller) -> UUID | None:
    """The agent whose runs alone are there for a caller; None: all of the company."""
    return caller.principal.id if caller.principal.kind in (Kind.AGENT, Kind.RUN) else None


def check_text(text: str, what: str, most: int = MOST_TEXT) -> None:
    """
    Raises:
        WrongUsage: it is too long.
    """
    if len(text) > most:
        raise WrongUsage(f"{what} has at most {most} characters")


def titled(text: str) -> str:
    """What a run is for, in a line: the first that is not empty of its prompt, or of its task's title."""
    line: str = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= 200 else f"{line[:199]}…"


def token_name(run_id: UUID) -> str:
    """What the secret of a run's token is called."""
    return f"run_token/{run_id}"


def facts_of(run: Run) -> dict[str, Any]:
    """What the record says of a run's beginning."""
    return {"run": run.id, "agent": run.agent_id, "task": run.task_id, "schedule": run.schedule_id}
