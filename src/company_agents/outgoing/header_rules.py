"""
Which headers travel: what a caller may send along, and what of a reply comes back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from multidict import CIMultiDict

from company_agents.errors import WrongUsage
from company_agents.sensitive import harmless

TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, 5.6.2
_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]*")

Headers = Mapping[str, str] | Sequence[tuple[str, str]]

# RFC 9110, 7.6.1, and its ancestors
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings"})
_OURS = _HOP_BY_HOP | {
    # who is asked, how long, and how it is encoded is decided here
    *("host", "content-length", "expect", "accept-encoding", "accept-charset", "a-im", "user-agent"),
    # a part of a reply cannot be searched
    *("range", "if-range"),
    # who we are, and for whom, is said by the credential alone
    *("authorization", "cookie", "cookie2", "forwarded", "x-real-ip"),
}
_OURS_PREFIXES = ("proxy-", "x-forwarded-")

# A session that a provider opens for our credential would be a credential in the caller's hands.
_KEPT_BACK = _HOP_BY_HOP | {"content-length", "content-encoding", "set-cookie", "set-cookie2"}


def is_ours(name: str) -> bool:
    """Whether a caller cannot set this header: it is ours, dangerous, or about one hop only."""
    folded = _folded(name)
    return folded in _OURS or folded.startswith(_OURS_PREFIXES)


def _folded(name: str) -> str:
    # To CGI and its heirs, `X_Api_Key` and `X-Api-Key` are one header.
    return name.lower().replace("_", "-")


def for_request(headers: Headers, carrier: str | None) -> CIMultiDict[str]:
    """
    The caller's headers without ours and without `carrier`, the one that carries the credential.

    Raises:
        WrongUsage: a name or a value that is not one; the value is not repeated.
    """
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    for name, value in pairs:
        if not TOKEN.fullmatch(name):
            raise WrongUsage("this is not the name of a header")
        if not _VALUE.fullmatch(value):
            raise WrongUsage(f"the value of the header {harmless(name)} holds characters that a header cannot hold")
    nominated = _nominated(value for name, value in pairs if name.lower() == "connection")
    dropped = nominated | ({_folded(carrier)} if carrier else set())
    return CIMultiDict((name, value) for name, value in pairs if not is_ours(name) and _folded(name) not in dropped)


def of_reply(raw: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of a reply that are for the caller, as bytes."""
    pairs = [(name.lower().decode("latin-1"), name, value) for name, value in raw]
    dropped = _KEPT_BACK | _nominated(value.decode("latin-1") for folded, _, value in pairs if folded == "connection")
    return [(name, value) for folded, name, value in pairs if folded not in dropped and not folded.startswith("proxy-")]


def _nominated(values: Iterable[str]) -> set[str]:
    """The names that a `Connection` header declares to be about one hop only."""
    return {_folded(name.strip()) for value in values for name in value.split(",")}
