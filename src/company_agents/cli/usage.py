"""
What the parser of the command line says, in our words. What was typed is repeated only where it cannot well be a
token: an argument that lands in the wrong place may be one.
"""

from __future__ import annotations

import re

import typer

from company_agents.cli.help import shows_how
from company_agents.errors import WrongUsage

_WORD = re.compile(r"(?:--)?[a-z][a-z-]{0,29}")
_VALUE = re.compile(r"Option '(?P<name>[^']*)' (?:requires an argument|(?P<none>does not take a value))")
_COMMAND = re.compile(r"No such command '(?P<name>[^']*)'\.?(?: Did you mean (?P<near>[^?]*)\?)?", re.DOTALL)


def wrong_usage(error: typer.TyperException) -> WrongUsage:
    """An error of the parser as one of ours, with the help that fits."""
    path = getattr(getattr(error, "ctx", None), "command_path", None) or "company-agents"
    return WrongUsage(_sentence(error), hint=_near(error) or shows_how(path))


def _sentence(error: typer.TyperException) -> str:
    said = error.format_message().strip().rstrip(".")
    if command := _COMMAND.match(said):
        name = command["name"]
        return f"there is no command {name}" if _WORD.fullmatch(name) else "there is no such command"
    if said.startswith("Got unexpected extra"):
        return "there is an argument too many"
    if said.startswith("No such option"):
        name = str(getattr(error, "option_name", ""))
        if name == "--json":
            # Every command has it, so it was given to none.
            return "a command comes before --json"
        return f"there is no option {name}" if _WORD.fullmatch(name) else "there is no such option"
    if found := _VALUE.fullmatch(said):
        return f"{found['name']} takes no value" if found["none"] else f"{found['name']} needs a value"
    if isinstance(error, typer.BadParameter) and error.param is not None:
        name = _name_of(error.param)
        return f"{name} is missing" if said.startswith("Missing") else f"{name}: {error.message}"
    return f"{said[:1].lower()}{said[1:]}" or "a command is missing"


def _name_of(param: object) -> str:
    options = [option for option in getattr(param, "opts", ()) if option.startswith("--")]
    return (
        options[0] if options else str(getattr(param, "metavar", None) or getattr(param, "name", "an argument")).upper()
    )


def _near(error: typer.TyperException) -> str:
    command = _COMMAND.match(error.format_message())
    near = re.findall(r"[a-z-]+", (command["near"] or "") if command else "")
    if getattr(error, "option_name", None) != "--json":
        near += getattr(error, "possibilities", None) or []
    return f"did you mean {' or '.join(sorted(near))}?" if near else ""
