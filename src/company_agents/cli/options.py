"""
Options that several commands have, and how their text becomes a value. No error repeats what was given: it may
be a token that went where none belongs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated
from uuid import UUID

import typer


def an_id(given: str | UUID) -> UUID:
    """
    Raises:
        BadParameter: this is no UUID.
    """
    try:
        return UUID(str(given))
    except ValueError:
        raise typer.BadParameter("this is not an id; one looks like 0b0bb7e2-7e63-4a4b-8b0a-6f2d7f0f9f5e") from None


def a_number(least: int, most: int) -> Callable[[str], int]:
    """A parser of numbers in a range."""

    def parse(given: str | int) -> int:
        text = str(given)  # the default comes through here too
        # int() takes signs, blanks, underscores and the digits of other scripts too.
        if text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most:
            return int(text)
        raise typer.BadParameter(f"this is not a number from {least} to {most}")

    return parse


def a_key_id(given: str) -> str:
    """
    Raises:
        BadParameter: this is no key id.
    """
    if re.fullmatch(r"[0-9a-f]{16}", given):
        return given
    raise typer.BadParameter("this is not a key id; one looks like 0b0bb7e27e634a4b")


def a_sum(given: str | int) -> int:
    """
    Dollars, as millionths of one.

    Raises:
        BadParameter: this is no sum of money.
    """
    text = str(given)
    if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,6})?", text):
        raise typer.BadParameter("this is not a sum in dollars; one looks like 2.50")
    whole, _, part = text.partition(".")
    return int(whole) * 1_000_000 + int(part.ljust(6, "0"))


KeyId = Annotated[str | None, typer.Option("--id", parser=a_key_id, metavar="KEY_ID", help="an archived key's id")]
GoneKeyId = Annotated[
    str | None,
    typer.Option("--gone", parser=a_key_id, metavar="KEY_ID", help="one that the source has lost for good"),
]
CompanyId = Annotated[UUID, typer.Option("--company", parser=an_id, metavar="ID", help="the company's id")]
SomeId = Annotated[UUID, typer.Option("--id", parser=an_id, metavar="ID", help="its id")]
AgentId = Annotated[UUID, typer.Option("--agent", parser=an_id, metavar="ID", help="the agent's id")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="what it is called")]
After = Annotated[str | None, typer.Option("--after", metavar="NEXT", help="the `next` of the page before")]
Limit = Annotated[
    int, typer.Option("--limit", parser=a_number(1, 200), metavar="N", help="how many at most, up to 200")
]
TokenStdin = Annotated[
    bool, typer.Option("--token-stdin", help="read the token from standard input; else it is asked for")
]
Prompt = Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="what the agent is to do")]
PromptStdin = Annotated[bool, typer.Option("--prompt-stdin", help="read that from standard input")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
