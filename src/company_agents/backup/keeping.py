"""
Which scheduled backups may go.

Of each of the newest days, and of each of the newest weeks, the newest one stays that was proved. Days and weeks are those
that have one: a machine that was off for a month loses none of what it has. A week is one of ISO 8601; all is in UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime

from company_agents.backup.health import AHEAD
from company_agents.backup.rows import WHOLE, BackupRow


def may_go(rows: Iterable[BackupRow], now: datetime, *, daily: int, weekly: int) -> list[BackupRow]:
    """
    What may go of these, oldest first: of `daily` days and `weekly` weeks one stays.

    Never one that the schedule did not make, nor one that is not whole, nor the newest that was proved; nor one of the future,
    which is the work of a wrong clock, and takes no other's place. One that is bad, or was never proved, goes once there is
    a newer one that was; until then as many of them stay as days would.
    """
    whole = (row for row in rows if row.scheduled and row.state == WHOLE and row.created_at <= now + AHEAD)
    made = sorted(whole, key=_when)
    good = [row for row in made if row.proved]
    stay = set(good[-1:])
    stay |= _newest_of_each(good, daily, _day) | _newest_of_each(good, weekly, _week)
    behind = [row for row in made if not row.proved and (not good or _when(row) > _when(good[-1]))]
    stay |= set(behind[-max(daily, 1) :])
    return [row for row in made if row not in stay]


def _newest_of_each(rows: list[BackupRow], most: int, span: Callable[[BackupRow], object]) -> set[BackupRow]:
    """The newest of each of the newest spans, of as many. The rows are in order of time."""
    newest = {span(row): row for row in rows}
    return {newest[key] for key in list(newest)[-most:]} if most > 0 else set()


def _when(row: BackupRow) -> tuple[datetime, int]:
    return row.created_at.astimezone(UTC), row.id.int


def _day(row: BackupRow) -> date:
    return _when(row)[0].date()


def _week(row: BackupRow) -> tuple[int, int]:
    found = _when(row)[0].isocalendar()
    return found.year, found.week
