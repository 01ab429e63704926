"""
What a reply says of its cost is read as it passes, in whatever pieces; where it says nothing, that is said.
"""

from __future__ import annotations

import json
import random
from decimal import Decimal
from typing import Any

import pytest

from company_agents.integrations.usage import Asked, Usage, asked, is_paid
from company_agents.integrations.usage_reader import MOST_KEPT, MOST_LINE, Reader
from company_agents.outgoing.client import OutgoingRequest
from tests.costs import replies

CHAT = "/v1/chat/completions"
JSON, SSE, FRAMES = "application/json", "text/event-stream; charset=utf-8", "application/vnd.amazon.eventstream"


def request(path: str = CHAT, body: Any = None) -> OutgoingRequest:
    text = json.dumps(body if body is not None else {"model": "asked-for", "messages": []}).encode()
    return OutgoingRequest("POST", path, "", {"Content-Type": JSON}, text)


def read(
    kind: str, body: bytes, *, path: str = CHAT, status: int = 200, pieces: int = 0, sent: Any = None
) -> Usage | None:
    reader = Reader(request(path, sent), status, {"Content-Type": kind})
    size = pieces or len(body) or 1
    for start in range(0, len(body), size):
        reader.feed(body[start : start + size])
    return reader.usage()


def numbers(usage: Usage | None) -> tuple[int, ...]:
    assert usage is not None
    assert not usage.estimated
    return usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens


WHOLE = [
    ("anthropic", replies.ANTHROPIC, "/v1/messages", "claude-opus-4-5-20251101", (2095, 503, 2051, 2051)),
    ("chat", replies.CHAT, CHAT, "gpt-4o-2024-08-06", (93, 46, 1024, 0)),
    ("responses", replies.RESPONSE, "/v1/responses", "gpt-4.1-2025-04-14", (200, 52, 128, 0)),
    ("embeddings", replies.EMBEDDINGS, "/v1/embeddings", "text-embedding-3-small", (8, 0, 0, 0)),
    ("openrouter", replies.OPENROUTER, "/api/v1/chat/completions", "anthropic/claude-opus-4.5", (94, 2, 0, 100)),
    ("perplexity", replies.PERPLEXITY, "/chat/completions", "sonar", (8, 439, 0, 0)),
    ("deepseek", replies.DEEPSEEK, "/chat/completions", "deepseek-chat", (36, 20, 64, 0)),
    ("xai", replies.XAI, CHAT, "grok-4", (26, 103, 6, 0)),
    (
        "gemini",
        replies.GEMINI,
        "/v1beta/models/gemini-2.5-flash:generateContent",
        "gemini-2.5-flash",
        (100, 50, 400, 0),
    ),
    ("gemini list", replies.GEMINI_PARTS, "/v1beta/models/g:streamGenerateContent", "gemini-2.5-flash", (10, 9, 0, 0)),
    ("converse", replies.CONVERSE, "/model/amazon.nova-lite-v1/converse", "amazon.nova-lite-v1", (30, 628, 5, 6)),
]
STREAMS = [
    ("anthropic", SSE, replies.ANTHROPIC_STREAM, "/v1/messages", "claude-opus-4-5-20251101", (25, 15, 100, 7)),
    ("chat", SSE, replies.CHAT_STREAM, CHAT, "gpt-4o-2024-08-06", (19, 10, 0, 0)),
    ("responses", SSE, replies.RESPONSE_STREAM, "/v1/responses", "gpt-4.1-2025-04-14", (200, 52, 128, 0)),
    ("groq", SSE, replies.GROQ_STREAM, CHAT, "llama-3.3-70b-versatile", (18, 55, 0, 0)),
    ("gemini", SSE, replies.sse(*replies.GEMINI_PARTS), "/v1beta/models/g:x", "gemini-2.5-flash", (10, 9, 0, 0)),
    ("cohere", SSE, replies.COHERE_STREAM, "/v2/chat", "asked-for", (5, 7, 0, 0)),
    ("converse", FRAMES, replies.CONVERSE_STREAM, "/model/nova/converse-stream", "nova", (30, 12, 0, 0)),
    (
        "invoke",
        FRAMES,
        replies.INVOKE_STREAM,
        "/model/c/invoke-with-response-stream",
        "claude-opus-4-5-20251101",
        (25, 15, 100, 7),
    ),
]


@pytest.mark.parametrize(("name", "body", "path", "model", "wanted"), WHOLE, ids=[row[0] for row in WHOLE])
def test_a_whole_reply_says_what_was_used(name: str, body: Any, path: str, model: str, wanted: tuple[int, ...]) -> None:
    for text in (json.dumps(body).encode(), json.dumps(body, indent=2).encode()):
        usage = read(JSON, text, path=path, pieces=11)
        assert numbers(usage) == wanted
        assert usage is not None and usage.model == model and usage.tier == ""


