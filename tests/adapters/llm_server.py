"""
A scripted model behind the interfaces of Anthropic and OpenAI, as strict as the real ones: whoever leaves a call without its
result, or comes without the right key, is refused, and that is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

# Shaped as the providers' patterns have them, and no real ones.
ANTHROPIC_KEY = "sk-ant-stand-in-0123456789abcdefghij"
OPENAI_KEY = "sk-stand-in-0123456789abcdefghijklmn"

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True)
class Say:
    """An answer: text, calls of tools with their arguments (a text is sent as it is), and why it ended."""

    text: str = ""
    calls: Sequence[tuple[str, dict[str, Any] | str]] = ()
    stop: str | None = None


@dataclass(frozen=True)
class Refuse:
    """An error in the place of an answer."""

    status: int
    message: str = "no"
    kind: str = "some_error"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """An answer whose connection is lost in the middle."""

    text: str = "I was about to"


@dataclass(frozen=True)
class Broken:
    """An answer that its provider breaks off, and says so."""


@dataclass(frozen=True)
class Garbage:
    """What is no answer at all."""

    body: bytes = b"<html>it works!</html>"
    content_type: str = "text/html"


@dataclass(frozen=True)
class Hang:
    """An answer that begins and never goes on."""

    text: str = "one moment"


Step = Say | Refuse | Cut | Broken | Garbage | Hang
Script = Iterable[Step | Callable[[dict[str, Any]], Step]]


@dataclass
class Llm:
    """Gives one step of the script to each request; keeps each body, and what was wrong with it."""

    url: str = ""
    script: list[Step | Callable[[dict[str, Any]], Step]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    # An answer that hangs has begun; its connection was closed by who asked.
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def play(self, *steps: Step | Callable[[dict[str, Any]], Step]) -> None:
        self.script = list(steps)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        wire = _ANTHROPIC if request.path.endswith("/messages") else _OPENAI
        if request.path.endswith("/models"):
            keys = {request.headers.get("x-api-key"), request.headers.get("Authorization", "").removeprefix("Bearer ")}
            good = bool(keys & {ANTHROPIC_KEY, OPENAI_KEY})
            return web.json_response(
                {"data": []} if good else {"error": {"message": "no"}}, status=200 if good else 401
            )
        self.headers.append(dict(request.headers))
        body = await request.json()
        self.bodies.append(body)
        try:
            wire.check(request, body)
        except AssertionError as wrong:
            self.problems.append(str(wrong))
            return web.json_response({"error": {"type": "invalid_request_error", "message": str(wrong)}}, status=400)
        if not self.script:
            self.problems.append("nothing more was to be asked")
            return web.json_response({"error": {"message": "the script is over"}}, status=400)
        step = self.script.pop(0)
        return await self._give(request, wire, step(body) if callable(step) else step)

    async def _give(self, request: web.Request, wire: _Wire, step: Step) -> web.StreamResponse:
        if isinstance(step, Refuse):
            error = {"type": "error", "error": {"type": step.kind, "code": step.kind, "message": step.message}}
            return web.json_response(error, status=step.status, headers=step.headers)
        if isinstance(step, Garbage):
            return web.Response(body=step.body, content_type=step.content_type)
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await reply.prepare(request)
        if isinstance(step, Say):
            for event in wire.events(step):
                await reply.write(event.encode())
            await reply.write_eof()
            return reply
        begun = list(wire.events(Say(getattr(step, "text", "so"))))
        for event in begun[: len(begun) // 2]:
            await reply.write(event.encode())
        if isinstance(step, Broken):
            await reply.write(wire.broken().encode())
            await reply.write_eof()
        elif isinstance(step, Cut):
            assert request.transport is not None
            request.transport.abort()
        else:
            await self._hang(request, reply)
        return reply

    async def _hang(self, request: web.Request, reply: web.StreamResponse) -> None:
        self.begun.set()
        # What is written after the other side has gone is an error, and that is how one hears of it.
        with contextlib.suppress(ConnectionError):
            while request.transport is not None and not request.transport.is_closing():
                await reply.write(b": still there\n\n")
                await asyncio.sleep(0.05)
        self.closed.set()


class _Wire:
    def check(self, request: web.Request, body: dict[str, Any]) -> None:
        raise NotImplementedError

    def events(self, step: Say) -> Iterable[str]:
        raise NotImplementedError

    def broken(self) -> str:
        raise NotImplementedError


def _pieces(text: str) -> list[str]:
    """In several, none at the bounds of words."""
    return [text[at : at + 5] for at in range(0, len(text), 5)]


def _raw(arguments: dict[str, Any] | str) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


class _Anthropic(_Wire):
    def check(self, request: web.Request, body: dict[str, Any]) -> None:
        assert request.headers.getall("x-api-key", []) == [ANTHROPIC_KEY], "invalid x-api-key"
        assert "Authorization" not in request.headers, "two credentials"
        assert request.headers["anthropic-version"] == "2023-06-01", "anthropic-version"
        known = {"model", "max_tokens", "stream", "system", "tools", "messages"}
        assert body.keys() == known, f"fields: {sorted(body.keys() ^ known)}"
        assert body["stream"] is True, "stream"
        assert isinstance(body["max_tokens"], int), "max_tokens"
        assert json.dumps(body).count('"cache_control"') <= 4, "at most 4 cache_control"
        for tool in body["tools"]:
            assert _TOOL_NAME.fullmatch(tool["name"]), "tool name"
            assert tool["input_schema"]["type"] == "object", "input_schema"
        open_calls: set[str] = set()
        for at, message in enumerate(body["messages"]):
            assert message["role"] == ("assistant" if at % 2 else "user"), f"messages.{at}: roles must alternate"
            assert message["content"], f"messages.{at}: content is empty"
            blocks = message["content"]
            results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
            assert set(results) == open_calls, f"messages.{at}: tool_use without tool_result"
            assert len(results) == len(open_calls), f"messages.{at}: a result twice"
            assert all(block["text"].strip() for block in blocks if block["type"] == "text"), "text is empty"
            assert all(isinstance(block["input"], dict) for block in blocks if block["type"] == "tool_use"), "input"
            open_calls = {block["id"] for block in blocks if block["type"] == "tool_use"}
        assert not open_calls, "tool_use without tool_result"

    def events(self, step: Say) -> Iterable[str]:
        def event(kind: str, **fields: Any) -> str:
            return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"

        usage = {"input_tokens": 10, "output_tokens": 1}
        yield event("message_start", message={"id": "msg_1", "role": "assistant", "content": [], "usage": usage})
        yield event("ping")
        index = 0
        if step.text:
            yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
            for piece in _pieces(step.text):
                yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
            yield event("content_block_stop", index=0)
            index = 1
        for number, (name, arguments) in enumerate(step.calls):
            block = {"type": "tool_use", "id": f"toolu_{id(step)}_{number}", "name": name, "input": {}}
            yield event("content_block_start", index=index, content_block=block)
            for piece in _pieces(_raw(arguments)):
                yield event(
                    "content_block_delta", index=index, delta={"type": "input_json_delta", "partial_json": piece}
                )
            yield event("content_block_stop", index=index)
            index += 1
        stop = step.stop or ("tool_use" if step.calls else "end_turn")
        yield event("message_delta", delta={"stop_reason": stop, "stop_sequence": None}, usage={"output_tokens": 7})
        yield event("message_stop")

    def broken(self) -> str:
        return (
            'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}\n\n'
        )


class _OpenAi(_Wire):
    def check(self, request: web.Request, body: dict[str, Any]) -> None:
        assert request.headers.getall("Authorization", []) == [f"Bearer {OPENAI_KEY}"], "Incorrect API key provided"
        assert "x-api-key" not in request.headers, "two credentials"
        known = {"model", "max_tokens", "max_completion_tokens", "stream", "stream_options", "tools", "messages"}
        assert body.keys() <= known, f"Unrecognized request argument supplied: {sorted(body.keys() - known)}"
        assert body["stream"] is True, "stream"
        for tool in body["tools"]:
            assert tool["type"] == "function", "tool type"
            assert _TOOL_NAME.fullmatch(tool["function"]["name"]), "tool name"
            assert tool["function"]["parameters"]["type"] == "object", "parameters"
        first, *rest = body["messages"]
        assert first["role"] == "system", "the first message is the system's"
        open_calls: list[str] = []
        for message in rest:
            if message["role"] == "tool":
                assert message["tool_call_id"] in open_calls, "a result of no call"
                open_calls.remove(message["tool_call_id"])
                assert isinstance(message["content"], str), "content"
                continue
            assert not open_calls, "tool_calls must be followed by tool messages"
            if message["role"] == "assistant":
                assert message.get("content") or message.get("tool_calls"), "an empty message"
                for call in message.get("tool_calls", ()):
                    assert isinstance(json.loads(call["function"]["arguments"]), dict), "arguments"
                    open_calls.append(call["id"])
            else:
                assert message["role"] == "user" and message["content"].strip(), "an empty message"
        assert not open_calls, "tool_calls must be followed by tool messages"

    def events(self, step: Say) -> Iterable[str]:
        def chunk(delta: dict[str, Any], finish: str | None = None) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return f"data: {json.dumps({'object': 'chat.completion.chunk', 'choices': [choice], 'usage': None})}\n\n"

        yield chunk({"role": "assistant", "content": ""})
        for piece in _pieces(step.text):
            yield chunk({"content": piece})
        for index, (name, arguments) in enumerate(step.calls):
            call = {"index": index, "id": f"call_{id(step)}_{index}", "type": "function"}
            yield chunk({"tool_calls": [{**call, "function": {"name": name, "arguments": ""}}]})
            for piece in _pieces(_raw(arguments)):
                yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        stops = {"max_tokens": "length", "refusal": "content_filter"}
        yield chunk({}, stops.get(step.stop or "", "tool_calls" if step.calls else "stop"))
        usage = {"prompt_tokens": 10, "completion_tokens": 8, "total_tokens": 18}
        yield f"data: {json.dumps({'object': 'chat.completion.chunk', 'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"

    def broken(self) -> str:
        return 'data: {"error": {"message": "The server had an error", "type": "server_error"}}\n\n'


_ANTHROPIC, _OPENAI = _Anthropic(), _OpenAi()


def told(body: dict[str, Any]) -> str:
    """Everything that the model was told in a request, as one text."""
    return json.dumps(body["messages"], ensure_ascii=False)


def results(body: dict[str, Any]) -> list[str]:
    """What the calls of the newest answer gave, in order."""
    if body["messages"][0]["role"] == "system":
        found: list[str] = []
        for message in reversed(body["messages"]):
            if message["role"] != "tool":
                break
            found.insert(0, message["content"])
        return found
    return [block["content"] for block in body["messages"][-1]["content"] if block["type"] == "tool_result"]


@contextlib.asynccontextmanager
async def llm_stand_in() -> AsyncIterator[Llm]:
    """Start it on a free port of this machine."""
    llm = Llm()
    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_route("*", "/{path:.*}", llm.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    llm.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield llm
    finally:
        await runner.cleanup()
