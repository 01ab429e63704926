"""
company-agents provider …
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from company_agents.cli.command import Session, command, noun
from company_agents.cli.terminal import Result

if TYPE_CHECKING:
    from company_agents.integrations.provider import CredentialPlace, Provider, Scope

group = noun("provider", "The services that can be connected.")


@command(group, "list")
async def listing(session: Session) -> Result:
    """List the providers: the shipped ones, and your own."""
    providers = session.app.providers
    items = [{**_shown(provider), "connect": _short(provider)} for provider in providers.list()]
    bad = providers.bad_files()
    note = "\n".join(f"not loaded: {file}" for file in bad)
    data = {"items": items, "next": None, "bad_files": bad}
    return Result(data, columns=("name", "title", "connect", "description"), note=note)


@command(group, "show")
async def show(
    session: Session, name: Annotated[str, typer.Argument(metavar="NAME", help="its name; `provider list` shows them")]
) -> Result:
    """Show a provider: hosts, ways to connect it, scopes, and how its consents behave."""
    provider = session.app.providers.get(name)
    return Result(_shown(provider), text=_told(provider))


def _shown(provider: Provider) -> dict[str, object]:
    return provider.model_dump(mode="json", exclude={"token_pattern", "refused_codes"})


def _short(provider: Provider) -> str:
    from company_agents.integrations.provider_words import takes_a_token

    words = ["token"] if takes_a_token(provider) else []
    return ", ".join([*words, *(["consent"] if provider.oauth else [])])


def _told(provider: Provider) -> str:
    from company_agents.integrations.provider_words import quirks, takes_a_token, ways

    oauth = provider.oauth
    facts = [
        ("address", provider.base_url or " ".join(("your own: --base-url", provider.address_hint)).strip()),
        ("also at", ", ".join(provider.extra_hosts)),
        ("credential", _where(provider.credential)),
        ("", f"{_where(oauth.credential)}, after a consent" if oauth and oauth.credential else ""),
        ("token", _with_page(provider.token_hint, provider.token_page) if takes_a_token(provider) else ""),
        ("client", _with_page(oauth.client_hint, oauth.client_page) if oauth else ""),
        ("probe", _probe(provider)),
    ]
    lines = [f"{provider.title}: {provider.description}", ""]
    lines += [f"{name:<10}  {value}" for name, value in facts if value]
    lines += _listed("how to connect it", ways(provider))
    lines += _listed("what the token should be allowed to do", _scopes(provider.scopes))
    lines += _listed("what a consent asks for", _scopes(oauth.scopes) if oauth else [])
    lines += _listed("how its consents behave", quirks(provider))
    lines += _listed("where this is from", provider.sources)
    return "\n".join(lines)


def _where(place: CredentialPlace) -> str:
    if place.kind == "sigv4":
        return "in a signature for AWS (SigV4): the secret is not sent"
    if place.kind == "header":
        return f"in the header {place.name}: {place.template}"
    return f"in the query, as {place.name}" if place.kind == "query" else f"as HTTP Basic, {place.template}"


def _with_page(hint: str, page: str | None) -> str:
    return ", ".join(part for part in (hint, page) if part) or "—"


def _probe(provider: Provider) -> str:
    probe = provider.probe
    return f"{probe.method} {probe.path}" if probe else "not tried when it is connected"


def _scopes(scopes: Sequence[Scope]) -> list[str]:
    width = max((len(scope.name) for scope in scopes), default=0)
    return [f"{scope.name:<{width}}  {scope.why}" for scope in scopes]


def _listed(title: str, lines: Sequence[str]) -> list[str]:
    return ["", title, *(f"  {line}" for line in lines)] if lines else []
