"""
A text of TOML that an operator wrote, checked by a schema: what is wrong is said in plain words, with its line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from company_agents.integrations.provider_files import BadText, line_of

Model = TypeVar("Model", bound=BaseModel)

# What a schema says of a field, in plain words; else its own words are taken.
_SAID = {
    "missing": "is missing",
    "extra_forbidden": "there is no such field",
    "string_type": "is a text",
    "tuple_type": "is a list",
    "bool_type": "is true or false",
    "bool_parsing": "is true or false",
    "int_type": "is a whole number",
    "int_parsing": "is a whole number",
    "dict_type": "is a table",
    "model_type": "is a table",
}
# Where a parser says what is wrong.
_AT_LINE = re.compile(r" \(at line (\d+), column \d+\)| \(at end of document\)")


def read_toml(
    model: type[Model], text: str, said: Mapping[str, str], *, parse_float: Callable[[str], Any] = float
) -> Model:
    """
    What a text holds.

    Args:
        said: more words for what a schema says, by its own name for it.

    Raises:
        BadText: the text is no TOML or does not fit the schema; with the line, and the field.
    """
    try:
        return model.model_validate(tomllib.loads(text, parse_float=parse_float))
    except tomllib.TOMLDecodeError as error:
        raise _no_toml(str(error), text) from None
    except RecursionError:
        raise BadText("this is nested too deeply") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        words = {**_SAID, **said}.get(first["type"]) or first["msg"].removeprefix("Value error, ").lower()
        raise BadText(f"{where}: {words}" if where else words, line_of(text, first["loc"])) from None


def _no_toml(said: str, text: str) -> BadText:
    found = _AT_LINE.search(said)
    line = int(found[1]) if found and found[1] else text.rstrip("\n").count("\n") + 1
    return BadText(f"this is no TOML: {_AT_LINE.sub('', said).lower()}", line)
