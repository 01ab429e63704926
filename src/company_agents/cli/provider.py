"""
company-agents provider …
"""

from __future__ import annotations

from typing import Annotated

import typer

from company_agents.cli.command import Session, command
from company_agents.cli.terminal import Result
from company_agents.integrations.provider import Provider

group = typer.Typer(name="provider", help="The services that can be connected.", no_args_is_help=True)


@command(group, "list")
async def listing(session: Session) -> Result:
    """List the providers."""
    items = [_shown(provider) for provider in session.app.providers.list()]
    return Result({"items": items, "next": None}, columns=("name", "title", "base_url", "description"))


@command(group, "show")
async def show(session: Session, name: Annotated[str, typer.Argument(help="its name")]) -> Result:
    """Show a provider: its host, where to get a token, and what the token should be allowed to do."""
    return Result(_shown(session.app.providers.get(name)))


def _shown(provider: Provider) -> dict[str, object]:
    return provider.model_dump(mode="json", exclude={"token_pattern", "refused_codes"})
