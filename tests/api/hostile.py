"""
Input that must be refused, for every place where a route takes some: segments of the path, parameters, headers, bodies.

Each call starts as one that works, and is then spoiled in one place, so that nothing else can be what it was
refused for.
"""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import quote

from company_agents.api.callers import MOST_BODY
from tests.api.world import Route, World

T = TypeVar("T")

NUL, HALF, FLIP = "a\x00b", "a\ud800b", "a\u202eb"
DEEP = 100_000

# Fragments of languages that something behind the door might speak.
CODE = (
    "' OR '1'='1' --",
    "'); DROP TABLE tasks; --",
    "%s%n%(id)s",
    "{0.__class__} {id}",
    "{{7*7}} ${7*7} #{7*7} <%= 7*7 %>",
    "${jndi:ldap://127.0.0.1/a}",
    "$(id) `id` ; id | id",
    "<script>alert(1)</script>&lt;",
    "../../etc/passwd",
    "\\u0000 \\x00 %00 \\N{NULL}",
    "=1+1 @SUM(1) +1",
    "__proto__ constructor",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\ufeff\u200b\u2028\u2029 \U0001f469\u200d\U0001f4bb \U0010ffff e\u0301",
    "\r\nSet-Cookie: a=b\r\n\r\n",
)


@dataclass(frozen=True)
class Attempt:
    """One call, as it goes over the wire. `target` is path and query; what is spoiled in it says `how`."""

    how: str
    method: str
    target: str
    headers: tuple[tuple[str, bytes], ...] = ()
    body: bytes | None = None


def good(route: Route, world: World, token: str) -> Attempt:
    """A call that works."""
    body = route.body(world)
    headers = [("Authorization", f"Bearer {token}".encode())]
    if body is not None:
        headers.append(("Content-Type", b"application/json"))
    return Attempt(
        "good", route.method, route.url(world), tuple(headers), None if body is None else json.dumps(body).encode()
    )


def spoiled(route: Route, world: World, token: str, described: dict[str, Any]) -> Iterator[Attempt]:
    """The good call of a route, spoiled in every way; `described` is the route in the OpenAPI document."""
    call = good(route, world, token)
    yield from _paths(route, world, call)
    for parameter in described.get("parameters", ()):
        if parameter["in"] == "query":
            yield from _queries(parameter["name"], call)
        elif parameter["in"] == "header":
            yield from _keys(parameter["name"], call)
    yield from part(_tokens(token, call), 5, route)
    if call.body is not None:
        yield from part(_bodies(call), 2, route)
        yield from part(_types(call), 3, route)
        yield from _fields(route.body(world), call)
    if route.operation == "sendRequest":
        yield from _sent(route.body(world), call)


# — the path —

_SEGMENTS = (
    *("..", ".", "%2e%2e", "%2e", "%2f", "a%2fb", "..%2f..%2f..%2fetc%2fpasswd", "..%5c..%5c", "*", "~"),
    *("%00", "%0d%0aSet-Cookie:%20a=b", "%ff%fe", "%ed%a0%80", "%c0%ae%c0%ae", "%", "%zz", "%u0000", "%252e%252e"),
    *("0", "-1", "null", "undefined", "true", "NaN", "1e9", "9" * 400, "a" * 9000),
    "%EF%BC%90%EF%BC%91%EF%BC%92%EF%BC%93%EF%BC%94%EF%BC%95%EF%BC%96%EF%BC%97-89ab-cdef-0123-456789abcdef",
)


def _paths(route: Route, world: World, call: Attempt) -> Iterator[Attempt]:
    for param in route.params:
        own = world.ids[param]
        around = (f"{own}%00", f"{own}%0a", f"%20{own}", f"{own};a=b", f"%E2%80%AE{own}", f"%7B{own}%7D", f"{own}.json")
        other_spellings = (own.replace("-", ""), f"urn:uuid:{own}", own[:-1]) if param != "name" else ()
        every = (*_SEGMENTS, *(quote(text) for text in CODE), *around, *other_spellings)
        # Every route's company is read at one place, before the route: a part of the list each is the whole list.
        for segment in part(every, 8 if param == "cid" else 3, route):
            yield replace(
                call, how=f"{param} in the path is {segment[:60]!r}", target=route.url(world, **{param: segment})
            )