@pytest.mark.parametrize(("name", "kind", "body", "path", "model", "wanted"), STREAMS, ids=[row[0] for row in STREAMS])
def test_a_stream_says_the_same_in_whatever_pieces_it_comes(
    name: str, kind: str, body: bytes, path: str, model: str, wanted: tuple[int, ...]
) -> None:
    for pieces in (1, 2, 7, 100, 0):
        usage = read(kind, body, path=path, pieces=pieces)
        assert numbers(usage) == wanted
        assert usage is not None and usage.model == model


def test_hours_searches_tiers_and_dollars_are_read() -> None:
    usage = read(JSON, json.dumps(replies.ANTHROPIC).encode(), path="/v1/messages")
    assert usage is not None and usage.cache_write_hour_tokens == 1000
    fast = {**replies.ANTHROPIC["usage"], "speed": "fast", "server_tool_use": {"web_search_requests": 3}}  # type: ignore[dict-item]
    usage = read(JSON, json.dumps({**replies.ANTHROPIC, "usage": fast}).encode(), path="/v1/messages")
    assert usage is not None and (usage.tier, usage.searches) == ("fast", 3)
    usage = read(JSON, json.dumps({**replies.CHAT, "service_tier": "priority"}).encode())
    assert usage is not None and usage.tier == "priority"
    usage = read(JSON, json.dumps(replies.OPENROUTER).encode())
    assert usage is not None and usage.dollars == Decimal("0.00095")
    own_key = {**replies.OPENROUTER["usage"], "is_byok": True}  # type: ignore[dict-item]
    usage = read(JSON, json.dumps({**replies.OPENROUTER, "usage": own_key}).encode())
    assert usage is not None and usage.dollars == Decimal("0.50095")
    usage = read(JSON, json.dumps(replies.PERPLEXITY).encode())
    assert usage is not None and usage.dollars == Decimal("0.006447")


