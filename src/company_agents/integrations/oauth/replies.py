"""
Replies of a token endpoint: JSON or a form, read strictly; and the words for what is wrong.

Strictly means: a field twice with two values, a number that is none, or an endless nesting make it no reply. What real
providers do beside the standard is taken: lists of scopes, numbers as text, a moment in place of a number of seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from company_agents.outgoing.exchange import Answer

Fields = dict[str, Any]

_MOST_FIELDS = 1000
# Where a word for an error stands: RFC 6749, 5.2 first, then the ways of providers.
_ERROR = ("error", "error.type", "error.code", "error.status", "error.name")
_ERROR_ELSEWHERE = ("code", "errorCode", "error_code", "errcode", "reason", "type", "status", "message")


class Unreadable(Exception):
    """the body is neither JSON nor a form"""


def read(answer: Answer) -> Fields:
    """
    The fields of a reply.

    Raises:
        Unreadable: it is another kind of thing, such as a page for people.
    """
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    body = answer.body.lstrip(b"\xef\xbb\xbf \t\r\n")
    if body.startswith(b"{"):
        return _json(body)
    # GitHub's own, where JSON is not asked for; some say that it is text.
    if kind == "application/x-www-form-urlencoded" or (
        kind == "text/plain" and re.match(rb"(access_token|error)=", body)
    ):
        return _form(body)
    raise Unreadable


def _json(body: bytes) -> Fields:
    try:
        found = json.loads(body, object_pairs_hook=_unrepeated, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Unreadable from None
    if not isinstance(found, dict):
        raise Unreadable
    return found


def _form(body: bytes) -> Fields:
    try:
        pairs = parse_qsl(body.strip().decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
        return _unrepeated(pairs)
    except ValueError:
        raise Unreadable from None


def _unrepeated(pairs: list[tuple[str, Any]]) -> Fields:
    found: Fields = {}
    for name, value in pairs:
        if name in found and found[name] != value:
            raise ValueError("a field has two values")
        found[name] = value
    return found


def _no_number(_: str) -> Any:
    raise ValueError("not a number")


def at(fields: Any, path: str) -> Any:
    """A field by a dotted path; numbers index lists; None where it is not there."""
    value = fields
    for part in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isascii() and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def errors(fields: Fields, *, status: int) -> tuple[str, ...]:
    """
    The words for what is wrong, the most telling one first; none where nothing says that anything is. A reply with a
    good status is an error only where it says so: some servers refuse with 200.
    """
    good = 200 <= status < 300
    refused = fields.get("ok") is False or fields.get("success") is False or bool(fields.get("error"))
    if good and not refused and not _is_code(fields.get("errcode")) and not _is_code(fields.get("error_code")):
        return ()
    places = (*_ERROR, *_ERROR_ELSEWHERE)
    found = [str(word) for place in places if isinstance(word := at(fields, place), (str, int)) and _is_code(word)]
    # Some repeat the status, which tells nothing.
    return tuple(dict.fromkeys(word for word in found if word != str(status)))


def _is_code(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, (str, int)) and value not in ("", 0, "0")
