"""
Options that several commands have.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

CompanyId = Annotated[UUID, typer.Option("--company", help="the company's id")]
SomeId = Annotated[UUID, typer.Option("--id", help="its id")]
After = Annotated[str | None, typer.Option("--after", help="the `next` of the page before")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=200, help="how many at most")]
TokenStdin = Annotated[bool, typer.Option("--token-stdin", help="read the token from standard input")]
