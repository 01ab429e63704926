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

# The same as a name in JSON, each letter as it is or escaped.
_IN_JSON = "".join(rf"(?:{letter}|\\u00{ord(letter):02x}|\\u00{ord(letter.upper()):02x})" for letter in _FIELD)
_AS_JSON = re.compile(rf'"{_IN_JSON}"\s{{0,20}}:'.encode(), re.IGNORECASE)
# The head of a part of a form, from the header that names it on; a line may go on in the next.
_PART = re.compile(rb"content-disposition[ \t]*:(.*?)(?:\r?\n(?![ \t])|\Z)", re.IGNORECASE | re.DOTALL)
_NAME = re.compile(
    rb"""\bname\*?[0-9*]*\s*=\s*(?:[\w-]*'[\w-]*')?(?:"((?:[^"\\]|\\.)*)"?|([^\s;]*))""", re.IGNORECASE | re.DOTALL
)
# Bytes in which a match has to be whole; no head of a part is longer.
_LONGEST = 8 * 1024

_FORM = "application/x-www-form-urlencoded"


def overrides(
    query: str, headers: Headers, body: bytes | AsyncIterable[bytes], *, method: str = "GET", methods: bool = True
) -> str | None:
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
    if any(map(_says_method, _parameters(query))):
        return "a parameter that says another method"
    kinds = {value.partition(";")[0].strip().lower() for name, value in pairs if name.lower() == "content-type"}
    return "a field that says another method" if _is_in_body(kinds, body, method) else None


def _is_in_body(kinds: set[str], body: bytes | AsyncIterable[bytes], method: str) -> bool:
    if not isinstance(body, bytes):
        # A form is short; one that streams would go by unread. What is not said is a form, where it is posted.
        return _FORM in kinds or (not kinds and method == "POST")
    if (_FORM in kinds or not kinds) and any(map(_says_method, _parameters(body.decode("latin-1")))):
        return True
    if _has_part(body):
        return True
    if not _AS_JSON.search(body):
        return False
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return True
    # Deeper down it is a thing of the request's own.
    return isinstance(found, dict) and any(map(_says_method, found))


def _has_part(body: bytes) -> bool:
    """Whether a part of a form has such a name."""
    return any(
        _says_method(unquote_plus(next(filter(None, name.groups()), b"").decode("latin-1")))
        for part in _PART.finditer(body)
        for name in _NAME.finditer(part[1])
    )


def _has_endless_part(seen: bytes) -> bool:
    """Whether the head of a part goes on for longer than is looked at: its name could come at last."""
    return any(part.end() == len(seen) and len(part[1]) > _LONGEST // 2 for part in _PART.finditer(seen))


def _parameters(text: str) -> Iterator[str]:
    for part in re.split("[&;]", text):
        yield unquote_plus(part.partition("=")[0])


def _says_method(name: str) -> bool:
    """Whether some server takes a name for one of those: as it is, without what it leaves away, or with what it reads for that."""
    bare = name.partition("\0")[0].lower().replace("\\", "")
    bare = bare.replace("[", "").replace("]", "").strip()
    return bool({re.sub(r"\s", "", bare), re.sub(r"[\s.]", "_", bare)} & _FIELDS)


async def without_override(body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """
    A body as it streams.

    Raises:
        Refused: it has a field that says another method. The request is broken off there.
    """
    tail = b""
    async for piece in body:
        seen = tail + piece
        if _AS_JSON.search(seen) or _has_part(seen) or _has_endless_part(seen):
            raise Refused(
                "where methods and paths are restricted, a field that says another method is not sent",
                code="not_allowed_here",
            )
        tail = seen[-_LONGEST:]
        yield piece
