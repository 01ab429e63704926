"""
What an integration's row says of its credential, and what a new credential means for the one before it.
"""

from __future__ import annotations

from typing import Any

from company_agents.integrations.credential import Credential
from company_agents.integrations.probe import Proof
from company_agents.integrations.provider import Provider

# How often a consent is tried that somebody else's was put beside meanwhile.
MOST_ROUNDS = 3


def kills_others(provider: Provider, credential: Credential) -> bool:
    """Whether this consent has killed the one before it of the same account, so that there is no way back to that one."""
    return credential.consent is not None and provider.oauth is not None and provider.oauth.one_consent


def may_be_same(before: str, now: str) -> bool:
    """Whether two accounts may be one; an empty one is not known."""
    return not before or not now or before == now


def shown(credential: Credential, proof: Proof, account: str) -> dict[str, Any]:
    """What an integration's row says of its credential."""
    consent = credential.consent
    return {
        "destination": credential.destination.origin,
        "kind": "token" if consent is None else "consent",
        "account": proof.account or account,
        "scopes": [*(proof.scopes or (consent.scopes if consent else ()))],
    }
