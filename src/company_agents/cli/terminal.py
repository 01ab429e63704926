"""
What a person or a program sees. The only module that prints.

Results go to standard output, everything else to standard error. Sentences are lower case, without a full
stop; a hint stands on a line of its own and is something that one can do. With --json a result is one
object, and so is an error.

Some of what is shown was written by agents and by the services that they call: characters that would move
the cursor, colour a line or turn its direction are shown as escapes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from company_agents.errors import CompanyAgentsError, Exit, WrongUsage
from company_agents.sensitive import Sensitive

# What is said in place of an empty list.
NOTHING = "there is nothing yet"


@dataclasses.dataclass(frozen=True)
class Result:
    """
    What a command gives: `data` for programs, and how to show it to people. `columns` name what of each item of
    a list is shown; `text` replaces it all; `note` is said beside it.
    """

    data: Any = dataclasses.field(default_factory=dict)
    text: str | None = None
    columns: Sequence[str] = ()
    note: str = ""
    exit_status: Exit = Exit.DONE


def prepare() -> None:
    """Before the first line: a character that this terminal does not have is no reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def abandon() -> None:
    """Nobody reads on: let what is left go nowhere, so that the interpreter does not complain at its end."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())


def plain(value: Any, *, time: Callable[[datetime], str] = datetime.isoformat) -> Any:
    """A value as JSON has it. A token that is to be shown is revealed here, and nowhere else."""
    if isinstance(value, Sensitive):
        return value.reveal_text()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name), time=time) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(entry, time=time) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry, time=time) for entry in value]
    if isinstance(value, datetime):
        return time(value.astimezone(UTC))
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def short_time(moment: datetime) -> str:
    """A time as people read it, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def show(result: Result, *, as_json: bool) -> None:
    """Print a result."""
    if as_json:
        if result.data is not None:
            line(result.data)
        return
    data = plain(result.data, time=short_time)
    if result.text is not None:
        print(*map(visible, result.text.split("\n")), sep="\n")
    elif isinstance(data, dict) and isinstance(data.get("items"), list):
        _table(data["items"], result.columns)
        if data.get("next"):
            sys.stdout.flush()
            note(f"there are more: --after {data['next']}")
    elif isinstance(data, dict):
        _fields(data)
    sys.stdout.flush()
    if result.note:
        note(result.note)


def line(data: Any) -> None:
    """Print one object as one line, at once: somebody may be reading along."""
    text = json.dumps(plain(data), ensure_ascii=False)
    # Inside of a string only, so it is the same JSON.
    print("".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text), flush=True)


def text_line(text: str) -> None:
    """Print one line of text, at once."""
    print(visible(text), flush=True)


def piece(text: str) -> None:
    """Print a piece of somebody else's text, at once; it may end in the middle of a line."""
    print("\n".join(map(visible, text.split("\n"))), end="", flush=True)


def bytes_out() -> BinaryIO:
    """
    Standard output, for what is no text.

    Raises:
        WrongUsage: it is a terminal.
    """
    if sys.stdout.isatty():
        raise WrongUsage("a backup is not for a terminal", hint="name a file, or send it on: `… export - | …`")
    return sys.stdout.buffer


def note(text: str) -> None:
    """Say something beside the result."""
    print(*map(visible, text.split("\n")), sep="\n", file=sys.stderr, flush=True)


def ask(question: str) -> str | None:
    """What somebody at the terminal answers, in one line; None where there is no answer any more (Ctrl-D)."""
    print(visible(question), end=" ", file=sys.stderr, flush=True)
    try:
        answer = sys.stdin.readline()
    except UnicodeDecodeError:
        return ""
    if not answer:
        note("")
    return answer.strip() if answer else None


def can_redraw() -> bool:
    """Whether a line on standard error can be written over."""
    return sys.stderr.isatty()


def redraw(text: str) -> None:
    """Write over the line that the cursor is in."""
    print(f"\r\x1b[K{visible(text)}", end="", file=sys.stderr, flush=True)


def progress_line(data: Any) -> None:
    """Print one object as one line beside the result."""
    print(json.dumps(plain(data)), file=sys.stderr, flush=True)


def count(number: int, one: str, many: str = "") -> str:
    """A number of things."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def trace(error: BaseException) -> None:
    """
    Where an error came from that nobody foresaw. Not what it says of itself, nor the text of the lines: either may
    hold a value.
    """
    for frame in traceback.extract_tb(error.__traceback__):
        note(f"  at {Path(frame.filename).name}:{frame.lineno} in {frame.name}")


def fail(error: CompanyAgentsError, *, as_json: bool) -> None:
    """Print an error: to people on standard error, to programs as an object on standard output."""
    if as_json:
        line({"error": {"code": error.reason, "message": error.sentence, "hint": error.hint}})
        return
    note(f"company-agents: {error.sentence}")
    if error.hint:
        note(f"hint: {error.hint}")


def visible(text: str) -> str:
    """A line in which every character shows."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _table(items: list[dict[str, Any]], columns: Sequence[str]) -> None:
    if not items:
        note(NOTHING)
        return
    # Here, because most commands print no table, and this is slow to import.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    names = columns or list(items[0])
    for name in names:
        table.add_column(name.replace("_", " "), overflow="fold", no_wrap=name == "id" or name.endswith("_at"))
    for item in items:
        table.add_row(*(Text(_cell(item.get(name))) for name in names))
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table)
        return
    # Folded to the width of a terminal for people; never for a pipe, and without blanks at the end.
    wide = io.StringIO()
    Console(highlight=False, width=10_000, file=wide).print(table)
    print("\n".join(row.rstrip() for row in wide.getvalue().splitlines()))


def _fields(data: dict[str, Any]) -> None:
    width = max((len(name) for name in data), default=0)
    for name, value in data.items():
        things = isinstance(value, list) and value and isinstance(value[0], dict)
        # One thing to a line, under one another.
        first, *rest = [_thing(entry) for entry in value] if things else [_cell(value)]
        print(f"{name.replace('_', ' '):<{width}}  {first}")
        for line in rest:
            print(f"{'':<{width}}  {line}")


def _thing(entry: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_cell(value)}" for name, value in entry.items())


def _cell(value: Any) -> str:
    if value is None or value in ("", {}):
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_cell(entry) for entry in value) or "—"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(entry)}" for name, entry in value.items())
    return visible(str(value))
