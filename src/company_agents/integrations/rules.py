"""
What an agent may do with an integration, by method and path; and what a person is asked about first. docs/approvals.md says
how rules are written.

A path can be read in more than one way: as it stands, decoded once or many times, without its parameters, with doubled
slashes as one. Nobody here knows how the provider reads it. So what is allowed has to be allowed by every reading, and a
person is asked where any reading says so.
"""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from company_agents.audit.chain import path_template
from company_agents.errors import Refused, WrongUsage
from company_agents.integrations.overrides import overrides, without_override
from company_agents.outgoing.client import OutgoingRequest
from company_agents.outgoing.header_rules import TOKEN
from company_agents.outgoing.match import Target

# Of one list.
MOST_RULES = 100
LONGEST_RULE = 300
# Calls in a minute; far more than any provider takes.
MOST_PER_MINUTE = 1_000_000
_MOST_NAMED = 10

# As RFC 3986 has a path (3.3), without what can be read in two ways: percent signs, and the semicolon of parameters.
_PATTERN = re.compile(r"/(?!/)[A-Za-z0-9._~!$&'()*+,=:@/-]*")
_MOST_SEGMENTS = 128
_MOST_READINGS = 100
# To some servers, `/things.json` is `/things` in another format.
_FORMAT = re.compile(r"\.[^/.]*$")

