"""
company-agents run …
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from company_agents.cli import terminal
from company_agents.cli.command import Session, command, noun, read_prompt
from company_agents.cli.options import (
    After,
    CompanyId,
    Limit,
    Prompt,
    PromptStdin,
    SomeId,
    a_number,
    a_sum,
    an_id,
)
from company_agents.cli.terminal import Result, count
from company_agents.errors import Exit, WrongUsage

if TYPE_CHECKING:
    from company_agents.identity.principal import Caller
    from company_agents.runs.model import Run
    from company_agents.runs.output import Line

group = noun("run", "What agents are at: runs, their leases, and the credential versions that they hold.")

# Seconds between two looks while following.
FOLLOW_EVERY = 0.5
# Pieces of output that are asked for at once.
AT_ONCE = 500

Follow = Annotated[bool, typer.Option("--follow", "-f", help="print what it puts out, until it has ended")]


@command(group, "start")
async def start(
    session: Session,
    agent: Annotated[UUID, typer.Option("--agent", parser=an_id, metavar="ID", help="whose run it is")],
    task: Annotated[
        UUID | None, typer.Option("--task", parser=an_id, metavar="ID", help="the task that it is to do")
    ] = None,
    prompt: Prompt = None,
    prompt_stdin: PromptStdin = False,
    time_limit: Annotated[
        int | None,
        typer.Option("--time-limit", parser=a_number(10, 86_340), metavar="S", help="seconds from its first start"),
    ] = None,
    token_limit: Annotated[
        int | None,
        typer.Option("--token-limit", parser=a_number(1, 999_999_999), metavar="N", help="tokens of its models"),
    ] = None,
    usd_limit: Annotated[
        int | None, typer.Option("--usd-limit", parser=a_sum, metavar="X", help="dollars that its calls may cost")
    ] = None,
    follow: Follow = False,
) -> Result:
    """Start a run of an agent, which its adapter executes."""
    caller = await session.company_of("agent", agent)
    text = read_prompt(prompt, from_stdin=prompt_stdin)
    limits = {"time_limit": time_limit, "token_limit": token_limit, "micros_limit": usd_limit}
    run = await session.app.runs.start(caller, agent, prompt=text, task=task, **limits)
    return await _followed(session, caller, run) if follow else Result(run)


@command(group, "logs")
async def logs(session: Session, id: SomeId, follow: Follow = False) -> Result:
    """Print what a run has put out; with --json, one object a line."""
    caller = await session.company_of("run", id)
    if follow:
        return await _followed(session, caller, await session.app.runs.get(caller, id))
    await _print_new(session, caller, id, 0)
    return Result(None)


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
    return Result(await session.app.runs.get(await session.company_of("run", id), id))


@command(group, "cancel")
async def cancel(session: Session, id: SomeId) -> Result:
    """End a run; its token is refused from now on."""
    return Result(await session.app.runs.cancel(await session.company_of("run", id), id))


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
    caller = await session.company_of("integration", integration)
    found = await session.app.runs.cut(caller, integration, version=version, every=every)
    said = f"{count(found.runs, 'run')} cut off" if found.runs else "no run held one"
    return Result(found, note=said)


async def _followed(session: Session, caller: Caller, run: Run) -> Result:
    """What a run puts out, until it has ended; then how."""
    seen = 0
    while True:
        ended = run.ended_at is not None
        seen = await _print_new(session, caller, run.id, seen)
        if ended:
            break
        await asyncio.sleep(FOLLOW_EVERY)
        run = await session.app.runs.get(caller, run.id)
    # The last words come in the moment after the end.
    await asyncio.sleep(FOLLOW_EVERY)
    await _print_new(session, caller, run.id, seen)
    said = f"the run {run.state}" if run.state in ("finished", "failed") else f"the run is {run.state}"
    note = f"{said}: {run.reason}" if run.reason else said
    return Result(run if session.json else None, note=note, exit_status=_status(run))


async def _print_new(session: Session, caller: Caller, run_id: UUID, seen: int) -> int:
    while lines := await session.app.runs.output(caller, run_id, seen, AT_ONCE):
        for line in lines:
            _print(session, line)
        seen = lines[-1].seq
    return seen


def _print(session: Session, line: Line) -> None:
    if session.json:
        terminal.line(line)
    else:
        terminal.piece(line.text if line.stream != "note" else f"\n[{line.text}]\n")


def _status(run: Run) -> Exit:
    return Exit.DONE if run.state == "finished" else Exit.FAILED
