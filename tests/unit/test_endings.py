"""
When a consent is due for a refresh, and when it ends.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from company_agents.integrations.endings import Ending, ending, plan, refresh_due
from company_agents.integrations.oauth.model import Consent, Endpoints
from company_agents.integrations.provider import OAuth, Provider, Refresh
from company_agents.sensitive import Sensitive

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def days(number: float) -> datetime:
    return NOW + timedelta(days=number)


def provider(test_mode_days: int | None = None, **refresh: int) -> Provider:
    oauth = OAuth(issuer="https://login.acme.example", refresh=Refresh(**refresh), test_mode_days=test_mode_days)
    return Provider(
        name="acme",
        title="Acme",
        description="A service.",
        base_url="https://acme.example",
        sources=("https://acme.example",),
        oauth=oauth,
    )


def consent(flow: str = "code", **more: object) -> Consent:
    given = {"refresh": Sensitive("a-refresh-token"), "expires_at": NOW + timedelta(hours=1), **more}
    return Consent(flow, "client-1", Endpoints("https://login.acme.example/token"), **given)  # type: ignore[arg-type]


@given(st.floats(1, 10 * 365 * 86400))
def test_a_refresh_is_due_before_the_end_and_not_before_half_of_the_life(life: float) -> None:
    end = NOW + timedelta(seconds=life)
    due = refresh_due(NOW, end)
    assert NOW + timedelta(seconds=life / 2) <= due + timedelta(milliseconds=1)
    assert due < end
    if life >= 240:
        assert (
            timedelta(seconds=max(60, life * 0.1) - 1)
            < end - due
            <= timedelta(seconds=max(60, life * 0.1) + life * 0.2 + 1)
        )


def test_those_that_were_made_together_are_not_due_together() -> None:
    dues = sorted(refresh_due(NOW, NOW + timedelta(hours=1)) for _ in range(200))
    assert dues[-1] - dues[0] > timedelta(minutes=6)


def test_what_has_no_end_is_not_due() -> None:
    assert plan(provider(), consent(expires_at=None), began=NOW, now=NOW).due is None
    assert plan(provider(), None, began=NOW, now=NOW).due is None


def test_a_refresh_token_that_dies_when_it_is_idle_is_used_before() -> None:
    planned = plan(provider(idle_days=30), consent(expires_at=None), began=NOW, now=NOW)
    assert planned.due == days(15)
    assert planned.end == Ending(days(30), "idle")


def test_what_cannot_be_renewed_ends_with_its_token_and_is_not_due() -> None:
    planned = plan(provider(), consent(refresh=None), began=NOW, now=NOW)
    assert (planned.due, planned.end) == (None, Ending(NOW + timedelta(hours=1), "token"))


@pytest.mark.parametrize("flow", ["client", "github_app"])
def test_what_is_asked_for_anew_has_no_end(flow: str) -> None:
    planned = plan(provider(absolute_days=1, idle_days=1), consent(flow, refresh=None), began=NOW, now=NOW)
    assert planned.end == Ending()
    assert planned.due is not None


def test_the_first_of_several_ends_counts() -> None:
    service = provider(idle_days=30, absolute_days=90)
    given = consent(refresh_expires_at=days(60))
    assert ending(service, given, began=NOW, now=NOW) == Ending(days(30), "idle")
    assert ending(service, given, began=NOW, now=days(40)) == Ending(days(60), "refresh")
    assert ending(service, consent(), began=NOW, now=days(70)) == Ending(days(90), "absolute")


def test_a_consent_of_a_test_that_has_outlived_it_was_none() -> None:
    service = provider(test_mode_days=7)
    assert ending(service, consent(), began=NOW, now=days(6)) == Ending(days(7), "testing")
    assert ending(service, consent(), began=NOW, now=days(7)) == Ending()
