"""
How an agent's process is configured: what an operator gives, checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from company_agents.errors import WrongUsage
from company_agents.runs.adapters.fields import Fields
from company_agents.runs.sandbox.places import SYSTEM, Places, Shown
from company_agents.sensitive import harmless

PROMPT = "{prompt}"
"""In an argument of the command: what the run is to do stands there, and not in standard input."""

PRESETS = ("claude-code", "codex")

MOST_ENTRIES, LONGEST = 100, 8000

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
# What we say ourselves, and what the loader of programs obeys.
_OURS = re.compile(r"COMPANY_AGENTS_.*|LD_.*|PATH|HOME|TMPDIR|PWD")


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """
    What is started for a run: a command, or a program that is known here (`preset`) with more `arguments`. `integration` is
    the one through which such a program asks its model.
    """

    preset: str
    command: list[str]
    program: str
    integration: str
    model: str
    arguments: list[str]
    environment: dict[str, str]
    network: Literal["orchestrator", "open"]
    readable: list[Shown]

    @classmethod
    def read(cls, given: Mapping[str, Any], places: Places) -> Self:
        """
        Raises:
            WrongUsage: a field that there is not, or a value that will not do.
        """
        fields = _Fields(given)
        preset = fields.one_of("preset", ("", *PRESETS), "")
        found = cls(
            preset=preset,
            command=fields.texts("command"),
            program=fields.text("program", "", most=LONGEST),
            integration=fields.text("integration") if preset else fields.text("integration", ""),
            model=fields.text("model", ""),
            arguments=fields.texts("arguments"),
            environment=fields.environment("environment"),
            network="open"
            if fields.one_of("network", ("orchestrator", "open"), "orchestrator") == "open"
            else "orchestrator",
            readable=[places.check(path) for path in fields.texts("readable")],
        )
        fields.done()
        found._check()
        return found

    def _check(self) -> None:
        if bool(self.command) == bool(self.preset):
            raise WrongUsage(
                "a process needs a command, or a preset, and not both",
                hint=f'the command is a list: ["/usr/bin/env", "true"]; presets are {", ".join(PRESETS)}',
            )
        if self.command and (self.integration or self.model or self.arguments or self.program):
            raise WrongUsage("integration, model, arguments and program belong to a preset", hint="leave them away")
        if self.command and (self.command[0].startswith("-") or PROMPT in self.command[0]):
            raise WrongUsage("the command begins with a program")
        if self.preset == "codex" and not self.model:
            raise WrongUsage("model is missing: codex is told which one it is to use")
        if self.program and (not self.program.startswith("/") or ".." in self.program.split("/")):
            raise WrongUsage("program is an absolute path, and has no .. in it")

    @property
    def opens(self) -> list[str]:
        """Which fields let a run do more than its sandbox does by itself: they name what is on this machine, or out there."""
        found = ["network"] if self.network == "open" else []
        if self.readable:
            found.append("readable")
        if self.program and not any(self.program.startswith(f"{place}/") for place in SYSTEM):
            found.append("program")
        return found

    def stored(self) -> dict[str, Any]:
        """As it is kept."""
        return asdict(self) | {"readable": [str(shown.place) for shown in self.readable]}


class _Fields(Fields):
    def texts(self, name: str) -> list[str]:
        """
        A list of texts; empty, where it is not there.

        Raises:
            WrongUsage: it is none.
        """
        value = self._take(name, [])
        if not isinstance(value, list) or len(value) > MOST_ENTRIES:
            raise WrongUsage(f"{name} is a list of at most {MOST_ENTRIES} texts")
        for entry in value:
            _check_text(name, entry)
            if not entry:
                raise WrongUsage(f"{name} has an empty entry")
        return value

    def environment(self, name: str) -> dict[str, str]:
        """
        Variables and their values.

        Raises:
            WrongUsage: a name that is none or is ours, or a value that is no text.
        """
        value = self._take(name, {})
        if not isinstance(value, dict) or len(value) > MOST_ENTRIES:
            raise WrongUsage(f"{name} is an object of at most {MOST_ENTRIES} variables")
        for variable, text in value.items():
            if not _NAME.fullmatch(variable):
                raise WrongUsage(f"{name} has a variable whose name is none: {harmless(variable)}")
            if _OURS.fullmatch(variable):
                raise WrongUsage(f"{name} may not set {variable}: it is set by whoever starts the process")
            _check_text(name, text)
        return value


def _check_text(name: str, text: Any) -> None:
    if not isinstance(text, str) or len(text) > LONGEST or "\0" in text:
        raise WrongUsage(f"{name} holds texts of at most {LONGEST} characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise WrongUsage(f"{name} holds a text that is no Unicode") from None
