"""
Input that is strange, and that may be taken or not. The least is that it is answered, and as the description says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from tests.api.hostile import CODE, Attempt, cursor, good, part
from tests.api.world import Route, World

_ODD_QUERIES: dict[str, tuple[str, ...]] = {
    "limit": ("1_0", "%2B5", "%205", "5&limit=6", "5&limit=x", "5&limit[]=1", "5;limit=x", "5&unknown=1"),
    "before": (str(2**63 - 1), "1", "1_0"),
    "after": tuple(
        cursor([at, "01234567-89ab-cdef-0123-456789abcdef"])
        for at in (
            *("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999-23:59", "2026-01-01", "2026-01-01T00:00:00"),
            *("2026-01-01T00:00:00+00:00:30.123456", "20260101T000000Z", "2026-W01-1"),
        )
    ),
    "status": ("open&status=done",),
    "assignee": ("01234567-89AB-CDEF-0123-456789ABCDEF",),
    "agent": ("01234567-89AB-CDEF-0123-456789ABCDEF",),
    "state": ("running&state=queued",),
    "query": (
        *(
            '"',
            "''",
            "-",
            "or%20or%20or",
            '"a"-"b',
            "%5C%5C'%5C",
            "%26%7C!():*%3C-%3E",
            "%ff%fe",
            "%ed%a0%80",
            "%F4%8F%BF%BF",
        ),
        *("a" * 1000, quote("שלום" * 100), *(quote(text) for text in CODE)),
    ),
}


def _wide() -> str:
    """As long as a note may be, in words of its own throughout, each as wide as a character can be."""
    return " ".join(chr(0x20000 + number) for number in range(40_000))


def odd(route: Route, world: World, token: str, described: dict[str, Any]) -> Iterator[Attempt]:
    """Calls that are strange, and that may work; the least is that they are answered."""
    call = good(route, world, token)
    for parameter in described.get("parameters", ()):
        for text in _ODD_QUERIES.get(parameter["name"], ()):
            target = f"{call.target}?{parameter['name']}={text}"
            yield replace(call, how=f"{parameter['name']} is {text[:60]!r}", target=target)
    bodies: dict[str, list[dict[str, Any]]] = {
        "createMemory": [
            {"content": _wide()},
            {"content": "\U0010ffff" * 60_000},
            {"content": "a", "tags": ["\ufdd0"] * 20},
        ],
        "createTask": [{"title": "\U0010ffff" * 200, "description": "\u202e" * 50_000}],
        "sendRequest": [
            *({"path": "/a", "method": "POST", "body": json.loads("[" * depth + "]" * depth)} for depth in (100, 600)),
            {"path": "/a", "query": {"a": [10**4000, 1e308, True, None, "\U0010ffff", "\x00"]}},
            {"path": "/a", "headers": {"X-A": "\U0010ffff \t~", "Host": "a", "Content-Length": "5", "Cookie": "a=b"}},
            {
                "path": "/a",
                "headers": {"Connection": "X-A, authorization", "X-A": "b", "X-a": "c", "Expect": "100-continue"},
            },
            *({"path": "/a", "headers": {"Content-Type": text}} for text in ("", "multipart/form-data", "\u202e")),
            *({"path": "/a", "method": text} for text in ("ß", "purge", "HEAD", "OPTIONS", "A" * 20)),
            *({"path": "/a", "method": "POST", "body": text} for text in ("\x00", "\U0010ffff" * 10_000, "")),
        ],
    }
    named = [{**route.body(world), "name": text} for text in CODE] if "name" in (route.body(world) or ()) else []
    for body in (*bodies.get(route.operation, ()), *named):
        yield replace(call, how=f"the body is {str(body)[:60]}", body=json.dumps(body).encode())
    for name, value in part(_STRANGE_HEADERS, 4, route):
        yield replace(call, how=f"{name}: {value[:40]!r}", headers=(*call.headers, (name, value)))


# What some servers obey, and what libraries stumble over. `Accept-Encoding` and conditions change nothing here.
_STRANGE_HEADERS = (
    *(("Accept", b"\xff"), ("Accept-Language", b"a" * 8000), ("Accept-Encoding", b"br;q=x,,")),
    *(
        ("Cookie", b"\xff=\x80; ;=;$Version=1"),
        ("Referer", b"\xe2\x80\xae"),
        ("Range", b"bytes=0-0"),
        ("If-Match", b"*"),
    ),
    *(
        ("Origin", b"null"),
        ("X-Forwarded-For", b"' OR 1=1"),
        ("Forwarded", b"for=\xff"),
        ("X-Request-Id", b"%s%n${jndi:a}"),
    ),
)
