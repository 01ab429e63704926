"""
Which scheduled backups go, and which never do.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from company_agents.backup.keeping import may_go
from company_agents.backup.rows import BackupRow
from tests.backup.made import at, row

NOW = at("2030-01-01 12:00")


def gone_of(rows: Iterable[BackupRow], *, daily: int, weekly: int, now: datetime = NOW) -> list[BackupRow]:
    """What goes, long after all of them were made."""
    return may_go(rows, now, daily=daily, weekly=weekly)


def kept(rows: list[BackupRow], *, daily: int = 7, weekly: int = 4) -> list[str]:
    """The days of those that stay."""
    gone = gone_of(rows, daily=daily, weekly=weekly)
    return [f"{found.created_at:%m-%d}" for found in rows if found not in gone]


def days(first: str, number: int) -> list[BackupRow]:
    begin = at(f"{first} 03:00")
    return [row(begin + timedelta(days=day)) for day in range(number)]


# — by example —


def test_of_two_months_seven_days_and_four_weeks_stay() -> None:
    # 2026-03-01 is a Sunday. Of the weeks before, the Sunday is the newest.
    rows = days("2026-01-01", 60)
    assert kept(rows) == ["02-08", "02-15", "02-22", "02-23", "02-24", "02-25", "02-26", "02-27", "02-28", "03-01"]


def test_a_backup_may_be_the_daily_and_the_weekly_one() -> None:
    rows = days("2026-03-01", 2)
    assert kept(rows, daily=1, weekly=2) == ["03-01", "03-02"]
    assert kept(rows, daily=1, weekly=1) == ["03-02"]


def test_a_week_is_one_of_iso_also_where_the_year_changes() -> None:
    # The week of 2026-01-01 began on 2025-12-29.
    rows = [row(at(f"{day} 03:00")) for day in ("2025-12-28", "2025-12-29", "2026-01-04", "2026-01-05")]
    assert kept(rows, daily=1, weekly=3) == ["12-28", "01-04", "01-05"]


def test_a_machine_that_was_off_for_a_month_loses_nothing() -> None:
    rows = [*days("2026-01-01", 7), row(at("2026-03-01 12:00"))]
    assert kept(rows) == ["01-02", "01-03", "01-04", "01-05", "01-06", "01-07", "03-01"]


def test_of_one_day_the_newest_stays() -> None:
    morning, evening = row(at("2026-03-01 03:00")), row(at("2026-03-01 21:00"))
    assert gone_of([evening, morning], daily=7, weekly=4) == [morning]


def test_a_day_is_one_of_utc() -> None:
    east = timezone(timedelta(hours=10))
    first, second = row(at("2026-03-01 13:00").astimezone(east)), row(at("2026-03-01 15:00").astimezone(east))
    assert first.created_at.date() != second.created_at.date()
    assert gone_of([first, second], daily=7, weekly=4) == [first]


def test_a_bad_one_does_not_take_the_place_of_a_good_one_and_goes_when_there_is_a_newer_good_one() -> None:
    good, bad = row(at("2026-03-01 03:00")), row(at("2026-03-01 21:00"), verify_problem="it is not whole")
    assert gone_of([good, bad], daily=7, weekly=4) == []
    newer = row(at("2026-03-02 03:00"))
    assert gone_of([good, bad, newer], daily=7, weekly=4) == [bad]


def test_one_that_was_never_proved_does_not_take_the_place_of_one_that_was() -> None:
    good, unproved = row(at("2026-03-01 03:00")), row(at("2026-03-02 03:00"), verified_at=None)
    assert gone_of([good, unproved], daily=1, weekly=0) == []
    assert gone_of([good, unproved, row(at("2026-03-03 03:00"))], daily=2, weekly=0) == [unproved]


def test_one_of_the_future_stays_and_takes_no_other_s_place() -> None:
    now, today = at("2026-03-02 04:00"), row(at("2026-03-02 03:00"))
    yesterday, future = row(at("2026-03-01 03:00")), [row(found.created_at) for found in days("2026-11-01", 30)]
    assert gone_of([yesterday, today, *future], daily=1, weekly=2, now=now) == []
    assert gone_of([yesterday, today, *future], daily=1, weekly=0, now=now) == [yesterday]


def test_one_whose_key_was_destroyed_is_no_good_one() -> None:
    good, lost = row(at("2026-03-01 03:00")), row(at("2026-03-02 03:00"), lost_keys=("0" * 16,))
    assert gone_of([good, lost], daily=1, weekly=1) == []
    assert gone_of([good, lost, row(at("2026-03-03 03:00"))], daily=2, weekly=0) == [lost]


def test_where_none_is_good_the_newest_ones_stay_and_the_disk_does_not_fill() -> None:
    rows = [row(found.created_at, verify_problem="the key is missing") for found in days("2026-03-01", 20)]
    assert kept(rows, daily=3) == ["03-18", "03-19", "03-20"]


def test_the_last_good_one_stays_however_little_is_to_be_kept() -> None:
    rows = days("2026-03-01", 3)
    assert gone_of(rows, daily=0, weekly=0) == rows[:2]


def test_what_somebody_asked_for_what_runs_and_what_failed_is_left_alone() -> None:
    others: list[dict[str, Any]] = [{"scheduled": False}, {"state": "running"}, {"state": "failed"}, {"state": "gone"}]
    rows = [row(at("2026-01-01 03:00"), **other) for other in others]
    made = days("2026-03-01", 30)
    assert gone_of([*rows, *made], daily=1, weekly=0) == made[:-1]


# — whatever there is —

TIMES = st.datetimes(datetime(2025, 11, 1), datetime(2026, 3, 1), timezones=st.just(UTC))
ROWS = st.lists(
    st.builds(
        row,
        TIMES,
        state=st.sampled_from(["whole", "whole", "whole", "running", "failed", "gone"]),
        scheduled=st.sampled_from([True, True, True, False]),
        verify_problem=st.sampled_from(["", "", "", "it is not whole"]),
    ),
    max_size=60,
)
NUMBERS = st.integers(0, 9)


def good_ones(rows: Iterable[BackupRow]) -> list[BackupRow]:
    return sorted((found for found in rows if found.good and found.scheduled), key=lambda found: found.created_at)


@given(ROWS, NUMBERS, NUMBERS)
def test_only_whole_ones_of_the_schedule_go_and_never_the_newest_good_one(
    rows: list[BackupRow], daily: int, weekly: int
) -> None:
    gone = gone_of(rows, daily=daily, weekly=weekly)
    assert all(found.scheduled and found.state == "whole" for found in gone)
    good = good_ones(rows)
    if good:
        newest = good[-1].created_at
        assert any(found.created_at == newest for found in good_ones(set(rows) - set(gone)))


@given(ROWS, NUMBERS, NUMBERS)
def test_as_many_days_and_weeks_as_are_to_be_kept_have_their_newest(
    rows: list[BackupRow], daily: int, weekly: int
) -> None:
    left = {found.created_at for found in set(rows) - set(gone_of(rows, daily=daily, weekly=weekly))}
    newest_of_day = {found.created_at.date(): found.created_at for found in good_ones(rows)}
    newest_of_week = {found.created_at.isocalendar()[:2]: found.created_at for found in good_ones(rows)}
    assert all(newest_of_day[day] in left for day in sorted(newest_of_day, reverse=True)[:daily])
    assert all(newest_of_week[week] in left for week in sorted(newest_of_week, reverse=True)[:weekly])


@given(ROWS, NUMBERS, NUMBERS)
def test_no_more_stay_than_are_to_be_kept(rows: list[BackupRow], daily: int, weekly: int) -> None:
    gone = gone_of(rows, daily=daily, weekly=weekly)
    made = {found for found in rows if found.scheduled and found.state == "whole"}
    left = made - set(gone)
    assert sum(found.good for found in left) <= max(daily + weekly, 1)
    assert sum(not found.good for found in left) <= max(daily, 1)


@given(ROWS, NUMBERS, NUMBERS, st.randoms(use_true_random=False))
def test_it_is_settled_after_one_look_and_the_order_of_the_rows_does_not_matter(
    rows: list[BackupRow], daily: int, weekly: int, order: Random
) -> None:
    gone = gone_of(rows, daily=daily, weekly=weekly)
    left = [found for found in rows if found not in gone]
    assert gone_of(left, daily=daily, weekly=weekly) == []
    order.shuffle(rows)
    assert gone_of(rows, daily=daily, weekly=weekly) == gone


@given(
    st.integers(1, 120), st.integers(1, 9), st.integers(0, 9), st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1))
)
def test_day_after_day_the_same_stay_as_if_all_had_been_looked_at_at_once(
    number: int, daily: int, weekly: int, first: datetime
) -> None:
    all_days = [row(first.replace(tzinfo=UTC) + timedelta(days=day)) for day in range(number)]
    there: list[BackupRow] = []
    for made in all_days:
        there.append(made)
        gone = gone_of(there, daily=daily, weekly=weekly)
        there = [found for found in there if found not in gone]
    at_once = gone_of(all_days, daily=daily, weekly=weekly)
    assert there == [found for found in all_days if found not in at_once]
