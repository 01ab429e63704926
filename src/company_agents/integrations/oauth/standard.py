"""
The rules of a provider as an authorization server; those of the standards where its file has none.
"""

from __future__ import annotations

from company_agents.integrations.provider import OAuth, Provider

_STANDARD = OAuth(flows=())


def rules(provider: Provider) -> OAuth:
    """What the provider's file says; an operator's own server at a provider without OAuth behaves as the RFCs say."""
    return provider.oauth or _STANDARD
