"""
How --help looks: one usage line as in a manual, one sentence, then arguments and options in two columns.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from company_agents.errors import WrongUsage

_WIDEST = 100
_WIDEST_NAME = 28

_HELP = ("--help", "show this and end")


def shows_how(path: str) -> str:
    """The hint where there is no better one."""
    return f"`{path} --help` shows how"


class PlainCommand(TyperCommand):
    """A command with our help."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Read its words. An error knows which command it is about, also where the parser does not say."""
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            if getattr(error, "ctx", ctx) is None:
                error.ctx = ctx  # type: ignore[attr-defined]
            raise

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run it. Words that will not do have a hint in any case."""
        try:
            return super().invoke(ctx)
        except WrongUsage as error:
            error.hint = error.hint or shows_how(ctx.command_path)
            raise

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write it."""
        words = [_word(param) for param in self.params if _shown_in_usage(param)]
        rows = [_row(param) for param in self.params if not getattr(param, "hidden", False)]
        formatter.write(_page(ctx.command_path, [*words, "[options]"], self.help or "", [*rows, _HELP]))


class PlainGroup(TyperGroup):
    """A group of commands with our help."""

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write it."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, _first_sentence(command.help or "")) for name, command in found if command is not None]
        # The root has --version.
        rows += [_row(param) for param in self.params if not getattr(param, "hidden", False)]
        formatter.write(_page(ctx.command_path, ["COMMAND"], self.help or "", [*rows, _HELP]))


def _page(path: str, words: Sequence[str], text: str, rows: Sequence[tuple[str, str]]) -> str:
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    usage = textwrap.fill(" ".join(words), width, initial_indent=f"usage: {path} ", subsequent_indent=" " * 7)
    return "\n".join([usage, "", textwrap.fill(text, width), "", *_columns(rows, width), ""])


def _columns(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    indent = min(max(len(name) for name, _ in rows), _WIDEST_NAME) + 4
    lines = []
    for name, text in rows:
        first, *more = textwrap.wrap(text, width - indent) or [""]
        if len(name) + 4 > indent:
            lines.append(f"  {name}")
            name = ""
        lines += [f"  {name:<{indent - 2}}{first}", *(" " * indent + line for line in more)]
    return lines


def _row(param: Any) -> tuple[str, str]:
    names = ", ".join(sorted(param.opts, key=len)) if param.param_type_name == "option" else ""
    name = " ".join(part for part in (names, _value(param)) if part)
    note = "" if param.required or param.default in (None, False) else f" ({param.default})"
    return name, f"{param.help or ''}{note}"


def _value(param: Any) -> str:
    return "" if getattr(param, "is_flag", False) else str(param.metavar or param.name.upper())


def _word(param: Any) -> str:
    return _value(param) if param.param_type_name == "argument" else f"{param.opts[0]} {_value(param)}"


def _shown_in_usage(param: Any) -> bool:
    return bool(param.required)


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".")