def part(values: Iterable[T], of: int, route: Route) -> list[T]:
    """One part out of so many, another for another route."""
    return list(values)[zlib.crc32(route.operation.encode()) % of :: of]


# — parameters —


def cursor(content: Any) -> str:
    return quote(base64.urlsafe_b64encode(json.dumps(content).encode()))


_NUMBERS = (
    "0",
    "-1",
    "",
    "1.5",
    "1e3",
    "NaN",
    "0x10",
    "abc",
    "%00",
    "9" * 400,
    "9" * 5000,
    "1%002",
    "%ff",
    "true",
    "[]",
)
_AT = "2026-01-01T00:00:00+00:00"
_CONTENTS: tuple[Any, ...] = (
    *([], {}, 1, "ab", [1, 2], ["x", str(uuid.uuid4())], [None, None]),
    *([_AT, "x"], [_AT, 1], [_AT, "' OR 1=1 --"], [_AT, []], [_AT]),
)
_QUERIES: dict[str, tuple[str, ...]] = {
    "limit": (*_NUMBERS, "201"),
    "days": (*_NUMBERS, "100000"),
    "before": (*_NUMBERS, str(2**63)),
    "after": (
        *("", "%00", "a" * 501, "%ff", "....", quote("é"), "W10=", "e30=", "bnVsbA=="),
        *map(cursor, _CONTENTS),
        cursor(["99999-01-01T00:00:00+00:00", str(uuid.uuid4())]),
        base64.urlsafe_b64encode(b"[" * 300).decode(),
    ),
    "status": ("", "OPEN", "open%00", "open%20", "%00", quote(CODE[1]), "a" * 5000),
    "assignee": ("", "%00", "x", "0" * 32, quote(CODE[0]), f"{uuid.uuid4()}%00", f"%7B{uuid.uuid4()}%7D"),
    "agent": ("", "%00", "x", "0" * 32, quote(CODE[0]), f"{uuid.uuid4()}%00", f"%7B{uuid.uuid4()}%7D"),
    "task": ("", "%00", "x", "0" * 32, quote(CODE[0]), f"{uuid.uuid4()}%00", f"%7B{uuid.uuid4()}%7D"),
    "run": ("", "%00", "x", "0" * 32, quote(CODE[0]), f"{uuid.uuid4()}%00", f"%7B{uuid.uuid4()}%7D"),
    "state": ("", "RUNNING", "running%00", "running%20", "%00", quote(CODE[1]), "a" * 5000),
    "wait": (*_NUMBERS[1:], "301"),
    "query": ("%00", "a%00b", "a" * 1001),
    "keep_consent": ("%00", "perhaps", "2", "", "a" * 300, "%ff"),
    "issuer": ("%00", "https://a%00b.example", "nowhere", "a" * 2001, "%ff", quote(CODE[0]), quote(CODE[1])),
}


def _queries(name: str, call: Attempt) -> Iterator[Attempt]:
    for text in _QUERIES[name]:
        yield replace(call, how=f"{name} is {text[:60]!r}", target=f"{call.target}?{name}={text}")


# — headers —

_KEYS = (
    b"",
    b" ",
    b"a b",
    b"a\tb",
    b"\xe9",
    b"\xe2\x80\xae",
    b"\xff\xfe",
    b"\x80",
    b"a" * 256,
    b"a" * 9000,
    "ключ".encode(),
)


def _keys(name: str, call: Attempt) -> Iterator[Attempt]:
    for value in _KEYS:
        yield replace(call, how=f"{name} is {value[:30]!r}", headers=(*call.headers, (name, value)))
    twice = ((name, b"one"), (name, b"another"))
    yield replace(call, how=f"{name} is there twice", headers=(*call.headers, *twice))


