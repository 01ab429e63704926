"""
What must not be secret: the configuration of an adapter is shown to people and given to what it starts. Something in it that
looks like a credential is refused, so that nobody takes it for a place to keep one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from company_agents.errors import WrongUsage
from company_agents.integrations.importing import tells
from company_agents.integrations.provider import Provider
from company_agents.sensitive import harmless

# What begins so is a credential, whoever it is for.
_KNOWN = re.compile(
    r"ca_(agent|run|op)_[\w-]{8}"
    r"|whsec_[\w+/=-]{16}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\b(AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\."
    r"|://[^/\s:@]*:[^/\s@]+@"
)
_BETWEEN_WORDS = re.compile(r"[\s\"'`,;:=&?<>(){}\[\]|/]+")
_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# A variable of such a name is meant to hold one, whatever it looks like.
_NAMED_SO = re.compile(r"(.*[_-])?(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)", re.IGNORECASE)
# Letters and digits that change as often as chance has it, in so many characters, are no word.
_SHORTEST = 20
# No provider's token is shorter.
_SHORTEST_TOKEN = 12
_SIGNS = re.compile(r"[^A-Za-z0-9]")
_KINDS = (str.isdigit, str.islower, str.isupper)


def check_no_secrets(config: Mapping[str, Any], providers: Sequence[Provider]) -> None:
    """
    Look at every text of a configuration, and closer at the values of `environment`.

    Raises:
        WrongUsage: one looks like a credential. The sentence names the field and repeats nothing.
    """
    for field, text in _texts(config):
        words = {word for word in _BETWEEN_WORDS.split(text) if len(word) >= _SHORTEST_TOKEN}
        if _KNOWN.search(text) or any(tells(each, word) for word in words for each in providers):
            raise _refused(field)
    environment = config.get("environment")
    for name, value in environment.items() if isinstance(environment, Mapping) else ():
        if _NAMED_SO.fullmatch(name) or any(map(_by_chance, _BETWEEN_WORDS.split(str(value)))):
            raise _refused(f"environment {harmless(name)}")


def _texts(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            yield field or harmless(name), str(name)
            yield from _texts(entry, f"{field} {harmless(name)}".strip())
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry, field)


def _by_chance(word: str) -> bool:
    """Whether a word looks as if it was made by chance: long, of letters and digits in no order."""
    plain = _SIGNS.sub("", word)
    if _ID.fullmatch(word) or len(plain) < _SHORTEST:
        return False
    kinds = [[is_kind(char) for is_kind in _KINDS] for char in plain]
    changes = sum(one != other for one, other in pairwise(kinds))
    return any(map(str.isdigit, plain)) and any(map(str.isalpha, plain)) and changes >= len(plain) / 5


def _refused(field: str) -> WrongUsage:
    return WrongUsage(
        f"what stands at {field} looks like a credential, and this is shown to whoever may look at the agent",
        hint="connect an integration and allow it to the agent: it calls the service without having the credential",
    )
