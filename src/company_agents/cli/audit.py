"""
company-agents audit …
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any
from uuid import UUID

import typer

from company_agents.cli import terminal
from company_agents.cli.command import Session, command
from company_agents.cli.terminal import Result, plain
from company_agents.errors import Exit

group = typer.Typer(name="audit", help="What happened.", no_args_is_help=True)

Company = Annotated[UUID | None, typer.Option("--company", help="only this company's; without: all, and the instance's")]
# Seconds between two looks while following.
FOLLOW_EVERY = 0.5


@command(group, "tail")
async def tail(
    session: Session,
    company: Company = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="how many of the newest")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on with every new event, until Ctrl-C")] = False,
) -> Result:
    """Print the newest events, oldest first; with --json, one object a line."""
    seen: dict[UUID | None, int] = {}
    found: list[dict[str, Any]] = []
    for chain in await _chains(session, company):
        events = await session.app.events.newest(chain, limit=limit)
        seen[chain] = events[0]["seq"] if events else 0
        found += [{"company": chain, **event} for event in events]
    _print(session, sorted(found, key=lambda event: str(event["at"]))[-limit:])
    while follow:
        await asyncio.sleep(FOLLOW_EVERY)
        for chain in await _chains(session, company):
            events = await session.app.events.after(chain, seen.get(chain, 0))
            seen[chain] = events[-1]["seq"] if events else seen.get(chain, 0)
            _print(session, [{"company": chain, **event} for event in events])
    return Result(None)


@command(group, "verify")
async def verify(session: Session, company: Company = None) -> Result:
    """Prove the chains: an event that was edited, deleted, reordered or inserted is named."""
    if company is None:
        chains = await session.app.events.verify_all()
    else:
        await session.app.events.company_exists(company)
        chains = [await session.app.events.verify(company)]
    faults = [fault for chain in chains for fault in chain.faults]
    lines = [f"{sum(chain.events for chain in chains)} events in {len(chains)} chains were read"]
    lines += [f"chain {fault.chain}, event {fault.seq}: {fault.what}" for fault in faults]
    lines.append("something is wrong" if faults else "nothing is wrong")
    data = {"ok": not faults, "chains": [plain(chain) for chain in chains]}
    return Result(data, text="\n".join(lines), exit_status=Exit.FAILED if faults else Exit.DONE)


@command(group, "export")
async def export(session: Session, company: Company = None) -> Result:
    """Print every event, oldest first, one JSON object a line, with what links it."""
    for chain in await _chains(session, company):
        async for event in session.app.events.linked(chain):
            terminal.line({"company": chain, **event})
    return Result(None)


async def _chains(session: Session, company: UUID | None) -> list[UUID | None]:
    if company is not None:
        await session.app.events.company_exists(company)
        return [company]
    chains: list[UUID | None] = [None]
    after: str | None = None
    while True:
        page = await session.app.companies.list(session.principal, after, 200)
        chains += [entry.id for entry in page.items]
        if (after := page.next) is None:
            return chains


def _print(session: Session, events: list[dict[str, Any]]) -> None:
    for event in events:
        if session.json:
            terminal.line(event)
            continue
        rest = {name: value for name, value in event.items() if name not in ("seq", "at", "action", "company", "actor")}
        facts = " ".join(f"{name}={value}" for name, value in rest.items())
        where = f"{event['company'] or 'instance'}#{event['seq']}"
        terminal.text_line(f"{event['at'][:19]}Z  {where}  {event['action']}  {event.get('actor', '—')}  {facts}")
