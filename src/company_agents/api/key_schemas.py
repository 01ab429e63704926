"""
What goes in and what comes out of the routes of the master key and of the instance.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field, StrictBool

from company_agents.api.schemas import In, Out
from company_agents.identity.directory import MOST_NAME


class Rotation(In):
    """What kind of rotation."""

    # Both are to be said: one of them destroys a key.
    finish: StrictBool = Field(description="finish what was begun, and begin nothing")
    compromised: StrictBool = Field(description="the key got out: destroy it, with the backups that need it")


class Pruning(In):
    """Which keys."""

    id: str | None = Field(None, max_length=MOST_NAME, description="this one alone; also one that has no end")


class KeyOut(Out):
    """One master key: its id and state. The key itself is shown nowhere."""

    key_id: str
    state: Literal["staged", "active", "retiring", "archived", "destroying", "destroyed"]
    source: str
    created_at: datetime
    activated_at: datetime | None
    archived_at: datetime | None
    ends_at: datetime | None = Field(description="until when it is kept; null: without an end")
    compromised_at: datetime | None
    rewrapped: int = Field(description="how many secrets were moved to it")
    seals: int = Field(description="how often it has sealed")
    rows: int = Field(description="how many secrets are under it now")
    in_ring: bool = Field(description="whether the orchestrator that answers holds it")
    backups: list[str] = Field(description="backups that need it")


class ReplicaOut(Out):
    """One orchestrator that lives."""

    id: UUID
    host: str
    process: int
    version: str
    key_ids: list[str] = Field(description="the keys that it holds")
    problem: str = Field(description="what keeps it from one that it should hold; may be empty")
    started_at: datetime
    seen_at: datetime


class UnderwayOut(Out):
    """A change of the master key that runs, or was left unfinished."""

    running: bool
    step: str
    done: int
    total: int
    started_at: datetime | None


class LastRotation(Out):
    """How the last rotation ended that the orchestrator that answers ran since it started."""

    ended_at: datetime
    ok: bool
    action: Literal["rotated", "finished", "nothing"] | None = None
    rows: int = Field(0, description="how many secrets were moved")
    not_opened: int = Field(0, description="how many did not open, for which the old key stays")
    backups: list[str] = Field(default=[], description="backups that died with a key that got out")
    code: str | None = Field(None, description="of the error, if it failed; as in a problem")
    detail: str | None = None
    hint: str | None = None


class KeyStatusOut(Out):
    """What `company-agents key status` says."""

    source: str
    active_key_id: str
    age_days: int
    period_days: int
    old: bool = Field(description="whether the active key has outlived its period")
    worn: bool = Field(description="whether it has sealed half of what is safe")
    seals_limit: int
    seals_urge_rotation: int
    keys: list[KeyOut]
    replicas: list[ReplicaOut]
    underway: UnderwayOut | None
    to_reissue: int = Field(description="how many entries /v1/key/reissue has")
    last_rotation: LastRotation | None = None


class KeptOut(Out):
    """A key that was not destroyed, and why."""

    key_id: str
    why: str


class PrunedOut(Out):
    """What was destroyed and what was kept; `after_destroy` is what the key source says remains."""

    destroyed: list[str]
    kept: list[KeptOut]
    after_destroy: str


class ToReissueOut(Out):
    """A secret to be replaced at its provider; `command` does it."""

    id: UUID
    company_id: UUID | None
    company: str | None
    name: str
    command: str


class SealedOut(Out):
    """Whether the instance is sealed."""

    sealed: bool
