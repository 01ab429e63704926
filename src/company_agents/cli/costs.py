"""
company-agents costs
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from company_agents.cli.command import Session, command
from company_agents.cli.options import CompanyId, a_number, an_id
from company_agents.cli.terminal import Result, count

if TYPE_CHECKING:
    from company_agents.integrations.costs import Sum


def register(cli: typer.Typer) -> None:
    """Add the command."""

    @command(cli, "costs")
    async def costs(
        session: Session,
        company: CompanyId,
        agent: Annotated[
            UUID | None, typer.Option("--agent", parser=an_id, metavar="ID", help="only those of this agent")
        ] = None,
        days: Annotated[
            int, typer.Option("--days", parser=a_number(1, 366), metavar="N", help="of so many days, with today")
        ] = 30,
    ) -> Result:
        """Show what calls to models have cost, by day, agent and model."""
        summary = await session.app.spending.summary(await session.company(company), agent=agent, days=days)
        if not session.json:
            rows = [{**_shown(one), "day": one.day, "agent": one.agent, "model": one.model} for one in summary.days]
            if rows:
                rows.append({**_shown(summary.total), "day": "all", "agent": "", "model": ""})
            columns = ("day", "agent", "model", "calls", "tokens", "cost")
            return Result({"items": rows}, columns=columns, note=_notes(summary.total, is_cut=summary.is_cut))
        return Result({"items": summary.days, "total": summary.total, "is_cut": summary.is_cut, "next": None})


def _shown(one: Sum) -> dict[str, Any]:
    from company_agents.integrations.prices import dollars

    unknown = f" + {one.unpriced} unknown" if one.unpriced else ""
    return {"calls": one.calls, "tokens": one.tokens, "cost": f"{dollars(one.micros)}{unknown}"}


def _notes(total: Sum, *, is_cut: bool) -> str:
    said = []
    if total.unpriced:
        said.append("where a model has no price, what it costs is not known: docs/costs.md says how to give it one")
    if total.estimated:
        said.append(f"of {count(total.estimated, 'call')} nobody said how many tokens: those are estimated")
    if is_cut:
        said.append("there is more: ask for fewer days, or for one agent")
    return "\n".join(said)
