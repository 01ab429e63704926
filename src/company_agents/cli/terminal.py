"""
What a person or a program sees. The only module that prints.

Results go to standard output, everything else to standard error. Sentences are lower case, without a full
stop; a hint stands on a line of its own and is something that one can do. With --json a result is one
object, and so is an error.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from company_agents.errors import CompanyAgentsError, Exit
from company_agents.sensitive import Sensitive


@dataclasses.dataclass(frozen=True)
class Result:
    """
    What a command gives: `data` for programs, and how to show it to people. `columns` name what of each item of
    a list is shown; `text` replaces it all.
    """

    data: Any = dataclasses.field(default_factory=dict)
    text: str | None = None
    columns: Sequence[str] = ()
    exit_status: Exit = Exit.DONE


def plain(value: Any) -> Any:
    """A value as JSON has it. A token that is to be shown is revealed here, and nowhere else."""
    if isinstance(value, Sensitive):
        return value.reveal_text()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def show(result: Result, *, as_json: bool) -> None:
    """Print a result."""
    data = plain(result.data)
    if as_json:
        line(data)
    elif result.text is not None:
        print(result.text)
    elif isinstance(data, dict) and isinstance(data.get("items"), list):
        _table(data["items"], result.columns)
        if data.get("next"):
            note(f"there are more: --after {data['next']}")
    elif isinstance(data, dict):
        _fields(data)


def line(data: Any) -> None:
    """Print one object as one line, at once: somebody may be reading along."""
    print(json.dumps(plain(data), ensure_ascii=False), flush=True)


def text_line(text: str) -> None:
    """Print one line of text, at once."""
    print(text, flush=True)


def note(text: str) -> None:
    """Say something beside the result."""
    print(text, file=sys.stderr, flush=True)


def fail(error: CompanyAgentsError, *, as_json: bool) -> None:
    """Print an error: to people on standard error, to programs as an object on standard output."""
    if as_json:
        line({"error": {"code": error.reason, "message": error.sentence, "hint": error.hint}})
        return
    print(f"company-agents: {error.sentence}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def _table(items: list[dict[str, Any]], columns: Sequence[str]) -> None:
    if not items:
        note("there is nothing yet")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns or list(items[0]):
        table.add_column(column.replace("_", " "), overflow="fold", no_wrap=column == "id")
    for item in items:
        table.add_row(*(Text(_cell(item.get(column))) for column in columns or list(items[0])))
    console = Console(highlight=False)
    # Cut to the width of a terminal for people; never for a pipe.
    console.print(table) if console.is_terminal else Console(highlight=False, width=10_000).print(table)


def _fields(data: dict[str, Any]) -> None:
    width = max((len(name) for name in data), default=0)
    for name, value in data.items():
        print(f"{name.replace('_', ' '):<{width}}  {_cell(value)}")


def _cell(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_cell(entry) for entry in value) or "—"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(entry)}" for name, entry in value.items())
    return str(value)
