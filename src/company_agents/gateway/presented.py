"""
Our token in a request, however its client sends it. It is for us: no header that holds one goes on to a provider.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from company_agents.errors import Unauthenticated
from company_agents.identity.tokens import is_ours

# Where clients of many services put what they call an API key.
_KEYS = frozenset({b"x-api-key", b"api-key", b"x-goog-api-key"})
_OURS = re.compile(r"ca_(?:agent|run|op)_[A-Za-z0-9_-]+")
_KEY_ID = re.compile(r"\bCredential=([^/,\s]+)/")
_SCHEMES = frozenset({"bearer", "token"})


@dataclass(slots=True)
class Presented:
    """The tokens that a request presents, and the headers that may go on."""

    tokens: set[str] = field(default_factory=set, repr=False)
    headers: list[tuple[str, str]] = field(default_factory=list, repr=False)

    def token(self) -> str:
        """
        The one that there is.

        Raises:
            Unauthenticated: none, or two: which one counts is not for us to guess.
        """
        if len(self.tokens) == 1:
            return next(iter(self.tokens))
        if self.tokens:
            raise Unauthenticated(
                "this request has two different tokens", hint="send one: leave an API key of the service away"
            )
        raise Unauthenticated("this needs an agent's or a run's token", hint=HOW)


HOW = "send ca_agent_… or ca_run_… where the client has its API key: as Bearer, x-api-key or password; an operator can issue one"


def read(headers: Iterable[tuple[bytes, bytes]]) -> Presented:
    """What the headers of a request present. Those that are ours alone, and those with a token of ours, stay here."""
    found = Presented()
    for name, value in headers:
        text = value.decode("latin-1")
        if name == b"authorization":
            found.tokens.add(_credentials(text.strip()))
        elif name in _KEYS:
            found.tokens.add(text.strip())
        elif name.startswith(b"company-agents-"):
            continue
        elif b"ca_" in value and holds_ours(text):
            word = text.strip()
            if _OURS.fullmatch(word):
                # A service with a header of its own for its key.
                found.tokens.add(word)
        else:
            found.headers.append((name.decode("latin-1"), text))
    return found


def of_protocols(offered: Iterable[str]) -> tuple[list[str], set[str]]:
    """
    The subprotocols that a WebSocket's client offers, without those that hold a token of ours, and the tokens: a browser
    can send one in no other place.
    """
    kept: list[str] = []
    tokens: set[str] = set()
    for protocol in offered:
        if found := {word for word in _OURS.findall(protocol) if is_ours(word)}:
            tokens |= found
        else:
            kept.append(protocol)
    return kept, tokens


def check_address(path: str, query: str) -> None:
    """
    Raises:
        Unauthenticated: there is a token of ours in it.
    """
    if "ca_" in path + query and holds_ours(f"{path}?{query}"):
        raise Unauthenticated("a token was sent in an address", hint="addresses are logged on the way: have it rotated")


def _credentials(text: str) -> str:
    """The token of an Authorization header; what is none is refused by whoever looks at it."""
    scheme, _, rest = text.partition(" ")
    match scheme.lower():
        case "basic":
            return _of_pair(rest.strip())
        case "aws4-hmac-sha256":
            # What such a client signs with is nothing that we know, or need: it is signed anew.
            named = _KEY_ID.search(rest)
            return named[1] if named else ""
        case known if known in _SCHEMES:
            return rest.strip()
    return text


def _of_pair(encoded: str) -> str:
    # User or password, as each client has it: `x-access-token:TOKEN`, `TOKEN:`, `TOKEN:x-oauth-basic`.
    try:
        pair = base64.b64decode(encoded, validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return ""
    user, _, password = pair.partition(":")
    ours = {part for part in (user, password) if part.startswith(("ca_agent_", "ca_run_"))}
    # Two of them are refused like a bad one.
    return ours.pop() if len(ours) == 1 else ""


def holds_ours(text: str) -> bool:
    """Whether a text holds a token of ours, whole and with the right checksum."""
    return any(is_ours(word) for word in _OURS.findall(text))
