"""
What the database knows of each backup: one row of `backups`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

RUNNING, WHOLE, FAILED, GONE = "running", "whole", "failed", "gone"
# Who made one that lay in the place of backups, and was not known.
FOUND_THERE = "found there"
# Why one failed that was given up with its orchestrator: nothing is wrong, and the next start makes another.
STOPPED = "it was stopped"


@dataclass(frozen=True, slots=True)
class BackupRow:
    """
    A backup that was begun. `file` is its path, or its name in its place; `place` is the address of that. Times are UTC,
    `size` is in bytes. `problem` is why it failed. `verify_problem` and `drill_problem` are what was found when it was
    last looked at, and when it was last restored for a trial; empty: nothing, or not done yet. `missing_at` is since when it
    is not where it was made. `lost_keys` are those of `key_ids` that were destroyed, or that this instance does not know.
    """

    id: UUID
    file: str
    place: str
    state: str
    key_ids: tuple[str, ...]
    scheduled: bool
    with_ring: bool
    size: int | None
    rows: int | None
    made_by: str
    created_at: datetime
    finished_at: datetime | None = None
    problem: str = ""
    verified_at: datetime | None = None
    verify_problem: str = ""
    drilled_at: datetime | None = None
    drill_problem: str = ""
    missing_at: datetime | None = None
    lost_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # The database gives a list, which is no part of what a set may hold.
        object.__setattr__(self, "lost_keys", tuple(self.lost_keys))

    @property
    def name(self) -> str:
        """Its name in its place."""
        return self.file.rpartition("/")[2]

    @property
    def lost(self) -> bool:
        """Whether it restores nothing that is sealed any more: a key that it needs is gone, and is not in it."""
        return self.state == WHOLE and bool(self.lost_keys) and not self.with_ring

    @property
    def good(self) -> bool:
        """Whether it is there and whole, its keys too, and its last verification did not say otherwise."""
        return self.state == WHOLE and not self.verify_problem and self.missing_at is None and not self.lost

    @property
    def proved(self) -> bool:
        """Whether it is good, and every secret in it was opened."""
        return self.good and self.verified_at is not None

    @property
    def ours(self) -> bool:
        """Whether this instance made it, or has proved it: anybody may put something into a place."""
        return self.made_by != FOUND_THERE or self.verified_at is not None

    @property
    def tried_at(self) -> datetime:
        """When it ended, or began."""
        return self.finished_at or self.created_at
