"""
company-agents limits …
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from company_agents.cli.command import Session, command, noun
from company_agents.cli.options import CompanyId, a_number, a_sum, an_id
from company_agents.cli.terminal import Result
from company_agents.errors import WrongUsage

if TYPE_CHECKING:
    from company_agents.integrations.costs import Month

group = noun("limits", "What agents may spend, and how many runs they may have at once.")

# No limit is below 0, so this is how an option says that one is removed.
NONE = -1

AgentOrAll = Annotated[
    UUID | None,
    typer.Option(
        "--agent", parser=an_id, metavar="ID", help="of this agent; else of the company, and of each of its runs"
    ),
]


def or_none(parse: Callable[[str], int]) -> Callable[[str], int]:
    """The same parser, for options that take `none` too, and more than 0."""

    def parsed(given: str | int) -> int:
        if str(given) == "none":
            return NONE
        found = parse(str(given))
        if found == 0:
            raise typer.BadParameter("a limit is more than 0; none removes it")
        return found

    return parsed


def a_count(given: str | int) -> int:
    """
    Raises:
        BadParameter: this is no number of tokens.
    """
    if re.fullmatch(r"[0-9]{1,13}", str(given)):
        return int(given)
    raise typer.BadParameter("this is not a number of tokens; one looks like 2000000")


@command(group, "show")
async def show(session: Session, company: CompanyId, agent: AgentOrAll = None) -> Result:
    """Show the limits of a company, or of one of its agents, and what was spent this month."""
    caller = await session.company(company)
    return shown(agent, await session.app.spending.month(caller, agent))


@command(group, "set")
async def change(
    session: Session,
    company: CompanyId,
    agent: AgentOrAll = None,
    month_usd: Annotated[
        int | None, typer.Option("--month-usd", parser=or_none(a_sum), metavar="USD", help="money in a calendar month")
    ] = None,
    month_tokens: Annotated[
        int | None,
        typer.Option("--month-tokens", parser=or_none(a_count), metavar="N", help="tokens in a calendar month"),
    ] = None,
    run_usd: Annotated[
        int | None, typer.Option("--run-usd", parser=or_none(a_sum), metavar="USD", help="money of each run")
    ] = None,
    run_tokens: Annotated[
        int | None, typer.Option("--run-tokens", parser=or_none(a_count), metavar="N", help="tokens of each run")
    ] = None,
    run_seconds: Annotated[
        int | None,
        typer.Option(
            "--run-seconds", parser=or_none(a_number(10, 86_400)), metavar="N", help="seconds that a run may take"
        ),
    ] = None,
    runs_at_once: Annotated[
        int | None, typer.Option("--runs-at-once", parser=or_none(a_number(1, 1000)), metavar="N", help="runs at once")
    ] = None,
) -> Result:
    """Change limits; `none` removes one, and those that are not named stay. Counts from the next call on."""
    given = {
        "month_micros": month_usd,
        "month_tokens": month_tokens,
        "run_micros": run_usd,
        "run_tokens": run_tokens,
        "run_seconds": run_seconds,
        "runs_at_once": runs_at_once,
    }
    changes = {name: None if value == NONE else value for name, value in given.items() if value is not None}
    if not changes:
        raise WrongUsage("no limit is named", hint="such as --month-usd 50, or --month-usd none")
    caller = await session.company(company)
    await session.app.limits.set(caller, agent, changes)
    return shown(agent, await session.app.spending.month(caller, agent))


def shown(agent: UUID | None, month: Month) -> Result:
    """Limits beside what was spent."""
    from company_agents.integrations.spending import amount

    limit = month.limit

    def beside(unit: str, spent: int, most: int | None) -> str:
        return (
            f"{amount(unit, spent)} of {amount(unit, most)}" if most is not None else f"{amount(unit, spent)}; no limit"
        )

    lines = {
        "runs at once": str(limit.runs_at_once or "no limit"),
        "each run": ", ".join(
            [
                *([f"{limit.run_seconds} seconds"] if limit.run_seconds else []),
                *([amount("micros", limit.run_micros)] if limit.run_micros else []),
                *([amount("tokens", limit.run_tokens)] if limit.run_tokens else []),
            ]
        )
        or "no limit",
        f"{month.month:%Y-%m}, money": beside("micros", month.micros, limit.month_micros),
        f"{month.month:%Y-%m}, tokens": beside("tokens", month.tokens, limit.month_tokens),
    }
    if month.unpriced:
        lines["without a price"] = f"{month.unpriced} of {month.calls} calls: what they cost is not known"
    width = max(map(len, lines))
    data = {
        "agent_id": agent,
        **asdict(limit),
        "month": month.month,
        "begins_anew": month.begins_anew,
        "spent": {"calls": month.calls, "tokens": month.tokens, "micros": month.micros, "unpriced": month.unpriced},
    }
    return Result(data, text="\n".join(f"{name:<{width}}  {value}" for name, value in lines.items()))
