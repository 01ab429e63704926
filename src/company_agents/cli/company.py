"""
company-agents company …
"""

from __future__ import annotations

from company_agents.cli.command import Session, command, noun
from company_agents.cli.options import After, Limit, Name
from company_agents.cli.terminal import Result

group = noun("company", "The companies of this instance.")


@command(group, "create")
async def create(session: Session, name: Name) -> Result:
    """Create a company."""
    return Result(await session.app.companies.create(session.principal, name))


@command(group, "list")
async def listing(session: Session, after: After = None, limit: Limit = 50) -> Result:
    """List the companies."""
    page = await session.app.companies.list(session.principal, after, limit)
    return Result(page, columns=("id", "name", "created_at"))
