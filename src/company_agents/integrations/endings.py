"""
When a consent is to be renewed, whether it can be at all, and when it ends for good whatever is done here.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from company_agents.integrations.oauth.model import Consent
from company_agents.integrations.provider import Provider

# Flows in which there is nothing to use up: the client, or the application, simply asks again.
ASKED_ANEW = frozenset({"client", "github_app"})
# A consent is refreshed before it expires: by this share of its life, and by this at least.
EARLY = 0.1
LEAST_EARLY = timedelta(seconds=60)
# And by up to this share of its life more, at random: those that were made together are not refreshed together.
SPREAD = 0.2


@dataclass(frozen=True, slots=True)
class Ending:
    """The moment, and the rule that sets it: token, refresh, idle, absolute, testing; None and empty where none is known."""

    at: datetime | None = None
    because: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """When a consent is due for its next refresh (None: there is none, or it does not expire), and its end."""

    due: datetime | None
    end: Ending


def refresh_due(now: datetime, expires_at: datetime) -> datetime:
    """When a consent of this moment is to be refreshed; one that lives for a minute or two, after half of its life."""
    life = max(expires_at - now, timedelta(0))
    early = max(LEAST_EARLY, EARLY * life) + random.uniform(0, SPREAD) * life  # noqa: S311
    return expires_at - min(early, life / 2)


def plan(provider: Provider, consent: Consent | None, *, began: datetime, now: datetime) -> Plan:
    """What is to come of a consent that was given at `began`, and whose token is of `now`."""
    end = ending(provider, consent, began=began, now=now)
    due = None
    if consent is not None and renewable(consent):
        rules = provider.oauth.refresh if provider.oauth else None
        dues = [refresh_due(now, consent.expires_at)] if consent.expires_at else []
        if rules is not None and rules.idle_days is not None and consent.refresh is not None:
            dues.append(now + timedelta(days=rules.idle_days) / 2)
        due = min(dues, default=None)
    return Plan(due, end)


def renewable(consent: Consent | None) -> bool:
    """Whether there is something to renew it with."""
    return consent is not None and (consent.flow in ASKED_ANEW or consent.refresh is not None)


def ending(provider: Provider, consent: Consent | None, *, began: datetime, now: datetime) -> Ending:
    """
    The first end that is known of a consent which was given at `began` and renewed `now`.
    """
    if consent is None or consent.flow in ASKED_ANEW:
        return Ending()
    if not renewable(consent):
        return Ending(consent.expires_at, "token") if consent.expires_at else Ending()
    ends: list[tuple[datetime, str]] = []
    if consent.refresh_expires_at is not None:
        ends.append((consent.refresh_expires_at, "refresh"))
    oauth = provider.oauth
    rules = oauth.refresh if oauth else None
    if rules is not None and rules.idle_days is not None:
        ends.append((now + timedelta(days=rules.idle_days), "idle"))
    if rules is not None and rules.absolute_days is not None:
        ends.append((began + timedelta(days=rules.absolute_days), "absolute"))
    if oauth is not None and oauth.test_mode_days is not None:
        tested = began + timedelta(days=oauth.test_mode_days)
        # One that has outlived this is of an application that is not being tested.
        if tested > now:
            ends.append((tested, "testing"))
    return Ending(*min(ends)) if ends else Ending()


def said_of(because: str, title: str, at: datetime) -> str:
    """Why it ends, in a sentence."""
    when = f"{at:%d %B %Y, %H:%M} UTC".lstrip("0")
    return {
        "token": f"its token ends on {when}, and {title} gave nothing to renew it with",
        "refresh": f"{title} ends this consent on {when}",
        "idle": f"{title} ends this consent on {when}, unless it is renewed before",
        "absolute": f"a consent at {title} has an end in any case; this one ends on {when}",
        "testing": f"if the application is still in testing at {title}, this consent ends on {when}",
    }[because]
