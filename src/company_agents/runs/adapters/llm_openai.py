"""
OpenAI's Chat Completions interface (https://platform.openai.com/docs/api-reference/chat), which many others have too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from company_agents.runs.adapters.llm_talk import (
    Answer,
    Broken,
    Call,
    Overloaded,
    Results,
    Said,
    Stop,
    Tool,
    Turn,
    arguments_of,
    check_parts,
    text_of,
)

_STOPS: dict[str, Stop] = {
    "stop": "end",
    "tool_calls": "tools",
    "function_call": "tools",
    "length": "length",
    "content_filter": "declined",
}
_DONE = "[DONE]"


@dataclass
class Completions:
    """
    The interface, for one model. Those who have it differ in two fields: newer models of OpenAI take
    `max_completion_tokens` alone, others `max_tokens` alone, and some no `stream_options`. Whoever refuses one is asked
    with the other from then on.
    """

    model: str
    max_tokens: int
    _limit: str = "max_tokens"
    _says_usage: bool = True

    def headers(self, token: str) -> dict[str, str]:
        """The headers of a request."""
        return {"Authorization": f"Bearer {token}"}

    def body(self, system: str, tools: Sequence[Tool], turns: Sequence[Turn]) -> dict[str, Any]:
        """The body of a request."""
        body: dict[str, Any] = {
            "model": self.model,
            self._limit: self.max_tokens,
            "stream": True,
            "tools": [
                {
                    "type": "function",
                    "function": {"name": tool.name, "description": tool.description, "parameters": tool.schema},
                }
                for tool in tools
            ],
            "messages": [
                {"role": "system", "content": system},
                *(message for turn in turns for message in _messages(turn)),
            ],
        }
        if self._says_usage:
            # Without it a streamed answer does not say what it cost.
            body["stream_options"] = {"include_usage": True}
        return body

    def reader(self) -> ChunkReader:
        """A reader of one answer."""
        return ChunkReader()

    def is_too_long(self, status: int, code: str, message: str) -> bool:
        """Whether a refusal says that the conversation is longer than the model can hold."""
        said = code == "context_length_exceeded" or "context length" in message or "context window" in message
        return status == 413 or (status == 400 and said)

    def adapts(self, message: str) -> bool:
        """Whether the next body will do without what this refusal is about."""
        if "max_completion_tokens" in message and self._limit == "max_tokens":
            self._limit = "max_completion_tokens"
            return True
        if "stream_options" in message and self._says_usage:
            self._says_usage = False
            return True
        return False


@dataclass
class _Begun:
    """A call that is being told, piece by piece."""

    id: str
    name: str = ""
    arguments: list[str] = field(default_factory=list)


@dataclass
class ChunkReader:
    """Reads the events of one answer."""

    _texts: list[str] = field(default_factory=list)
    _calls: dict[int, _Begun] = field(default_factory=dict)
    _stop: str = ""
    _declined: bool = False

    def feed(self, data: str) -> str:
        """Take one event. Returns the text that came with it."""
        if data.strip() == _DONE:
            return ""
        try:
            return self._taken(json.loads(data))
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
            raise Broken("what came is no chunk of a completion") from None

    def _taken(self, chunk: dict[str, Any]) -> str:
        if chunk.get("error"):
            raise Overloaded("it broke off with an error")
        choices = chunk["choices"]
        if not choices:
            # The last one has what it cost, and no more.
            return ""
        choice = choices[0]
        self._stop = text_of(choice.get("finish_reason") or self._stop)
        delta = choice.get("delta") or {}
        for piece in delta.get("tool_calls") or ():
            self._call(piece)
        self._declined = self._declined or bool(delta.get("refusal"))
        text = text_of(delta.get("content") or delta.get("refusal") or "")
        self._texts.append(text)
        return text

    def _call(self, piece: dict[str, Any]) -> None:
        # Some leave the index away, and send each call whole.
        index = piece.get("index")
        if index is None:
            index = len(self._calls) if piece.get("id") or not self._calls else max(self._calls)
        begun = self._calls.setdefault(int(index), _Begun(str(piece.get("id") or f"call_{index}")))
        check_parts(len(self._calls))
        function = piece.get("function") or {}
        begun.name = begun.name or str(function.get("name") or "")
        begun.arguments.append(text_of(function.get("arguments") or ""))

    def answer(self) -> Answer:
        """The answer, once the stream has ended."""
        if not self._stop:
            raise Broken("the answer broke off")
        begun = [call for _, call in sorted(self._calls.items())]
        calls = [Call(each.id, each.name, arguments_of("".join(each.arguments) or "{}")) for each in begun]
        stop = "declined" if self._declined else _STOPS.get(self._stop, "end")
        return Answer("".join(self._texts), calls, stop)


def _messages(turn: Turn) -> list[dict[str, Any]]:
    match turn:
        case Said(text):
            return [{"role": "user", "content": text}]
        case Results(results):
            return [{"role": "tool", "tool_call_id": each.call_id, "content": each.text} for each in results]
        case Answer():
            said: dict[str, Any] = {"role": "assistant", "content": turn.text or None}
            if turn.calls:
                said["tool_calls"] = [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.name, "arguments": json.dumps(call.arguments or {})},
                    }
                    for call in turn.calls
                ]
            return [said]
