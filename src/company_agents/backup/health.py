"""
What is wrong with the backups, for whoever looks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from operator import attrgetter

from company_agents.backup.rows import FAILED, FOUND_THERE, STOPPED, WHOLE, BackupRow

# A good one that is older is late: a day, and half of one in which what went wrong may be tried again.
LATE = timedelta(hours=36)
# How far the database's clock may be ahead of ours.
AHEAD = timedelta(minutes=5)

_SHOWN = "%Y-%m-%d %H:%M UTC"


@dataclass(frozen=True, slots=True)
class Concern:
    """
    One thing that needs attention. The kind is `key`, `failed`, `late`, `never`, `missing`, `verify`, `drill` or `unverified`.
    """

    kind: str
    sentence: str
    hint: str


def newest_good(rows: Iterable[BackupRow], now: datetime) -> BackupRow | None:
    """
    The newest good one of the schedule, in which every secret was opened. One of the future is the work of a wrong clock, and
    does not count.
    """
    good = [row for row in rows if row.scheduled and row.proved and row.created_at <= now + AHEAD]
    return max(good, key=attrgetter("created_at"), default=None)


def attempts_after(rows: Iterable[BackupRow], last: BackupRow | None, now: datetime) -> list[BackupRow]:
    """
    What the schedule tried in vain after its newest good one, oldest first. One whose key was destroyed later was not in
    vain: the next one is not to wait for that.
    """
    vain = [
        row
        for row in rows
        if row.scheduled
        and ((row.state == FAILED and row.problem != STOPPED) or (row.state == WHOLE and row.verify_problem))
        and row.tried_at <= now + AHEAD
    ]
    return sorted((row for row in vain if last is None or row.created_at > last.created_at), key=attrgetter("tried_at"))


def is_late(rows: Iterable[BackupRow], now: datetime, since: datetime) -> bool:
    """Whether the newest good one of the schedule is too old, in an instance that there is since then."""
    last = newest_good(rows, now)
    return now - (last.created_at if last else since) > LATE


def health(rows: Iterable[BackupRow], now: datetime, scheduled: bool, since: datetime | None = None) -> list[Concern]:
    """
    Everything that needs attention, the worst first. `scheduled`: whether backups are to be made by the schedule; `since`:
    when the instance was made, so that a new one is not called late.
    """
    rows = list(rows)
    keys, of_schedule = list(_of_keys(rows)), list(_of_schedule(rows, now, since)) if scheduled else []
    if keys:
        # Why there is none, or none but an old one, was just said.
        of_schedule = [concern for concern in of_schedule if concern.kind not in ("never", "late")]
    return [*keys, *of_schedule, *_missing(rows), *_of_verification(rows), *_of_drill(rows)]


def _of_keys(rows: list[BackupRow]) -> Iterable[Concern]:
    # What is not there may be there again: of its key that says nothing.
    there = (replace(row, missing_at=None) for row in rows)
    last = max((row.created_at for row in there if row.good and row.ours), default=None)
    # One that was found there may be another instance's, whose keys were never here.
    lost = [row for row in rows if row.lost and row.made_by != FOUND_THERE and (last is None or row.created_at > last)]
    if lost:
        key_id = max(lost, key=attrgetter("created_at")).lost_keys[0]
        which = f"no backup that was taken after {last:{_SHOWN}}" if last else "no backup"
        yield Concern(
            "key",
            f"{which} restores any more: the key {key_id} was destroyed; make one now",
            "`company-agents backup make` makes one",
        )


def _of_schedule(rows: list[BackupRow], now: datetime, since: datetime | None) -> Iterable[Concern]:
    last = newest_good(rows, now)
    if last is None and (since is None or now - since > LATE):
        yield Concern(
            "never",
            "there is no good backup of the schedule",
            "`company-agents backup export FILE` makes one now; docs/backups.md says when the schedule does",
        )
    if last is not None and now - last.created_at > LATE:
        hours = int((now - last.created_at).total_seconds() // 3600)
        yield Concern(
            "late",
            f"the newest good backup of the schedule was taken {hours} hours ago, {last.created_at:{_SHOWN}}",
            "is an orchestrator running? its log says what it tries; `company-agents backup export FILE` makes one now",
        )
    # One that was whole and does not verify any more is another's concern.
    failed = [row for row in attempts_after(rows, last, now) if row.state == FAILED]
    if failed:
        often = f", and {len(failed) - 1} before it" if len(failed) > 1 else ""
        yield Concern(
            "failed",
            f"the last backup of the schedule failed, {failed[-1].tried_at:{_SHOWN}}{often}: {failed[-1].problem}",
            "it is tried again after 15 minutes, then every hour; mend what it says",
        )


def _missing(rows: list[BackupRow]) -> Iterable[Concern]:
    # An older one may have been put away on purpose.
    made = [row for row in rows if row.scheduled and row.state == WHOLE]
    last = max(made, key=attrgetter("created_at"), default=None)
    if last is not None and last.missing_at is not None:
        number = sum(row.missing_at is not None for row in made)
        others = f" (and {number - 1} more)" if number > 1 else ""
        yield Concern(
            "missing",
            f"the backup {last.name}{others} is not where it was made",
            "is the disk mounted, and is it the right place? `company-agents backup forget` gives one up that is gone",
        )


def _of_verification(rows: list[BackupRow]) -> Iterable[Concern]:
    bad = sorted((row for row in rows if row.state == WHOLE and row.verify_problem), key=attrgetter("created_at"))
    if bad:
        others = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        yield Concern(
            "verify",
            f"the backup {bad[-1].name}{others} did not pass its last verification: {bad[-1].verify_problem}",
            "do not count on it; `company-agents backup verify FILE` looks again",
        )


def _of_drill(rows: list[BackupRow]) -> Iterable[Concern]:
    drilled = [row for row in rows if row.drilled_at is not None]
    last = max(drilled, key=attrgetter("drilled_at"), default=None)
    if last is not None and last.drill_problem:
        yield Concern(
            "drill",
            f"the last drill, of {last.name}, failed: {last.drill_problem}",
            "`company-agents backup drill` tries the newest backup again",
        )
