"""
Requests that ask to be taken for other ones: headers, parameters and fields by which some servers let a client say another
method or path than the request has.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from urllib.parse import unquote_plus

from company_agents.errors import Refused
from company_agents.outgoing.header_rules import Headers

# Rails, Laravel, Symfony, IIS, Zend and Google's own services each have theirs.
_METHOD = frozenset({"x-http-method-override", "x-http-method", "x-method-override", "x-original-method"})
_PATH = frozenset({"x-original-url", "x-rewrite-url", "x-override-url", "x-original-uri"})
# Parameters of a query, and fields of a form.
_FIELDS = frozenset({"_method", "_httpmethod", "$httpmethod", *_METHOD})
_FIELD = "_method"

# The same as a name in JSON, each letter as it is or escaped; and as the name of a part of a form.
_IN_JSON = "".join(rf"(?:{letter}|\\u00{ord(letter):02x}|\\u00{ord(letter.upper()):02x})" for letter in _FIELD)
_IN_A_BODY = re.compile(
    rf'"{_IN_JSON}"\s{{0,20}}:|form-data\s{{0,20}};[^\r\n]{{0,100}}\bname\*?\s{{0,20}}=\s{{0,20}}(?:[\w-]+\'\w*\')?"?{_FIELD}\b'.encode(),
    re.IGNORECASE,
)
# No match is longer.
_LONGEST = 256

_FORM = "application/x-www-form-urlencoded"


def overrides(query: str, headers: Headers, body: bytes | AsyncIterable[bytes], *, methods: bool = True) -> str | None:
    """
    What of a request asks to be taken for another one, in words; None: nothing does. `methods`: whether it matters which
    method it is taken for. Of a body that streams, `without_override` looks at what comes.
    """
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    names = {name.lower().replace("_", "-") for name, _ in pairs}
    if names & _PATH:
        return "a header that says another path"
    if not methods:
        return None
    if names & _METHOD:
        return "a header that says another method"
    if any(name in _FIELDS for name in _parameters(query)):
        return "a parameter that says another method"
    kinds = {value.partition(";")[0].strip().lower() for name, value in pairs if name.lower() == "content-type"}
    return "a field that says another method" if _is_in_body(kinds, body) else None


def _is_in_body(kinds: set[str], body: bytes | AsyncIterable[bytes]) -> bool:
    if not isinstance(body, bytes):
        # A form is short; one that streams would go by unread.
        return _FORM in kinds
    if _FORM in kinds and any(name in _FIELDS for name in _parameters(body.decode("latin-1"))):
        return True
    if not _IN_A_BODY.search(body):
        return False
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return True
    # Deeper down it is a thing of the request's own.
    return isinstance(found, dict) and any(name.lower() == _FIELD for name in found)


def _parameters(text: str) -> Iterator[str]:
    for part in re.split("[&;]", text):
        yield unquote_plus(part.partition("=")[0]).strip().lower()


async def without_override(body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """
    A body as it streams.

    Raises:
        Refused: it has a field that says another method. The request is broken off there.
    """
    tail = b""
    async for piece in body:
        seen = tail + piece
        if _IN_A_BODY.search(seen):
            raise Refused(
                "where methods and paths are restricted, a field that says another method is not sent",
                code="not_allowed_here",
            )
        tail = seen[-_LONGEST:]
        yield piece
