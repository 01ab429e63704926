"""
When a backup is due, when it is late, and what is said of it: from rows and a clock alone.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from company_agents.backup import schedule
from company_agents.backup.health import Concern, health, is_late
from company_agents.backup.rows import BackupRow
from company_agents.backup.schedule import drill_due, is_scheduled, last_quiet, quiet_minute
from company_agents.settings import Settings, read_settings
from tests.backup.made import at, row

# The quiet minute of these tests is 03:17.
QUIET = timedelta(hours=3, minutes=17)
MADE = at("2026-01-01 12:00")


def due(now: str | datetime, *rows: BackupRow, since: datetime = MADE, secrets: bool = False) -> bool:
    now = at(now) if isinstance(now, str) else now
    return schedule.due(now, rows, quiet=QUIET, since=since, secrets=secrets)


def failed(when: str, **given: Any) -> BackupRow:
    return row(at(when), state="failed", problem="there is no room left", **given)


# — the quiet minute —


def test_the_quiet_minute_of_an_instance_is_always_the_same_and_between_two_and_five_in_the_morning() -> None:
    assert quiet_minute(UUID(int=7)) == quiet_minute(UUID(int=7))
    minutes = {quiet_minute(uuid4()) for _ in range(300)}
    assert len(minutes) > 50
    assert all(timedelta(hours=2) <= minute < timedelta(hours=5) for minute in minutes)


def test_the_last_quiet_minute_is_today_s_or_yesterday_s() -> None:
    assert last_quiet(at("2026-03-02 03:17"), QUIET) == at("2026-03-02 03:17")
    assert last_quiet(at("2026-03-02 03:16"), QUIET) == at("2026-03-01 03:17")


# — daily —


def test_a_backup_is_due_at_the_quiet_minute_and_not_again_that_day() -> None:
    yesterday = row(at("2026-03-01 03:18"))
    assert not due("2026-03-02 03:16", yesterday)
    assert due("2026-03-02 03:17", yesterday)
    assert not due("2026-03-02 03:20", yesterday, row(at("2026-03-02 03:18")))
    assert not due("2026-03-03 03:16", row(at("2026-03-02 03:18")))


def test_one_that_was_missed_is_made_when_the_machine_is_there_again() -> None:
    assert due("2026-03-09 14:00", row(at("2026-03-01 03:18")))
    assert not due("2026-03-09 14:10", row(at("2026-03-01 03:18")), row(at("2026-03-09 14:01")))
    assert due("2026-03-10 03:17", row(at("2026-03-09 14:01")))


def test_one_that_was_caught_up_with_shortly_before_the_quiet_minute_is_that_day_s() -> None:
    assert not due("2026-03-02 03:17", row(at("2026-03-02 00:30")))
    assert due("2026-03-02 03:17", row(at("2026-03-01 23:00")))


def test_a_new_instance_waits_for_its_first_quiet_minute_unless_there_are_secrets() -> None:
    since = at("2026-03-01 14:00")
    assert not due("2026-03-01 14:40", since=since)
    assert due("2026-03-01 14:40", since=since, secrets=True)
    assert due("2026-03-02 03:17", since=since)


def test_what_somebody_asked_for_is_not_the_schedule_s_and_a_bad_one_is_none() -> None:
    night = at("2026-03-02 03:18")
    assert due("2026-03-02 10:00", row(at("2026-03-01 03:18")), row(night, scheduled=False))
    assert due("2026-03-02 10:00", row(at("2026-03-01 03:18")), row(night, verify_problem="it is not whole"))
    assert due("2026-03-02 10:00", row(at("2026-03-01 03:18")), row(night, state="gone"))


def test_one_of_the_future_is_the_work_of_a_wrong_clock_and_does_not_keep_the_next_one_back() -> None:
    assert due("2026-03-02 03:17", row(at("2026-03-01 03:18")), row(at("2031-01-01 03:18")))
    assert due("2026-03-02 03:17", row(at("2026-03-01 03:18")), failed("2031-01-01 03:18"))


def test_one_that_failed_is_tried_again_after_15_minutes_and_then_every_hour() -> None:
    yesterday, first = row(at("2026-03-01 03:18")), failed("2026-03-02 03:18")
    assert not due("2026-03-02 03:32", yesterday, first)
    assert due("2026-03-02 03:33", yesterday, first)
    second = failed("2026-03-02 03:33")
    assert not due("2026-03-02 04:32", yesterday, first, second)
    assert due("2026-03-02 04:33", yesterday, first, second)
    third = failed("2026-03-02 04:33")
    assert not due("2026-03-02 05:32", third, yesterday, first, second)
    assert due("2026-03-02 05:33", third, yesterday, first, second)
    assert not due("2026-03-02 06:00", yesterday, first, second, row(at("2026-03-02 05:33")))


def test_of_those_that_were_made_and_are_bad_the_third_waits_for_a_day() -> None:
    good = row(at("2026-03-01 03:18"))
    bad = [row(at(f"2026-03-02 {time}"), verify_problem="a secret does not open") for time in ("03:18", "03:33")]
    assert due("2026-03-02 03:33", good, bad[0])
    assert not due("2026-03-03 03:32", good, *bad)
    assert due("2026-03-03 03:33", good, *bad)
    # Where the last one failed of something else, that may be over soon.
    assert due("2026-03-02 05:33", good, *bad, failed("2026-03-02 04:33"))


def test_of_those_that_became_bad_where_they_lie_none_keeps_the_next_back_for_a_day() -> None:
    made = [at(f"2026-03-0{day} 03:18") for day in (1, 2)]
    bad = [row(when, verified_at=when + timedelta(days=2), verify_problem="it is not whole") for when in made]
    assert due("2026-03-03 00:00", row(at("2026-02-28 03:18")), *bad)


def test_one_that_was_stopped_was_not_tried_in_vain() -> None:
    stopped = failed("2026-03-02 03:18")
    assert not due("2026-03-02 03:19", row(at("2026-03-01 03:18")), stopped)
    stopped = replace(stopped, problem="it was stopped")
    assert due("2026-03-02 03:19", row(at("2026-03-01 03:18")), stopped)
    assert kinds(GOOD, replace(stopped, created_at=at("2026-03-02 04:18"))) == []


def test_one_that_nobody_has_proved_is_none_yet() -> None:
    unproved = row(at("2026-03-02 03:18"), verified_at=None)
    assert due("2026-03-02 10:00", row(at("2026-03-01 03:18")), unproved)
    assert not due("2026-03-02 10:00", row(at("2026-03-01 03:18")), replace(unproved, verified_at=NOW))
    assert due("2026-03-02 10:00", row(at("2026-03-02 03:18"), missing_at=NOW))


def test_where_the_key_of_the_last_ones_was_destroyed_the_next_is_due_at_once() -> None:
    lost = [row(at(f"2026-03-0{day} 03:18"), lost_keys=("0" * 16,)) for day in (1, 2)]
    assert due("2026-03-02 03:19", *lost, secrets=True)
    assert due("2026-03-02 03:19", row(at("2026-02-01 03:18")), *lost)
    assert not due("2026-03-02 03:25", *lost, row(at("2026-03-02 03:20")), secrets=True)


def test_the_failures_before_a_good_one_are_forgotten() -> None:
    before = [failed(f"2026-03-01 0{hour}:20") for hour in (4, 5, 6)]
    good, again = row(at("2026-03-01 07:20")), failed("2026-03-02 03:18")
    assert due("2026-03-02 03:33", *before, good, again)


def test_a_first_backup_that_fails_is_not_tried_every_minute() -> None:
    assert not due("2026-03-01 14:10", failed("2026-03-01 14:00"), secrets=True)
    assert due("2026-03-01 14:15", failed("2026-03-01 14:00"), secrets=True)


def test_one_that_took_long_to_fail_is_tried_again_after_it_ended() -> None:
    long = failed("2026-03-02 03:18", finished_at=at("2026-03-02 06:00"))
    assert not due("2026-03-02 06:10", long)
    assert due("2026-03-02 06:15", long)


@given(
    st.lists(st.sampled_from(["good", "good", "good", "bad", "off"]), min_size=3, max_size=200),
    st.integers(0, 24 * 12 - 1),
)
def test_whatever_goes_wrong_no_day_has_two_and_none_is_missed_that_could_be_made(luck: list[str], begin: int) -> None:
    """Steps of five minutes; each attempt, and each stretch in which the machine is off, draws its luck."""
    now = MADE + timedelta(minutes=5 * begin)
    since = off_until = now
    rows: list[BackupRow] = []
    draw = iter(luck)
    for _ in range(12 * 24 * 6):
        now += timedelta(minutes=5)
        if now < off_until or not due(now, *rows, since=since):
            continue
        what = next(draw, "good")
        if what == "off":
            off_until = now + timedelta(hours=50)
        else:
            rows.append(row(now) if what == "good" else row(now, state="failed"))
    good = [found.created_at for found in rows if found.good]
    gaps = [later - earlier for earlier, later in itertools.pairwise(good)]
    assert all(gap > timedelta(hours=4) for gap in gaps)
    assert len({last_quiet(when + timedelta(hours=4), QUIET) for when in good}) == len(good)
    # The luck has run out, for better: what is left is one every night.
    assert next(draw, None) is not None or off_until > now or not is_late(rows, now, since)


# — the drill —


def test_a_drill_is_due_in_the_first_night_and_then_every_month_in_a_night() -> None:
    first = row(at("2026-03-01 14:00"))
    assert not drill_due(at("2026-03-01 15:00"), [first], quiet=QUIET)
    assert drill_due(at("2026-03-02 03:20"), [first], quiet=QUIET)
    drilled = row(at("2026-03-02 03:18"), drilled_at=at("2026-03-02 03:30"))
    assert not drill_due(at("2026-03-03 03:30"), [first, drilled], quiet=QUIET)
    assert not drill_due(at("2026-04-01 03:29"), [drilled], quiet=QUIET)
    assert drill_due(at("2026-04-01 03:30"), [drilled], quiet=QUIET)
    assert not drill_due(at("2026-04-01 12:00"), [drilled], quiet=QUIET)


def test_after_a_drill_that_failed_the_next_is_in_the_next_night() -> None:
    drilled = row(at("2026-03-02 03:18"), drilled_at=at("2026-03-02 03:30"), drill_problem="a secret does not open")
    assert not drill_due(at("2026-03-02 04:30"), [drilled], quiet=QUIET)
    assert drill_due(at("2026-03-03 03:30"), [drilled], quiet=QUIET)
    again = row(at("2026-03-03 03:18"), drilled_at=at("2026-03-03 03:31"))
    assert not drill_due(at("2026-03-04 03:30"), [drilled, again], quiet=QUIET)


def test_the_next_drill_is_a_month_after_the_last_also_where_what_was_tried_is_gone() -> None:
    drilled = row(at("2026-03-02 03:18"), drilled_at=at("2026-03-02 03:30"), state="gone")
    newer = row(at("2026-03-20 03:18"))
    assert not drill_due(at("2026-03-21 03:30"), [drilled, newer], quiet=QUIET)
    assert drill_due(at("2026-04-01 03:30"), [drilled, newer], quiet=QUIET)


def test_a_machine_that_is_off_at_night_has_its_drill_by_day_and_without_a_backup_there_is_none() -> None:
    first = row(at("2026-03-01 14:00"))
    assert not drill_due(at("2026-03-03 14:00"), [first], quiet=QUIET)
    assert drill_due(at("2026-03-04 14:00"), [first], quiet=QUIET)
    assert not drill_due(at("2026-03-04 14:00"), [], quiet=QUIET)
    assert not drill_due(at("2026-03-04 14:00"), [failed("2026-03-01 14:00")], quiet=QUIET)


# — what needs attention —

NOW = at("2026-03-02 12:00")
GOOD = row(at("2026-03-02 03:18"))


def kinds(*rows: BackupRow, scheduled: bool = True, since: datetime | None = MADE) -> list[str]:
    return [concern.kind for concern in health(rows, NOW, scheduled, since)]


def test_with_a_good_backup_of_last_night_nothing_needs_attention() -> None:
    assert kinds(GOOD) == []
    assert kinds(failed("2026-03-02 03:02"), GOOD) == []


def test_a_backup_is_late_after_36_hours() -> None:
    assert kinds(row(at("2026-03-01 00:00"))) == []
    [late] = health([row(at("2026-02-28 23:59"))], NOW, True, MADE)
    assert late.kind == "late"
    assert "36 hours ago, 2026-02-28 23:59 UTC" in late.sentence
    assert kinds(row(at("2026-02-28 23:59")), row(NOW, scheduled=False)) == ["late"]


def test_an_instance_without_a_backup_has_36_hours_before_that_is_said() -> None:
    assert kinds(since=NOW - timedelta(hours=36)) == []
    assert kinds(since=NOW - timedelta(hours=37)) == ["never"]
    assert kinds(since=None) == ["never"]
    assert kinds(since=MADE, scheduled=False) == []


def test_a_failure_says_what_failed_and_goes_when_one_was_made() -> None:
    before, after = failed("2026-03-02 04:00"), failed("2026-03-02 05:00")
    [concern] = health([GOOD, before, after], NOW, True, MADE)
    assert concern == Concern(
        "failed",
        "the last backup of the schedule failed, 2026-03-02 05:00 UTC, and 1 before it: there is no room left",
        "it is tried again after 15 minutes, then every hour; mend what it says",
    )
    assert kinds(GOOD, before, after, row(at("2026-03-02 06:00"))) == []


def test_a_failed_verification_is_said_of_any_backup_and_without_a_schedule_too() -> None:
    bad = row(at("2026-02-20 03:18"), scheduled=False, verified_at=NOW, verify_problem="it ends too early")
    assert kinds(GOOD, bad) == ["verify"]
    [concern] = health([GOOD, bad], NOW, False)
    assert bad.name in concern.sentence
    assert concern.sentence.endswith("it ends too early")
    assert kinds(GOOD, row(bad.created_at, verify_problem="x", state="gone")) == []


def test_a_key_that_was_destroyed_is_said_until_there_is_a_newer_good_backup() -> None:
    key = "0123456789abcdef"
    lost = row(at("2026-03-02 03:18"), lost_keys=(key,))
    older = row(at("2026-02-01 03:18"))
    [concern] = health([lost], NOW, True, MADE)
    assert concern.kind == "key" and "`company-agents backup make`" in concern.hint
    assert concern.sentence == f"no backup restores any more: the key {key} was destroyed; make one now"
    [concern] = health([lost, older], NOW, True, MADE)
    said = f"taken after 2026-02-01 03:18 UTC restores any more: the key {key} was destroyed"
    assert concern.kind == "key" and said in concern.sentence
    assert kinds(lost, failed("2026-03-02 04:00")) == ["key", "failed"]
    assert kinds(replace(lost, scheduled=False), scheduled=False) == ["key"]
    assert kinds(lost, row(at("2026-03-02 04:18"))) == []


def test_of_a_backup_that_has_its_keys_and_of_one_that_is_another_instance_s_no_key_was_destroyed() -> None:
    lost = row(at("2026-03-02 04:18"), lost_keys=("0123456789abcdef",), scheduled=False)
    assert kinds(GOOD, replace(lost, with_ring=True)) == []
    assert kinds(GOOD, replace(lost, made_by="found there")) == []
    assert replace(lost, with_ring=True).good and not replace(lost, made_by="found there").good


def test_what_somebody_has_put_there_does_not_say_that_all_is_well() -> None:
    lost = row(at("2026-03-01 03:18"), lost_keys=("0123456789abcdef",))
    found = row(at("2026-03-02 03:18"), made_by="found there", scheduled=False, verified_at=None)
    assert "key" in kinds(lost, found)
    assert "key" not in kinds(lost, replace(found, verified_at=NOW))


def test_of_one_that_is_only_not_there_no_key_was_destroyed() -> None:
    lost = row(at("2026-01-01 03:18"), lost_keys=("0123456789abcdef",), scheduled=False)
    assert kinds(replace(GOOD, missing_at=NOW), lost) == ["never", "missing"]


def test_that_the_last_backup_is_not_there_any_more_is_said() -> None:
    gone = row(at("2026-03-02 03:18"), missing_at=NOW)
    assert kinds(gone) == ["never", "missing"]
    assert kinds(replace(gone, created_at=at("2026-03-01 03:18")), GOOD) == []
    assert kinds(replace(gone, scheduled=False), GOOD) == []
    [_, concern] = health([gone, row(at("2026-03-01 03:18"), missing_at=NOW)], NOW, True, MADE)
    assert concern.sentence == f"the backup {gone.name} (and 1 more) is not where it was made"


def test_that_a_drill_failed_is_said_also_when_what_was_tried_is_gone() -> None:
    bad = row(at("2026-02-01 03:18"), drilled_at=at("2026-02-01 03:30"), drill_problem="x", state="gone")
    assert kinds(GOOD, bad) == ["drill"]


def test_only_the_last_drill_counts() -> None:
    bad = row(at("2026-02-01 03:18"), drilled_at=at("2026-02-01 03:30"), drill_problem="a secret does not open")
    assert kinds(GOOD, bad) == ["drill"]
    assert kinds(row(GOOD.created_at, drilled_at=at("2026-03-02 03:30")), bad) == []


def test_every_concern_says_what_to_do() -> None:
    rows = [
        row(at("2026-01-05 03:18")),
        failed("2026-03-02 04:00"),
        row(at("2026-01-02 03:18"), verify_problem="x", drilled_at=NOW, drill_problem="y"),
    ]
    found = health(rows, NOW, True, MADE)
    assert [concern.kind for concern in found] == ["late", "failed", "verify", "drill"]
    assert all(concern.hint for concern in found)


# — whether there is a schedule —


@pytest.mark.parametrize(
    ("setting", "own", "daily"),
    [
        *[("auto", False, True), ("auto", True, False)],
        *[("daily", False, True), ("daily", True, True), ("off", False, False), ("off", True, False)],
    ],
)
def test_it_is_on_for_the_embedded_database_unless_told_otherwise(
    setting: str, own: bool, daily: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPANY_AGENTS_BACKUP_SCHEDULE", setting)
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:word@host/agents" if own else "")
    settings: Settings = read_settings(home=tmp_path)
    assert is_scheduled(settings) is daily
    assert (settings.backup_daily, settings.backup_weekly, settings.backup_drill) == (7, 4, "off")
