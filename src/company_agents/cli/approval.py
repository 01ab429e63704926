"""
company-agents approval …
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from company_agents.cli.command import Session, command, noun
from company_agents.cli.options import After, CompanyId, Limit, SomeId
from company_agents.cli.terminal import Result, plain, short_time

if TYPE_CHECKING:
    from company_agents.integrations.approval_forms import AsSent
    from company_agents.integrations.approvals import Approval

group = noun("approval", "Requests of agents that a person has to approve before they are sent.")

Note = Annotated[str | None, typer.Option("--note", metavar="TEXT", help="what the agent is told with it")]


@command(group, "list")
async def listing(
    session: Session,
    company: CompanyId,
    state: Annotated[
        str | None, typer.Option("--state", metavar="STATE", help="only those of this state, as waiting")
    ] = None,
    after: After = None,
    limit: Limit = 50,
) -> Result:
    """List the approvals of a company: those that wait, and those that did."""
    page = await session.app.approvals.list(await session.company(company), state=state, after=after, limit=limit)
    return Result(page, columns=("id", "state", "agent", "integration", "method", "host", "path", "expires_at"))


@command(group, "show")
async def show(session: Session, id: SomeId) -> Result:
    """Show an approval, and exactly what would be sent. That somebody looked is on record."""
    caller = await session.company_of("approval", id)
    approval = await session.app.approvals.get(caller, id)
    asked = await session.app.approvals.shown(caller, id)
    data = {**dataclasses.asdict(approval), "request": None if asked is None else _request(asked)}
    return Result(data, text=_text(approval, asked))


@command(group, "approve")
async def approve(session: Session, id: SomeId, note: Note = None) -> Result:
    """Have a request sent: once, and as it was shown. Waits until it was."""
    caller = await session.company_of("approval", id)
    await session.app.approvals.approve(caller, id, note or "")
    await session.app.sending.settled(id)
    return Result(await session.app.approvals.get(caller, id))


@command(group, "refuse")
async def refuse(session: Session, id: SomeId, note: Note = None) -> Result:
    """Have a request not sent."""
    caller = await session.company_of("approval", id)
    return Result(await session.app.approvals.refuse(caller, id, note or ""))


def _request(asked: AsSent) -> dict[str, Any]:
    headers = [{"name": name, "value": value} for name, value in asked.headers]
    body = {"body": asked.text, "size": len(asked.body), "sha256": asked.sha256}
    return {"method": asked.method, "url": asked.url, "headers": headers, **body}


def _text(approval: Approval, asked: AsSent | None) -> str:
    shown = plain(approval, time=short_time)
    width = max(map(len, shown))
    lines = [f"{name.replace('_', ' '):<{width}}  {_word(value)}" for name, value in shown.items()]
    if asked is None:
        return "\n".join([*lines, "", "what it said is no longer kept"])
    lines += ["", f"{asked.method} {asked.url}", *(f"{name}: {value}" for name, value in asked.headers)]
    if asked.text is None:
        lines += ["", f"({len(asked.body)} bytes that are no text, SHA-256 {asked.sha256})"]
    elif asked.body:
        from company_agents.integrations.indenting import indented

        lines += ["", indented(asked.text) or asked.text]
    return "\n".join(lines)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "—" if value in (None, "") else str(value)
