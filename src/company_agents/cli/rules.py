"""
Options that say rules: what agents may call with an integration, how often, and what a person is asked about first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from company_agents.cli.options import a_number
from company_agents.errors import WrongUsage

if TYPE_CHECKING:
    from company_agents.integrations.rules import Rules

# What says that there is no rule of a kind.
ANY, NEVER, NO_LIMIT = "any", "never", "none"


def _per_minute(given: str | int) -> int:
    return 0 if str(given) == NO_LIMIT else a_number(1, 1_000_000)(str(given))


Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="RULE",
        help=f'nothing else may be called, as "GET /repos/**"; `{ANY}`: anything; can be repeated',
    ),
]
Ask = Annotated[
    list[str] | None,
    typer.Option(
        "--ask",
        metavar="RULE",
        help=f'a person approves it first, as "POST /v1/refunds"; `{NEVER}`: nothing; can be repeated',
    ),
]
PerMinute = Annotated[
    int | None,
    typer.Option(
        "--per-minute", parser=_per_minute, metavar=f"N|{NO_LIMIT}", help="so many calls of an agent in a minute"
    ),
]


def said(only: list[str] | None, ask: list[str] | None, per_minute: int | None) -> Rules:
    """
    What these options say.

    Raises:
        WrongUsage: a rule that is none.
    """
    from company_agents.integrations.rules import Rules

    return Rules.read(_listed(only, ANY), _listed(ask, NEVER), per_minute)


def _listed(given: list[str] | None, nothing: str) -> list[str] | None:
    if not given:
        return None
    if nothing in given and len(given) > 1:
        raise WrongUsage(f"`{nothing}` stands alone: there is no rule beside it")
    return [] if given == [nothing] else given
