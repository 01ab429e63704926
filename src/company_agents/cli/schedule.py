"""
company-agents schedule …
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from company_agents.cli.command import Session, command, noun, read_prompt
from company_agents.cli.options import After, CompanyId, Limit, Name, Prompt, PromptStdin, SomeId, an_id
from company_agents.cli.terminal import Result

group = noun("schedule", "Runs that are started whenever a cron expression says so.")


@command(group, "create")
async def create(
    session: Session,
    name: Name,
    agent: Annotated[UUID, typer.Option("--agent", parser=an_id, metavar="ID", help="whose runs are started")],
    cron: Annotated[
        str, typer.Option("--cron", metavar="EXPR", help="minute hour day month weekday, as '0 9 * * MON-FRI'")
    ],
    timezone: Annotated[
        str, typer.Option("--timezone", metavar="ZONE", help="where these are, as Europe/Berlin")
    ] = "UTC",
    prompt: Prompt = None,
    prompt_stdin: PromptStdin = False,
) -> Result:
    """Start a run of an agent whenever a cron expression says so."""
    caller = await session.company_of("agent", agent)
    text = read_prompt(prompt, from_stdin=prompt_stdin)
    return Result(await session.app.schedules.create(caller, agent, name, cron, text, timezone))


@command(group, "list")
async def listing(session: Session, company: CompanyId, after: After = None, limit: Limit = 50) -> Result:
    """List the schedules of a company."""
    page = await session.app.schedules.list(await session.company(company), after, limit)
    return Result(page, columns=("id", "name", "cron", "timezone", "enabled", "next_at", "skipped"))


@command(group, "pause")
async def pause(session: Session, id: SomeId) -> Result:
    """Start nothing until it is resumed."""
    return Result(await session.app.schedules.pause(await session.company_of("schedule", id), id))


@command(group, "resume")
async def resume(session: Session, id: SomeId) -> Result:
    """Start runs again, from the next moment on. What was missed is not made up for."""
    return Result(await session.app.schedules.resume(await session.company_of("schedule", id), id))


@command(group, "delete")
async def delete(session: Session, id: SomeId) -> Result:
    """Delete a schedule; its runs stay."""
    await session.app.schedules.delete(await session.company_of("schedule", id), id)
    return Result({"id": id, "deleted": True})
