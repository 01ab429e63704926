"""
One call of a refresh: what is known of it while it is made, and what its reply makes of a consent.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from company_agents.errors import CompanyAgentsError
from company_agents.integrations.endings import ASKED_ANEW, Ending, Plan, plan
from company_agents.integrations.oauth.model import Client, Consent, Granted
from company_agents.integrations.provider import Provider

log = logging.getLogger(__name__)


@dataclass
class Call:
    """What is known of the call that an attempt makes."""

    sent: bool = False
    at: datetime | None = None
    single_use: bool = True
    reuse_window: float = 0
    title: str = "the provider"
    to: Provider | None = None
    client: Client | None = None

    @property
    def provider(self) -> Provider:
        """Whom it goes to."""
        assert self.to is not None
        return self.to

    def meant(self, provider: Provider, consent: Consent) -> None:
        """Say whom it goes to. Where nothing is known of its refresh tokens, they are taken to be single use."""
        rules = provider.oauth.refresh if provider.oauth else None
        self.to, self.title = provider, provider.title
        self.single_use = consent.flow not in ASKED_ANEW and (rules is None or rules.single_use)
        self.reuse_window = rules.reuse_window if rules else 0


def following(consent: Consent, granted: Granted, at: datetime) -> Consent:
    """The consent after a refresh that was asked for at this time."""
    ends = consent.refresh_expires_at if granted.refresh is None else None
    if granted.refresh_expires_in is not None:
        ends = at + timedelta(seconds=granted.refresh_expires_in)
    return replace(
        consent,
        refresh=granted.refresh or consent.refresh,
        expires_at=None if granted.expires_in is None else at + timedelta(seconds=granted.expires_in),
        refresh_expires_at=ends,
        scopes=granted.scopes or consent.scopes,
    )


def lost_reply(title: str, error: CompanyAgentsError | None = None) -> str:
    said = f": {error.sentence}" if error else ""
    return f"the reply to a refresh was lost, and whether {title} still takes the refresh token is not known{said}"


def planned(provider: Provider, consent: Consent | None, *, began: datetime, now: datetime) -> Plan:
    """The plan of a consent that was renewed. There is none where it cannot be made: the token is kept all the same."""
    try:
        return plan(provider, consent, began=began, now=now)
    except Exception as error:
        log.error("a refresh cannot be planned: %s", type(error).__name__)
        return Plan(None, Ending())