def _tokens(token: str, call: Attempt) -> Iterator[Attempt]:
    text = token.encode()
    others = tuple(header for header in call.headers if header[0] != "Authorization")
    for value in (
        *(
            b"",
            b"Bearer",
            b"Bearer  ",
            text,
            b"Basic " + text,
            b"Bearer " + text[:-1],
            b"Bearer " + text + b"\xe2\x80\xae",
        ),
        *(b"Bearer \xff\xfe", b"Bearer " + b"a" * 9000, b"Bearer " + text + b", Bearer " + text, b"Bearer\xa0" + text),
        *(b"Bearer ca_agent_" + b"A" * 90, b"Bearer ca_op_" + b"_" * 70, b"Bearer ca_op_", b"Bearer null"),
        *(b"Bearer " + quote(code).encode() for code in CODE[:4]),
    ):
        yield replace(call, how=f"Authorization is like {value[:12]!r}", headers=(*others, ("Authorization", value)))
    yield replace(
        call, how="Authorization is there twice", headers=(*call.headers, ("Authorization", b"Bearer " + text))
    )


# — bodies —


def _with_type(call: Attempt, *values: bytes) -> tuple[tuple[str, bytes], ...]:
    kept = tuple(header for header in call.headers if header[0] != "Content-Type")
    return (*kept, *(("Content-Type", value) for value in values))


def _bodies(call: Attempt) -> Iterator[Attempt]:
    assert call.body is not None
    fields = call.body[1:-1]
    whole: dict[str, bytes] = {
        "nothing": b"",
        "not JSON": b"name=x",
        "cut off": call.body[:-1],
        "two objects": call.body * 2,
        "a list": b"[" + call.body + b"]",
        "null": b"null",
        "a number": b"1",
        "a text": b'"' + b"a" * 100 + b'"',
        "in UTF-16": call.body.decode().encode("utf-16"),
        "in UTF-32": call.body.decode().encode("utf-32"),
        "begun with a byte order mark": b"\xef\xbb\xbf" + call.body,
        "ended by NUL": call.body + b"\x00",
        "bytes that are no text": b"\xff\xfe\x00\x01" * 8,
        "with half a character in a text": b"{" + fields + b', "x": "\xed\xa0\x80"}',
        "with a comment": call.body + b"// a remark",
        "with a comma at the end": b"{" + fields + b",}",
        # One without a field has no quotes.
        "in single quotes": call.body.replace(b'"', b"'") if fields else b"{'x': 1}",
        "deep lists": b"[" * DEEP + b"]" * DEEP,
        "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        "deep in a field": b"{" + fields + b', "x": ' + b"[" * DEEP + b"]" * DEEP + b"}",
        "deep and cut off": b"[" * DEEP,
        "with NaN": b"{" + fields + b', "x": NaN}',
        "with Infinity": b"{" + fields + b', "x": -Infinity}',
        "with a number of 10000 digits": b"{" + fields + b', "x": ' + b"9" * 10_000 + b"}",
        "with each field twice": b"{" + fields + b", " + fields + b"}",
        "with a field of an unknown name": b"{" + fields + b', "unknown": 1}',
        "with a name that is empty": b"{" + fields + b', "": 1}',
        "with a name of prototypes": b"{" + fields + b', "__proto__": {"a": 1}}',
        "with a name that holds NUL": b"{" + fields + b', "\\u0000": 1}',
        "with a name that is half a character": b"{" + fields + b', "\\ud800": 1}',
        "with a name that is long": b"{" + fields + b', "' + b"a" * 100_000 + b'": 1}',
    }
    for what, body in whole.items():
        yield replace(call, how=f"the body is {what}", body=body)
    if not call.target.endswith("/request"):
        yield replace(call, how="the body is too large", body=b"{" + fields + b', "x": "' + b"a" * MOST_BODY + b'"}')


