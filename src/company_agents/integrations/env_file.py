"""
Environment files, as they are written for shells and containers: `NAME=value`, one a line.

Read as data. Nothing is expanded, looked up or run, and a file with a line that is something else is refused as a whole:
behind a quote that nobody closed, pieces of a key would pass for variables. No error repeats anything of the file.

python-dotenv, which pydantic-settings brings along, reads on behind such lines, keeps the last of two values without a
word, and has no positions outside of its internals; where both take a line, they find the same value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from company_agents.errors import WrongUsage
from company_agents.sensitive import Sensitive

MOST_BYTES = 256 * 1024
MOST_VARIABLES = 1000

_LINE = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]{0,99})[ \t]*=(.*)")
# An `export` of what was set elsewhere.
_NO_VALUE = re.compile(r"export[ \t]+[A-Za-z_][A-Za-z0-9_]*")
_SINGLE = re.compile(r"'([^']*)'[ \t]*(?:#.*)?")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"[ \t]*(?:#.*)?')
_EXPANDS = re.compile(r"(?<!\\)(?:\$[{(]|`)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Variable:
    """
    A name and its value; None where that is no text. `line` counts from 1, and is 0 where there are no lines. `expands`: a
    shell would put something else in the place of `${…}`, `$(…)` or backticks in it.
    """

    name: str
    value: Sensitive | None
    line: int = 0
    expands: bool = False


def read_env_file(content: bytes) -> list[Variable]:
    """
    The variables in their order; a name that is set twice is there twice.

    Raises:
        WrongUsage: too large, no text, or a line that is no variable; the sentence says which.
    """
    if len(content) > MOST_BYTES:
        raise WrongUsage(
            f"an environment file has at most {MOST_BYTES // 1024} KiB", hint="take out what is not to be imported"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        # Not as a cause: that error holds all of it.
        raise WrongUsage("the environment file is no text in UTF-8", hint="save it as UTF-8") from None
    lines = re.split(r"\r\n|\r|\n", text)
    found = [variable for number, line in enumerate(lines, 1) if (variable := _read(line.strip(" \t"), number))]
    if len(found) > MOST_VARIABLES:
        raise WrongUsage(
            f"an environment file has at most {MOST_VARIABLES} variables", hint="take out what is not to be imported"
        )
    return found


def _read(line: str, number: int) -> Variable | None:
    if _CONTROL.search(line):
        raise WrongUsage(f"line {number} of the environment file has a character that no text has", hint="look at it")
    if not line or line.startswith("#") or _NO_VALUE.fullmatch(line):
        return None
    parts = _LINE.fullmatch(line)
    if parts is None:
        raise WrongUsage(
            f"line {number} of the environment file is no NAME=value",
            hint="a value has one line: take the variable out whose value goes on there, and look at the others",
        )
    name, given = parts[1], parts[2]
    quoted = given.lstrip(" \t")
    if quoted.startswith("'"):
        return Variable(name, Sensitive(_closed(_SINGLE.fullmatch(quoted), number)), number)
    if quoted.startswith('"'):
        raw = _closed(_DOUBLE.fullmatch(quoted), number)
        return Variable(name, Sensitive(re.sub(r'\\(["\\$`])', r"\1", raw)), number, bool(_EXPANDS.search(raw)))
    value = re.split(r"[ \t]#", given, maxsplit=1)[0].strip(" \t")
    if value.endswith("\\"):
        _closed(None, number)
    return Variable(name, Sensitive(value), number, bool(_EXPANDS.search(value)))


def _closed(quoted: re.Match[str] | None, number: int) -> str:
    if quoted is None:
        raise WrongUsage(
            f"line {number} of the environment file: the value does not end where its line ends",
            hint="close the quote; a value of several lines is not imported, so take such a variable out",
        )
    return quoted[1]
