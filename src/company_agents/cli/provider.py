"""
company-agents provider …
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from company_agents.cli.command import Session, command, noun
from company_agents.cli.terminal import Result

if TYPE_CHECKING:
    from company_agents.integrations.provider import Provider

group = noun("provider", "The services that can be connected.")


@command(group, "list")
async def listing(session: Session) -> Result:
    """List the providers."""
    items = [_shown(provider) for provider in session.app.providers.list()]
    return Result({"items": items, "next": None}, columns=("name", "title", "base_url", "description"))


@command(group, "show")
async def show(
    session: Session, name: Annotated[str, typer.Argument(metavar="NAME", help="its name; `provider list` shows them")]
) -> Result:
    """Show a provider: its host, where to get a token, and what the token should be allowed to do."""
    provider = session.app.providers.get(name)
    return Result(_shown(provider), text=_told(provider))


def _shown(provider: Provider) -> dict[str, object]:
    return provider.model_dump(mode="json", exclude={"token_pattern", "refused_codes"})


def _told(provider: Provider) -> str:
    place = provider.credential
    where = {
        "header": f"in the header {place.name}: {place.template}",
        "query": f"in the query, as {place.name}",
        "basic": f"as HTTP Basic, {place.template}",
    }[place.kind]
    token = ", ".join(part for part in (provider.token_hint, provider.token_page) if part)
    tried = f"{provider.probe.method} {provider.probe.path}" if provider.probe else "not tried when it is connected"
    lines = [
        f"{provider.title}: {provider.description}",
        "",
        f"address     {provider.base_url or 'your own: --base-url'}",
        f"credential  {where}",
        f"token       {token or '—'}",
        f"probe       {tried}",
    ]
    if provider.scopes:
        width = max(len(scope.name) for scope in provider.scopes)
        lines += ["", "what the token should be allowed to do"]
        lines += [f"  {scope.name:<{width}}  {scope.why}" for scope in provider.scopes]
    return "\n".join(lines)