def _types(call: Attempt) -> Iterator[Attempt]:
    for value in (
        *(b"text/plain", b"text/json", b"application/xml", b"application/x-www-form-urlencoded", b"*/*", b"json"),
        *(b"multipart/form-data; boundary=a", b"application/jsonp", b"application/json, text/plain", b"\xff", b";"),
        *(b"application/vnd.api+json", b"application/\xe2\x80\xaejson"),
    ):
        yield replace(call, how=f"the type is {value!r}", headers=_with_type(call, value))
    yield replace(call, how="the type is not said", headers=_with_type(call))
    yield replace(call, how="the type is said twice", headers=_with_type(call, b"application/json", b"text/plain"))


# What no field of ours takes, whatever it is for. Half a character can be written only as an escape.
_VALUES: tuple[Any, ...] = (NUL, HALF, 1e400, [[[]]], {"a": {}}, -1, 10**400, 0.5)
# Fields that take anything, because it is for a provider.
_ANYTHING = {"body", "query", "headers"}
# Fields that are compared or read by a person, and so hold nothing that does not show.
_SEEN = {"name", "agent", "provider", "base_url", "status", "token", "only"}
_LIMITS = {"runs_at_once", "run_tokens", "month_micros"}
_OPTIONAL = {"allow_private_network", "base_url", "method", "status", "name", "only", *_LIMITS}
# Where null is a value.
_NULL = {"days", "only", *_LIMITS}


def _fields(body: dict[str, Any], call: Attempt) -> Iterator[Attempt]:
    for name, value in body.items():
        if name in _ANYTHING:
            continue
        wrong = (*_VALUES, None, "", " \u2003\n", "a" * 150_000, 0, FLIP if name in _SEEN else [])
        for other in (entry for entry in wrong if entry != value and not (entry is None and name in _NULL)):
            text = json.dumps({**body, name: other}).replace("Infinity", "1e400")
            yield replace(call, how=f"{name} is {other!r}"[:80], body=text.encode())
        missing = json.dumps({other: kept for other, kept in body.items() if other != name})
        if name not in _OPTIONAL:
            yield replace(call, how=f"{name} is missing", body=missing.encode())


# What an agent sends on to a provider may be anything, as long as it can be sent.
def _each(name: str, *values: Any) -> list[dict[str, Any]]:
    return [{name: value} for value in values]


_SENT = (
    *_each("query", *_each("a", HALF, [HALF], 1e400, [-1e400], {"a": 1}, [[1]], [{}], "a" * 40_000)),
    *_each("query", {HALF: "a"}, [], "a=b", 1, None),
    *_each("headers", *_each("X-A", "a\r\nb", NUL, HALF, "\x7f", "\x80", 1, None, [], {}, True)),
    *_each("headers", *({name: "a"} for name in ("", " ", "a b", "a:", "a\r\nb", "é", NUL, HALF, "a\x7f", FLIP))),
    *_each("headers", [], "a: b", 1, None),
    *_each("body", HALF, 1e400, {"a": [1e400]}, {"a": -1e400}),
    *_each("method", "", " ", "GET /a", "GET\r\nX-A: b", NUL, "TRACE", "CONNECT", "trace", "é", FLIP),
    *_each("path", "", "a", "//a", "/../a", "/%2e%2e/a", "/a?b", "/a#b", "/a b", "/a\r\nb", "/\u202e"),
    *_each("path", "/%00", "/%", "/%zz", "/..;/a", "/%252e%252e/a", "/a\\..\\b", "http://127.0.0.1/"),
    *_each("path", "@127.0.0.1/", "/" + "a" * 9000, "/%" + "25" * 20 + "41", "/\xe9", "\\\\127.0.0.1\\a"),
)


def _sent(body: dict[str, Any], call: Attempt) -> Iterator[Attempt]:
    for change in _SENT:
        text = json.dumps({**body, **change}).replace("Infinity", "1e400")
        yield replace(call, how=f"what is sent on has {change!r}"[:80], body=text.encode())
    # Not beyond what is taken by this door, but beyond what is sent to a provider.
    large = json.dumps({**body, "body": "a" * (10 * 1024 * 1024 + 1)})
    yield replace(call, how="what is sent on is too large", body=large.encode())