Segments = tuple[str, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. No methods: any."""

    methods: frozenset[str]
    path: Segments

    @property
    def text(self) -> str:
        """As it is kept and shown."""
        return f"{','.join(sorted(self.methods)) or '*'} /{'/'.join(self.path)}"

    def is_for(self, method: str) -> bool:
        """Whether it is about this method. Who may GET may ask for the head alone."""
        return not self.methods or method in self.methods or (method == "HEAD" and "GET" in self.methods)


@functools.lru_cache(maxsize=4096)
def read_rule(text: str) -> Rule:
    """
    A rule such as `GET,POST /repos/**`.

    Raises:
        WrongUsage: it is none.
    """
    parts = text.split()
    if len(text) > LONGEST_RULE or len(parts) != 2:
        raise WrongUsage(
            "this is not a rule", hint='a rule is a method and a path, such as "GET /repos/**" or "* /v1/refunds"'
        )
    methods = frozenset() if parts[0] == "*" else frozenset(parts[0].upper().split(","))
    if not all(TOKEN.fullmatch(method) and "*" not in method for method in methods):
        raise WrongUsage("a rule begins with a method, several with commas between them, or *")
    if not _PATTERN.fullmatch(parts[1]):
        raise WrongUsage(
            "the path of a rule begins with one / and is not percent-encoded",
            hint="write * for what would have to be encoded",
        )
    path = tuple(parts[1][1:].split("/"))
    if any("**" in segment and segment != "**" for segment in path):
        raise WrongUsage("** stands for whole segments of a path", hint="as in /repos/** or /repos/**/issues")
    if any(segment in (".", "..") for segment in path) or "" in path[:-1]:
        raise WrongUsage("the path of a rule holds a dot segment or two slashes", hint="write the path that is meant")
    return Rule(methods, path)


@dataclass(frozen=True, slots=True)
class Rules:
    """
    What is said of one agent, or of all of which nothing is said by themselves. None: nothing is said here. An empty `only`
    is: anything; an empty `ask`: never; `per_minute` 0: no limit.
    """

    only: tuple[str, ...] | None = None
    ask: tuple[str, ...] | None = None
    per_minute: int | None = None

    @classmethod
    def read(
        cls, only: Iterable[str] | None = None, ask: Iterable[str] | None = None, per_minute: int | None = None
    ) -> Rules:
        """
        What somebody says, each rule as it is kept.

        Raises:
            WrongUsage: a rule that is none, or a number that will not do.
        """
        if per_minute is not None and not 0 <= per_minute <= MOST_PER_MINUTE:
            raise WrongUsage(f"calls per minute are 1 to {MOST_PER_MINUTE}, or 0 for no limit")
        return cls(_read(only), _read(ask), per_minute)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Rules:
        """Those of a row."""
        only, ask = row["allows"], row["asks"]
        return cls(None if only is None else tuple(only), None if ask is None else tuple(ask), row["per_minute"])

    @property
    def says_nothing(self) -> bool:
        """Whether nothing is said."""
        return self == Rules()

    def columns(self) -> dict[str, Any]:
        """As the database has it."""
        only, ask = self.only, self.ask
        return {
            "allows": None if only is None else list(only),
            "asks": None if ask is None else list(ask),
            "per_minute": self.per_minute,
        }

    def facts(self) -> dict[str, Any]:
        """For the record: what is said, and no more."""
        said = {"only": self.only, "ask": self.ask}
        lists = {name: [*texts] or "nothing" for name, texts in said.items() if texts is not None}
        return {**lists, **({} if self.per_minute is None else {"per_minute": self.per_minute})}


NOTHING_SAID = Rules()


def _read(texts: Iterable[str] | None) -> tuple[str, ...] | None:
    if texts is None:
        return None
    found = tuple(dict.fromkeys(read_rule(text).text for text in texts))
    if len(found) > MOST_RULES:
        raise WrongUsage(f"these are more than {MOST_RULES} rules")
    return found


def judge(row: Mapping[str, Any], request: OutgoingRequest) -> bool:
    """
    Whether a person is asked first. `row` has the rules that count for who calls.

    Raises:
        Refused: this may not be called (`not_allowed_here`).
    """
    if not row["allows"] and not row["asks"]:
        return False
    if request.socket is not None:
        return _judge_socket(row, replace(request, socket=None))
    method = request.method.upper()
    said = overrides(request.query, request.headers, request.body, method=method, methods=_names_methods(row))
    if said is not None:
        raise Refused(
            f"where methods and paths are restricted, {said} is not sent",
            hint="say with the method and the path themselves what is meant",
            code="not_allowed_here",
        )
    if not _is_allowed(row, method, request.path):
        shown = path_template(request.path)
        raise Refused(
            f"this agent may not call {method} {shown} here", hint=_hint(row["allows"]), code="not_allowed_here"
        )
    return _is_asked(row, method, request.path)


def _judge_socket(row: Mapping[str, Any], request: OutgoingRequest) -> bool:
    """A WebSocket is opened with GET, and takes whatever it is sent: both have to be allowed, and nobody is asked."""
    if judge(row, request) or judge(row, replace(request, method="POST")):
        raise Refused(
            "a person has to approve this first, and what a WebSocket will be sent is not known when it is opened",
            hint="an operator can allow it without asking, with another rule for this path",
            code="not_allowed_here",
        )
    return False


def may_follow(row: Mapping[str, Any], target: Target) -> bool:
    """Whether a redirect may be followed to there: allowed, and without asking anybody."""
    if not row["allows"] and not row["asks"]:
        return True
    if overrides(target.query, (), b"") is not None:
        return False
    try:
        return _is_allowed(row, target.method, target.path) and not _is_asked(row, target.method, target.path)
    except Refused:
        return False


def watched(row: Mapping[str, Any], body: bytes | AsyncIterable[bytes]) -> bytes | AsyncIterable[bytes]:
    """A body that streams, ended where it names another method than the request has. A whole one was judged."""
    return without_override(body) if _names_methods(row) and not isinstance(body, bytes) else body


def _names_methods(row: Mapping[str, Any]) -> bool:
    return any(read_rule(text).methods for text in (*row["allows"], *row["asks"]))


def _is_allowed(row: Mapping[str, Any], method: str, path: str) -> bool:
    if not row["allows"]:
        return True
    rules = [rule for rule in map(read_rule, row["allows"]) if rule.is_for(method)]
    return all(any(matches(rule.path, reading) for rule in rules) for reading in readings(path))


def _is_asked(row: Mapping[str, Any], method: str, path: str) -> bool:
    rules = [rule for rule in map(read_rule, row["asks"]) if rule.is_for(method)]
    patterns = [tuple(segment.lower() for segment in rule.path) for rule in rules]
    return any(matches(pattern, reading) for reading in wide_readings(path) for pattern in patterns)


def _hint(allows: Sequence[str]) -> str:
    more = f" and {len(allows) - _MOST_NAMED} more" if len(allows) > _MOST_NAMED else ""
    return f"it may call {'; '.join(allows[:_MOST_NAMED])}{more}"


# — readings —


def readings(path: str) -> set[Segments]:
    """
    Every way in which a provider could read a path, as segments: split before, between or after as many decodings as a chain
    of servers applies, with parameters and without, doubled slashes as one.

    Raises:
        Refused: there are too many.
    """
    if path.count("/") > _MOST_SEGMENTS:
        raise Refused("where methods and paths are restricted, this path is too deep", code="not_allowed_here")
    if not re.search(r"[%;\\]|//", path):
        return {_split(path)}
    texts = _every({path}, _decoded, _slashed, _bare)
    found = _every(set(map(_split, texts)), _each(_decoded), _each(_bare))
    # The last one stays: a slash at the end is a reading of its own.
    return found | {(*(segment for segment in path[:-1] if segment), path[-1]) for path in found}


def wide_readings(path: str) -> set[Segments]:
    """The same and more, in lower case: without a slash or a format at the end."""
    found = {tuple(segment.lower() for segment in reading) for reading in readings(path)}
    for reading in list(found):
        bare = reading
        while len(bare) > 1 and not bare[-1].strip():
            bare = bare[:-1]
        last = bare[-1].strip()
        found |= {(*bare[:-1], last), (*bare[:-1], _FORMAT.sub("", last))}
    return found


def _every(known: set[T], *ways: Callable[[T], T]) -> set[T]:
    """Whatever these ways make of what is known, applied in any order and as often as one likes."""
    left = list(known)
    while left:
        now = left.pop()
        for further in {way(now) for way in ways} - known:
            known.add(further)
            left.append(further)
        if len(known) > _MOST_READINGS:
            raise Refused(
                "where methods and paths are restricted, a path is not written in a way that can be read as many others",
                code="not_allowed_here",
            )
    return known


def _each(way: Callable[[str], str]) -> Callable[[Segments], Segments]:
    return lambda segments: tuple(map(way, segments))


def _decoded(text: str) -> str:
    # Byte by byte: what is no UTF-8 is read as something, too.
    return unquote_to_bytes(text.encode("latin-1", "replace")).decode("latin-1")


def _slashed(text: str) -> str:
    return text.replace("\\", "/")


def _bare(text: str) -> str:
    return re.sub(";[^/]*", "", text)


def _split(path: str) -> Segments:
    return tuple(path.removeprefix("/").split("/"))


# — matching —


def matches(pattern: Segments, path: Segments) -> bool:
    """
    Whether segments match those of a pattern: `**` stands for any number of them, also none. In time that grows with the
    product of both lengths and no faster, whoever wrote either.
    """
    at = mark = back = 0
    star = -1
    while mark < len(path):
        if at < len(pattern) and pattern[at] == "**":
            star, back = at, mark
            at += 1
        elif at < len(pattern) and _fits(pattern[at], path[mark]):
            at, mark = at + 1, mark + 1
        elif star >= 0:
            # The last `**` takes one more.
            back += 1
            at, mark = star + 1, back
        else:
            return False
    return all(segment == "**" for segment in pattern[at:])


def _fits(pattern: str, segment: str) -> bool:
    """The same within a segment, for `*`: any characters; where it is the whole pattern, at least one."""
    if "*" not in pattern:
        return pattern == segment
    first, *middle, last = pattern.split("*")
    if pattern == "*":
        return bool(segment)
    if len(segment) < len(first) + len(last) or not (segment.startswith(first) and segment.endswith(last)):
        return False
    at, end = len(first), len(segment) - len(last)
    for part in middle:
        at = segment.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True
