"""
Reading the fields of a configuration.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from company_agents.errors import WrongUsage
from company_agents.sensitive import harmless


class Fields:
    """The fields of a configuration as somebody gave them. One that nobody reads is an error when it is `done`."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = dict(given)
        self._read: list[str] = []

    def text(self, name: str, default: str | None = None, *, most: int = 200) -> str:
        """
        A text; without a default it must be there, and not be empty.

        Raises:
            WrongUsage: it is missing, is none, or is too long.
        """
        value = self._take(name, default)
        if not isinstance(value, str):
            raise WrongUsage(f"{name} is a text")
        if default is None and not value.strip():
            raise WrongUsage(f"{name} is missing")
        if len(value) > most:
            raise WrongUsage(f"{name} has at most {most} characters")
        return value if name == "system" else value.strip()

    def one_of(self, name: str, choices: Collection[str], default: str) -> str:
        """
        One of some words.

        Raises:
            WrongUsage: it is another.
        """
        value = self._take(name, default)
        if value not in choices:
            raise WrongUsage(f"{name} is {' or '.join(choices)}")
        return str(value)

    def number(self, name: str, default: int, *, least: int, most: int) -> int:
        """
        A whole number in a range.

        Raises:
            WrongUsage: it is none.
        """
        value = self._take(name, default)
        if type(value) is not int or not least <= value <= most:
            raise WrongUsage(f"{name} is a whole number from {least} to {most}")
        return value

    def flag(self, name: str) -> bool:
        """
        Yes or no; no, where it is not there.

        Raises:
            WrongUsage: it is neither.
        """
        value = self._take(name, False)
        if not isinstance(value, bool):
            raise WrongUsage(f"{name} is true or false")
        return value

    def done(self) -> None:
        """
        Raises:
            WrongUsage: there is a field that nobody has read.
        """
        for name in self._given:
            if name not in self._read:
                raise WrongUsage(f"there is no field {harmless(name)}", hint=f"there are {', '.join(self._read)}")

    def _take(self, name: str, default: Any) -> Any:
        self._read.append(name)
        value = self._given.get(name)
        return (default if default is not None else "") if value is None else value
