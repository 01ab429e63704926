"""
company-agents run …
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from company_agents.cli.command import Session, command, noun
from company_agents.cli.options import After, CompanyId, Limit, SomeId, a_number, an_id
from company_agents.cli.terminal import Result, count
from company_agents.errors import WrongUsage

group = noun("run", "What agents are at: runs, their leases, and the credential versions that they hold.")


@command(group, "list")
async def listing(
    session: Session,
    company: CompanyId,
    agent: Annotated[
        UUID | None, typer.Option("--agent", parser=an_id, metavar="ID", help="only those of this agent")
    ] = None,
    state: Annotated[
        str | None, typer.Option("--state", metavar="STATE", help="only those of this state, as running")
    ] = None,
    after: After = None,
    limit: Limit = 50,
) -> Result:
    """List the runs of a company."""
    caller = await session.company(company)
    page = await session.app.runs.list(caller, agent=agent, state=state, after=after, limit=limit)
    return Result(page, columns=("id", "agent_id", "state", "purpose", "lease_until", "created_at"))


@command(group, "show")
async def show(session: Session, id: SomeId) -> Result:
    """Show a run, and the credential versions that it holds."""
    return Result(await session.app.runs.get(await session.company_of_run(id), id))


@command(group, "cancel")
async def cancel(session: Session, id: SomeId) -> Result:
    """End a run; its token is refused from now on."""
    return Result(await session.app.runs.cancel(await session.company_of_run(id), id))


@command(group, "cut")
async def cut(
    session: Session,
    integration: Annotated[
        UUID, typer.Option("--integration", parser=an_id, metavar="ID", help="the integration's id")
    ],
    version: Annotated[
        int | None,
        typer.Option("--version", parser=a_number(1, 999_999_999), metavar="V", help="the version that they hold"),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="every version, also the current one")] = False,
) -> Result:
    """Cut runs off from the old versions of a credential; their next call with it is refused."""
    if version is not None and every:
        raise WrongUsage("--version and --all exclude each other", hint="give one of them, or neither")
    caller = await session.company_of_integration(integration)
    found = await session.app.runs.cut(caller, integration, version=version, every=every)
    said = f"{count(found.runs, 'run')} cut off" if found.runs else "no run held one"
    return Result(found, note=said)
