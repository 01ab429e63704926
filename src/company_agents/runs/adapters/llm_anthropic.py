"""
Anthropic's Messages interface (https://docs.anthropic.com/en/api/messages and …/messages-streaming).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
    line_of,
    text_of,
)

VERSION = "2023-06-01"
_STOPS: dict[str, Stop] = {
    "end_turn": "end",
    "stop_sequence": "end",
    "tool_use": "tools",
    "max_tokens": "length",
    "pause_turn": "pause",
    "refusal": "declined",
    "model_context_window_exceeded": "full",
}
# What is kept from one request to the next, which then costs a tenth.
_CACHED = {"cache_control": {"type": "ephemeral"}}
# What each kind of delta adds to, by the name that it has there.
_DELTAS = {
    "text_delta": "text",
    "input_json_delta": "partial_json",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
}
_ERRORS_THAT_PASS = ("overloaded_error", "api_error", "rate_limit_error", "timeout_error")


@dataclass
class Messages:
    """The interface, for one model."""

    model: str
    max_tokens: int

    def headers(self, token: str) -> dict[str, str]:
        """The headers of a request."""
        return {"x-api-key": token, "anthropic-version": VERSION}

    def body(self, system: str, tools: Sequence[Tool], turns: Sequence[Turn]) -> dict[str, Any]:
        """The body of a request."""
        messages: list[dict[str, Any]] = []
        for turn in turns:
            role, blocks = _blocks(turn)
            if messages and messages[-1]["role"] == role:
                messages[-1]["content"] += blocks
            elif blocks:
                messages.append({"role": role, "content": blocks})
        if messages and messages[-1]["role"] == "user":
            last = messages[-1]["content"]
            last[-1] = {**last[-1], **_CACHED}
        return {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "stream": True,
            "system": [{"type": "text", "text": system, **_CACHED}],
            "tools": [
                {"name": tool.name, "description": tool.description, "input_schema": tool.schema} for tool in tools
            ],
            "messages": messages,
        }

    def reader(self) -> MessageReader:
        """A reader of one answer."""
        return MessageReader()

    def is_too_long(self, status: int, code: str, message: str) -> bool:
        """Whether a refusal says that the conversation is longer than the model can hold."""
        return status == 413 or (status == 400 and ("too long" in message or "context limit" in message))

    def adapts(self, message: str) -> bool:
        """Nothing in a body of this interface can be done without."""
        return False


@dataclass
class MessageReader:
    """Reads the events of one answer."""

    _blocks: dict[int, dict[str, Any]] = field(default_factory=dict)
    # What is added to each block, by the field that it is added to.
    _pieces: dict[tuple[int, str], list[str]] = field(default_factory=dict)
    _calls: int = 0
    _stop: str = ""
    _ended: bool = False

    def feed(self, data: str) -> str:
        """Take one event. Returns the text that came with it."""
        try:
            return self._taken(json.loads(data))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise Broken("what came is no event of a message") from None

    def _taken(self, event: dict[str, Any]) -> str:
        match event["type"]:
            case "content_block_start":
                block = dict(event["content_block"])
                self._blocks[event["index"]] = block
                self._calls += block["type"] == "tool_use"
                check_parts(self._calls, len(self._blocks))
                return text_of(block.get("text", "")) if block["type"] == "text" else ""
            case "content_block_delta":
                return self._more(event["index"], event["delta"])
            case "message_delta":
                self._stop = event["delta"].get("stop_reason") or self._stop
            case "message_stop":
                self._ended = True
            case "error":
                kind = str(event["error"].get("type", ""))
                if kind in _ERRORS_THAT_PASS:
                    raise Overloaded(f"it broke off: {kind}")
                raise Broken(f"it broke off: {line_of(kind, 50)}")
        return ""

    def _more(self, index: int, delta: dict[str, Any]) -> str:
        block, name = self._blocks[index], _DELTAS.get(delta["type"])
        if name is None:
            return ""
        piece = text_of(delta[name])
        self._pieces.setdefault((index, name), [text_of(block.get(name, ""))]).append(piece)
        return piece if name == "text" else ""

    def answer(self) -> Answer:
        """The answer, once the stream has ended."""
        if not self._ended or not self._stop:
            raise Broken("the answer broke off")
        for (index, name), pieces in self._pieces.items():
            self._blocks[index][name] = "".join(pieces)
        try:
            return self._whole()
        except (TypeError, KeyError):
            raise Broken("what came is no message") from None

    def _whole(self) -> Answer:
        kept: list[Mapping[str, Any]] = []
        calls, texts = list[Call](), list[str]()
        for _, block in sorted(self._blocks.items()):
            if block["type"] == "text" and block.get("text"):
                kept.append({"type": "text", "text": block["text"]})
                texts.append(block["text"])
            elif block["type"] in ("thinking", "redacted_thinking"):
                kept.append(block)
            elif block["type"] == "tool_use":
                given = arguments_of(block.get("partial_json") or block.get("input") or {})
                calls.append(Call(str(block["id"]), str(block["name"]), given))
                kept.append({"type": "tool_use", "id": block["id"], "name": block["name"], "input": given or {}})
        return Answer("".join(texts), calls, _STOPS.get(self._stop, "end"), kept)


def _blocks(turn: Turn) -> tuple[str, list[dict[str, Any]]]:
    match turn:
        case Said(text):
            return "user", [{"type": "text", "text": text}]
        case Results(results):
            return "user", [
                {
                    "type": "tool_result",
                    "tool_use_id": result.call_id,
                    "content": result.text,
                    **({"is_error": True} if result.is_error else {}),
                }
                for result in results
            ]
        case Answer():
            return "assistant", [dict(block) for block in turn.kept]
