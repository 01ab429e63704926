"""
company-agents audit …
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from company_agents.audit.against import Compared
from company_agents.cli import terminal
from company_agents.cli.command import Session, command, noun
from company_agents.cli.options import a_number, an_id
from company_agents.cli.terminal import NOTHING, Result, count, plain
from company_agents.errors import Exit, WrongUsage

group = noun("audit", "What happened.")

Company = Annotated[
    UUID | None,
    typer.Option("--company", parser=an_id, metavar="ID", help="only this company's; else all, and the instance's"),
]
# What has a place of its own in a line of `audit tail`.
SHOWN = ("seq", "at", "action", "company", "actor")
# Seconds between two looks while following.
FOLLOW_EVERY = 0.5


@command(group, "tail")
async def tail(
    session: Session,
    company: Company = None,
    limit: Annotated[
        int, typer.Option("--limit", parser=a_number(1, 1000), metavar="N", help="how many of the newest, up to 1000")
    ] = 50,
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
    if not (found or follow or session.json):
        terminal.note(NOTHING)
    while follow:
        await asyncio.sleep(FOLLOW_EVERY)
        for chain in await _chains(session, company):
            events = await session.app.events.after(chain, seen.get(chain, 0))
            seen[chain] = events[-1]["seq"] if events else seen.get(chain, 0)
            _print(session, [{"company": chain, **event} for event in events])
    return Result(None)


@command(group, "verify")
async def verify(
    session: Session,
    company: Company = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", metavar="FILE", help="compare all chains with what left of them, as a file sink has it"
        ),
    ] = None,
) -> Result:
    """Prove the chains: an event that was edited, deleted, reordered or inserted is named."""
    if against is not None:
        if company is not None:
            raise WrongUsage("--against compares every chain that is in the file", hint="leave --company away")
        return _compared(await session.app.events.compare(against))
    if company is None:
        chains = await session.app.events.verify_all()
    else:
        await session.app.events.company_exists(company)
        chains = [await session.app.events.verify(company)]
    faults = [fault for chain in chains for fault in chain.faults]
    events = sum(chain.events for chain in chains)
    lines = [f"{count(events, 'event')} in {count(len(chains), 'chain')}"]
    lines += [f"chain {fault.chain}, event {fault.seq}: {fault.what}" for fault in faults]
    unproved = sum(chain.unproved for chain in chains)
    if unproved:
        lines.append(f"{count(unproved, 'event')} cannot be proved: the instance was restored without its secrets")
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


@command(group, "key")
async def key(
    session: Session,
    renew: Annotated[bool, typer.Option("--renew", help="make a new key, which signs from now on")] = False,
) -> Result:
    """Print the public keys with which the heads that leave are signed. Keep them where the lines are kept."""
    head_keys = session.app.outbox.head_keys
    if renew:
        await session.app.audit.append(None, "audit.head_key_renewed", actor=session.principal.label)
        await head_keys.renew()
    keys = [{"number": key.number, "public": key.text} for key in await head_keys.public()]
    lines = "\n".join(f"{key['number']}  {key['public']}" for key in keys)
    return Result({"items": keys, "next": None}, text=lines)


@command(group, "sinks")
async def sinks(session: Session) -> Result:
    """Show where the chains go out to, and how that goes."""
    states = await session.app.outbox.sinks.states(session.principal)
    return Result({"items": states, "next": None}, columns=("address", "required", "written_at", "problem"))


def _compared(compared: Compared) -> Result:
    """What was compared, and the first place where it is not the same."""
    lines = [
        f"{count(compared.events, 'event')} and {count(compared.heads, 'signed head')} "
        f"of {count(compared.chains, 'chain')} in the file"
    ]
    if compared.torn:
        lines.append(f"{count(compared.torn, 'line')} not whole, and passed over")
    for each in compared.faults:
        where = f"line {each.line}, chain {each.chain}, event {each.seq}: " if each.chain else ""
        lines.append(f"{where}{each.what}")
    lines.append("something is wrong" if compared.faults else "nothing is wrong")
    data = {"ok": not compared.faults, **plain(compared)}
    return Result(data, text="\n".join(lines), exit_status=Exit.FAILED if compared.faults else Exit.DONE)


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
        terminal.text_line(_told(event))


def _told(event: dict[str, Any]) -> str:
    """One line: when, which event of which chain, what, who, and the facts."""
    facts = " ".join(f"{name}={_fact(value)}" for name, value in event.items() if name not in SHOWN)
    chain = str(event["company"])[:8] if event["company"] else "instance"
    who = event.get("actor") or "-"
    return f"{event['at'][:19]}Z  {chain} {event['seq']:>5}  {event['action']:<24}  {who}  {facts}".rstrip()


def _fact(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
