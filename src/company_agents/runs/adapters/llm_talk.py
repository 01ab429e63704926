"""
A conversation with a model, as the loop has it: what each provider's interface makes of it is its own file's affair.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from pydantic_core import to_json

from company_agents.errors import Failed

# Why an answer ended: the model has nothing more to say; calls tools; had no room left; pauses, and goes on when asked
# again; declined; or the whole conversation fills what it can hold.
Stop = Literal["end", "tools", "length", "pause", "declined", "full"]

LEFT_OUT = "(left out: the conversation became too long)"
# Calls of one answer; and its parts, which are texts, thoughts and calls.
MOST_CALLS = 128
MOST_PARTS = 1024

# Control characters, and halves of surrogate pairs: what no line of text has in it, and no database keeps.
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as a model is told of it; `schema` is the JSON Schema of its arguments."""

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool. Arguments that cannot be sent on are None: the answer was cut off, or the model erred."""

    id: str
    name: str
    arguments: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Result:
    """What a call gave."""

    call_id: str
    text: str
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Said:
    """What the model is told."""

    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model answered. `kept` is what its interface wants to have back as it was."""

    text: str
    calls: Sequence[Call]
    stop: Stop
    kept: Sequence[Mapping[str, Any]] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Results:
    """What the calls of the answer before gave, in their order."""

    results: Sequence[Result]


Turn = Said | Answer | Results


class Broken(Exception):
    """An answer that broke off, or is none: it may be asked for again."""


class Overloaded(Exception):
    """The provider says that it cannot just now; asked again, it may. The sentence says no more than it did."""


class TooLong(Exception):
    """The conversation is longer than the model can hold."""


class Reader(Protocol):
    """Makes an answer of the events of one stream."""

    def feed(self, data: str) -> str:
        """
        Take one event. Returns the text that came with it.

        Raises:
            Failed: the answer has more parts, or calls, than one may have.
            Broken: this is no event of such an answer.
            Overloaded: the provider breaks off, and says that it has too much to do.
        """

    def answer(self) -> Answer:
        """
        The answer, once the stream has ended.

        Raises:
            Broken: it ended too early, or is none.
        """


class Wire(Protocol):
    """One provider's interface."""

    def headers(self, token: str) -> dict[str, str]:
        """The headers of a request, with the token where this interface has it."""

    def body(self, system: str, tools: Sequence[Tool], turns: Sequence[Turn]) -> dict[str, Any]:
        """The body of a request for the next answer, streamed."""

    def reader(self) -> Reader:
        """A reader of one answer."""

    def is_too_long(self, status: int, code: str, message: str) -> bool:
        """Whether a refusal says that the conversation is longer than the model can hold."""

    def adapts(self, message: str) -> bool:
        """Whether the next body will do without what this refusal is about."""


def line_of(text: str, most: int) -> str:
    """What somebody else says, in one line of so many characters at most, of which each can be shown and kept."""
    return " ".join(_UNFIT.sub(" ", text).split())[:most]


def text_of(found: Any) -> str:
    """
    Raises:
        TypeError: it is no text.
    """
    if not isinstance(found, str):
        raise TypeError
    return found


def arguments_of(found: Any) -> dict[str, Any] | None:
    """The arguments of a call, from their JSON or as they are. None: they are no object, or cannot be sent on."""
    try:
        given = json.loads(found) if isinstance(found, str) else found
        # As they are sent. It fails for half of a surrogate pair, and for what is nested too deep.
        to_json({"params": {"arguments": given}})
    except (ValueError, RecursionError):
        return None
    return given if isinstance(given, dict) else None


def check_parts(calls: int, parts: int = 0) -> None:
    """
    Raises:
        Failed: an answer has more calls than one may have, or more parts.
    """
    if calls > MOST_CALLS:
        raise Failed(f"an answer of the model has more than {MOST_CALLS} calls of tools", code="too_many_calls")
    if parts > MOST_PARTS:
        raise Failed(f"an answer of the model has more than {MOST_PARTS} parts", code="too_many_parts")


def shorten(turns: list[Turn]) -> bool:
    """
    Leave out the older half of what tools gave, but for the newest; whether there was anything to leave out. What was
    called stays, so that the model can call it again.
    """
    places = [
        (at, index)
        for at, turn in enumerate(turns)
        if isinstance(turn, Results)
        for index, result in enumerate(turn.results)
        if result.text != LEFT_OUT
    ]
    newest = max((at for at, _ in places), default=0)
    older = [(at, index) for at, index in places if at < newest]
    for at, index in older[: (len(older) + 1) // 2]:
        turn = turns[at]
        assert isinstance(turn, Results)
        results = list(turn.results)
        results[index] = replace(results[index], text=LEFT_OUT)
        turns[at] = Results(results)
    return bool(older)


def too_long() -> Failed:
    """There is nothing more to leave out."""
    return Failed(
        "the conversation became longer than the model can hold",
        hint="give the agent smaller pieces of work, or a model that holds more",
        code="too_long",
    )
