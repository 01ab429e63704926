"""
company-agents company …
"""

from __future__ import annotations

from typing import Annotated

import typer

from company_agents.cli.command import Session, command
from company_agents.cli.options import After, Limit
from company_agents.cli.terminal import Result

group = typer.Typer(name="company", help="The companies of this instance.", no_args_is_help=True)


@command(group, "create")
async def create(session: Session, name: Annotated[str, typer.Argument(help="what it is called")]) -> Result:
    """Create a company."""
    return Result(await session.app.companies.create(session.principal, name))


@command(group, "list")
async def listing(session: Session, after: After = None, limit: Limit = 50) -> Result:
    """List the companies."""
    page = await session.app.companies.list(session.principal, after, limit)
    return Result(page, columns=("id", "name", "created_at"))