def test_a_stream_that_says_nothing_is_estimated_and_says_so() -> None:
    sent = {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "x" * 3000}]}
    usage = read(SSE, replies.CHAT_STREAM_THAT_SAYS_NOTHING, sent=sent, pieces=5)
    assert usage is not None and usage.estimated
    assert (usage.model, usage.output_tokens) == ("gpt-4o-2024-08-06", -(-len("Hello there, how are you?") // 3))
    assert 1000 < usage.input_tokens < 1050


def test_an_image_is_not_estimated_by_its_length() -> None:
    image = "data:image/png;base64," + "iVBORw0KGgoAAAA" * 100_000
    sent = {"model": "gpt-4o", "messages": [{"content": [{"type": "image_url", "image_url": {"url": image}}]}]}
    usage = read(SSE, replies.CHAT_STREAM_THAT_SAYS_NOTHING, sent=sent)
    assert usage is not None and usage.input_tokens < 2000


def test_a_stream_that_broke_off_is_estimated_by_what_came_until_then() -> None:
    start = replies.sse(replies.ANTHROPIC_START, *[replies.ANTHROPIC_TEXT] * 30, named=True)
    usage = read(SSE, start, path="/v1/messages")
    assert usage is not None and usage.estimated
    assert (usage.input_tokens, usage.cache_read_tokens) == (25, 100)
    assert usage.output_tokens >= 30 * len(replies.TALK) // 3
    nothing_yet = read(SSE, b"", path="/v1/messages")
    assert nothing_yet is not None and nothing_yet.estimated and nothing_yet.model == "asked-for"


@pytest.mark.parametrize("status", [400, 401, 429, 500, 529])
def test_a_refusal_costs_nothing(status: int) -> None:
    assert read(JSON, json.dumps(replies.CHAT).encode(), status=status) is None


def test_what_is_no_call_to_a_model_costs_nothing() -> None:
    assert read(JSON, b'{"id": "file-1", "object": "file"}', path="/v1/vector_stores/v/files", sent={}) is None
    assert read(JSON, b'{"object": "thread.message"}', path="/v1/threads/t/messages", sent={"role": "user"}) is None
    assert read(JSON, b'{"error": {"message": "no"}}') is None


@pytest.mark.parametrize("count", [-5, 1e400, float("nan"), True, "12", [1], {"a": 1}, None, 10**30])
def test_a_number_that_is_none_counts_as_nothing(count: Any) -> None:
    body = {"model": "m", "usage": {"prompt_tokens": count, "completion_tokens": 7}}
    usage = read(JSON, json.dumps(body).encode())
    assert usage is not None and (usage.input_tokens, usage.output_tokens) == (0, 7)


def test_a_name_that_cannot_be_stored_is_none() -> None:
    for name in ("a\0b", "x" * 201, "line\nend", 7, None):
        body = {"model": name, "usage": {"prompt_tokens": 1}}
        usage = read(JSON, json.dumps(body).encode())
        assert usage is not None and usage.model == "asked-for"


def test_whatever_comes_nothing_is_raised() -> None:
    chance = random.Random(7)
    bodies = [
        b"",
        b"\n" * 50,
        b"data:",
        b"data: {",
        b"[" * 100_000,
        b'{"usage":' * 20_000,
        b"\xff" * 99,
        b"data: \xff\n\n",
    ]
    bodies += [chance.randbytes(chance.randrange(600)) for _ in range(300)]
    good = [replies.ANTHROPIC_STREAM, replies.CHAT_STREAM, replies.INVOKE_STREAM, json.dumps(replies.GEMINI).encode()]
    for body in good:
        for _ in range(100):
            cut = bytearray(body)
            cut[chance.randrange(len(cut))] = chance.randrange(256)
            bodies.append(bytes(cut[chance.randrange(50) : chance.randrange(50, len(cut))]))
    for body in bodies:
        for kind in (JSON, SSE, FRAMES, "text/plain", ""):
            read(kind, body, pieces=chance.choice([0, 1, 13]) if len(body) < 5000 else 0)


def test_a_line_or_frame_that_never_ends_is_not_kept_and_the_next_is_read() -> None:
    reader = Reader(request(), 200, {"content-type": SSE})
    for _ in range(64):
        reader.feed(b"data: " + b"x" * (MOST_LINE // 8))
        assert len(reader._kept) <= MOST_LINE
    reader.feed(b"\n\n" + replies.CHAT_STREAM)
    assert numbers(reader.usage()) == (19, 10, 0, 0)
    frames = Reader(request(), 200, {"content-type": FRAMES})
    frames.feed(b"\x10\x00\x00\x00\x00\x00\x00\x00")
    for _ in range(256):
        frames.feed(b"x" * (MOST_LINE - (8 if _ == 0 else 0)))
        assert len(frames._kept) <= MOST_LINE
    frames.feed(replies.CONVERSE_STREAM)
    assert numbers(frames.usage()) == (30, 12, 0, 0)


def test_of_a_long_reply_only_the_end_is_kept_and_what_it_says_is_found() -> None:
    vectors = {**replies.EMBEDDINGS, "data": [{"embedding": [0.12345] * 1500}] * 700}
    text = json.dumps(vectors).encode()
    assert len(text) > 2 * MOST_KEPT
    reader = Reader(request("/v1/embeddings"), 200, {"content-type": JSON})
    for start in range(0, len(text), 50_000):
        reader.feed(text[start : start + 50_000])
        assert len(reader._kept) <= MOST_KEPT + 50_000
    usage = reader.usage()
    assert numbers(usage) == (8, 0, 0, 0)
    # Of what is not kept, the model is the one of the request.
    assert usage is not None and usage.model == "asked-for"


def test_a_long_text_that_talks_of_usage_is_not_believed() -> None:
    talk = {"type": "text", "text": replies.TALK * 30_000}
    for body in ({**replies.ANTHROPIC, "content": [talk]}, {**replies.ANTHROPIC, "content": [talk] * 2}):
        usage = read(JSON, json.dumps(body).encode(), path="/v1/messages", pieces=65_536)
        assert numbers(usage) == (2095, 503, 2051, 2051)
        kept = len(body["content"]) == 1
        assert usage is not None and usage.model == ("claude-opus-4-5-20251101" if kept else "asked-for")


def test_what_is_asked_for_stands_in_the_body_or_the_path() -> None:
    assert asked(request(body={"model": "gpt-4o", "service_tier": "flex"})) == Asked("gpt-4o", "flex")
    assert asked(request(body={"model": "m", "speed": "fast", "inference_geo": "us"})) == Asked("m", "fast+us")
    assert asked(request("/v1/responses", {"model": "m", "background": True})).later
    assert asked(request("/v1/messages/batches", {"requests": []})).later
    assert asked(request("/v1beta/models/gemini-2.5-pro:generateContent", {"model": "other"})).model == "gemini-2.5-pro"
    assert asked(request("/model/anthropic.claude-v2%3A1/invoke", {})).model == "anthropic.claude-v2%3A1"
    assert asked(OutgoingRequest("POST", CHAT, body=b"not json")) == Asked()
    assert asked(request(body=["model"])) == Asked()


@pytest.mark.parametrize(
    ("method", "path", "paid"),
    [
        ("POST", CHAT, True),
        ("POST", "/v1/messages", True),
        ("POST", "/v1beta/models/g:generateContent", True),
        ("POST", "/v1/images/generations", True),
        ("POST", "/v1/messages/batches", True),
        ("GET", "/v1/models", False),
        ("POST", "/v1/messages/count_tokens", False),
        ("POST", "/v1beta/models/g:countTokens", False),
        ("POST", "/v1/files", False),
        ("POST", "/v1/files/chat%2Fcompletions", True),
        ("POST", "/v1/files/a/b/c/chat/completions", True),
        ("PUT", CHAT, True),
        ("DELETE", "/v1/files/f", False),
    ],
)
def test_a_paid_call_is_told_from_one_that_costs_nothing(method: str, path: str, paid: bool) -> None:
    assert is_paid(OutgoingRequest(method, path)) is paid


def test_a_method_in_a_header_is_seen() -> None:
    assert not is_paid(OutgoingRequest("GET", CHAT, headers=[("Accept", "*/*")]))
    assert is_paid(OutgoingRequest("GET", CHAT, headers=[("X-HTTP-Method-Override", "POST")]))
