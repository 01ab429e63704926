"""
Whether a consent is good by the word of the server that gave it (RFC 7662): for a provider that nothing is tried at.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from company_agents.companies.scope import CompanyScope
from company_agents.errors import NotFound, ProbeFailed
from company_agents.integrations.clients import Clients
from company_agents.integrations.credential import Credential
from company_agents.integrations.oauth.calls import OAuthCalls
from company_agents.integrations.oauth.model import Client, Rejected
from company_agents.integrations.provider import Provider


def host(provider: Provider, credential: Credential) -> str | None:
    """The host of the server that is asked; None where the provider has a probe, or the server says nothing of its tokens."""
    if provider.probe is not None or credential.consent is None:
        return None
    return urlsplit(credential.consent.endpoints.introspection or "").hostname


async def check(
    clients: Clients,
    calls: OAuthCalls,
    scope: CompanyScope,
    provider: Provider,
    credential: Credential,
    actor: str | None,
) -> None:
    """
    Ask the server, where it is to be asked; the client is opened for that, on record.

    Raises:
        ProbeFailed: it says that the token is not good.
        Unavailable: it did not answer.
    """
    consent = credential.consent
    if consent is None or host(provider, credential) is None:
        return
    issuer = consent.endpoints.issuer or ""
    try:
        client = await clients.get(scope, provider.name, issuer, actor=actor, purpose="introspect")
    except NotFound:
        return
    asked = (client.id, client.endpoints.introspection)
    if asked == (consent.client_id, consent.endpoints.introspection):
        await ask(calls, provider, client, credential)


async def ask(calls: OAuthCalls, provider: Provider, client: Client, credential: Credential) -> None:
    """
    The same, with the client at hand.

    Raises:
        ProbeFailed, Unavailable: as above.
    """
    if host(provider, credential) is None:
        return
    try:
        good = await calls.introspect(provider, client, credential.token)
    except Rejected:
        # It does not tell this client: that says nothing of the token.
        return
    if good is False:
        raise ProbeFailed(
            f"the server that gave this consent for {provider.title} says that it is not good any more",
            hint="rotate it to a new consent",
        )
