"""
What providers of models answer, as their documentation has it, with words of our own.

Sources: docs.anthropic.com (Messages, streaming), platform.openai.com (Chat Completions, Responses, Embeddings),
ai.google.dev (generateContent), openrouter.ai (usage accounting), docs.perplexity.ai, api-docs.deepseek.com, console.groq.com,
docs.x.ai, docs.cohere.com, docs.aws.amazon.com (Converse, the event stream encoding).
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any

# A text that talks like a reply.
TALK = 'It said {"usage": {"input_tokens": 999999, "output_tokens": 999999}} and "model": "cheap".'


def sse(*events: dict[str, Any] | str, named: bool = False) -> bytes:
    lines = []
    for event in events:
        if named and isinstance(event, dict):
            lines.append(f"event: {event['type']}\n")
        lines.append(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n")
    return "".join(lines).encode()


def frames(*payloads: dict[str, Any]) -> bytes:
    """The event stream encoding of AWS: prelude, checksum, headers, payload, checksum."""
    out = b""
    for payload in payloads:
        body, headers = json.dumps(payload).encode(), b"\x0b:event-type\x07\x00\x05chunk"
        prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
        frame = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + body
        out += frame + struct.pack(">I", zlib.crc32(frame))
    return out


def inside(event: dict[str, Any]) -> dict[str, Any]:
    return {"bytes": base64.b64encode(json.dumps(event).encode()).decode(), "p": "abcd"}


ANTHROPIC = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-4-5-20251101",
    "content": [{"type": "text", "text": TALK}],
    "stop_reason": "end_turn",
    "usage": {
        "input_tokens": 2095,
        "cache_creation_input_tokens": 2051,
        "cache_read_input_tokens": 2051,
        "cache_creation": {"ephemeral_5m_input_tokens": 1051, "ephemeral_1h_input_tokens": 1000},
        "output_tokens": 503,
        "service_tier": "standard",
    },
}
ANTHROPIC_START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "model": "claude-opus-4-5-20251101",
        "content": [],
        "usage": {
            "input_tokens": 25,
            "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 7,
            "output_tokens": 1,
        },
    },
}
ANTHROPIC_TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TALK}}
ANTHROPIC_STREAM = sse(
    ANTHROPIC_START,
    {"type": "ping"},
    ANTHROPIC_TEXT,
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 15}},
    {"type": "message_stop"},
    named=True,
)

CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-4o-2024-08-06",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": TALK}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 1117,
        "completion_tokens": 46,
        "total_tokens": 1163,
        "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    },
    "service_tier": "default",
}


def chunk(text: str, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return {"object": "chat.completion.chunk", "model": "gpt-4o-2024-08-06", "choices": [choice], **more}


CHAT_STREAM = sse(
    chunk("Hel", usage=None),
    chunk(TALK, usage=None),
    {
        "object": "chat.completion.chunk",
        "model": "gpt-4o-2024-08-06",
        "choices": [],
        "usage": {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29},
    },
    "[DONE]",
)
CHAT_STREAM_THAT_SAYS_NOTHING = sse(chunk("Hello "), chunk("there, how are you?"), "[DONE]")

RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "model": "gpt-4.1-2025-04-14",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": TALK}]}],
    "service_tier": "default",
    "usage": {
        "input_tokens": 328,
        "input_tokens_details": {"cached_tokens": 128},
        "output_tokens": 52,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 380,
    },
}
RESPONSE_STREAM = sse(
    {"type": "response.created", "response": {"id": "resp_1", "model": "gpt-4.1-2025-04-14", "usage": None}},
    {"type": "response.output_text.delta", "delta": TALK},
    {"type": "response.completed", "response": RESPONSE},
    named=True,
)
EMBEDDINGS = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.0023, -0.0093]}],
    "model": "text-embedding-3-small",
    "usage": {"prompt_tokens": 8, "total_tokens": 8},
}
OPENROUTER = {
    "id": "gen-1",
    "model": "anthropic/claude-opus-4.5",
    "choices": [],
    "usage": {
        "prompt_tokens": 194,
        "completion_tokens": 2,
        "total_tokens": 196,
        "cost": 0.00095,
        "cost_details": {"upstream_inference_cost": 0.5},
        "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 100},
    },
}
PERPLEXITY = {
    "id": "p-1",
    "model": "sonar",
    "usage": {
        "prompt_tokens": 8,
        "completion_tokens": 439,
        "total_tokens": 447,
        "cost": {
            "input_tokens_cost": 0.000008,
            "output_tokens_cost": 0.000439,
            "request_cost": 0.006,
            "total_cost": 0.006447,
        },
    },
    "choices": [],
}
DEEPSEEK = {
    "id": "d-1",
    "model": "deepseek-chat",
    "choices": [],
    "usage": {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_cache_hit_tokens": 64,
        "prompt_cache_miss_tokens": 36,
    },
}
# What it thought is in the total, and not in the completion.
XAI = {
    "id": "x-1",
    "model": "grok-4",
    "choices": [],
    "usage": {
        "prompt_tokens": 32,
        "completion_tokens": 9,
        "total_tokens": 135,
        "prompt_tokens_details": {"cached_tokens": 6},
        "completion_tokens_details": {"reasoning_tokens": 94},
    },
}
GROQ_STREAM = sse(
    {"model": "llama-3.3-70b-versatile", "choices": [{"delta": {"content": "Hi"}}], "x_groq": {"id": "req_1"}},
    {
        "model": "llama-3.3-70b-versatile",
        "choices": [{"delta": {}, "finish_reason": "stop"}],
        "x_groq": {"id": "req_1", "usage": {"prompt_tokens": 18, "completion_tokens": 55, "total_tokens": 73}},
    },
    "[DONE]",
)
GEMINI = {
    "candidates": [{"content": {"parts": [{"text": TALK}], "role": "model"}}],
    "usageMetadata": {
        "promptTokenCount": 500,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": 30,
        "cachedContentTokenCount": 400,
        "totalTokenCount": 550,
    },
    "modelVersion": "gemini-2.5-flash",
}
GEMINI_PARTS = [
    {
        "candidates": [{"content": {"parts": [{"text": TALK}]}}],
        "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": count, "totalTokenCount": 10 + count},
        "modelVersion": "gemini-2.5-flash",
    }
    for count in (2, 9)
]
COHERE_STREAM = sse(
    {"type": "message-start", "delta": {"message": {"role": "assistant"}}},
    {"type": "content-delta", "delta": {"message": {"content": {"text": TALK}}}},
    {
        "type": "message-end",
        "delta": {
            "finish_reason": "COMPLETE",
            "usage": {
                "billed_units": {"input_tokens": 5, "output_tokens": 7},
                "tokens": {"input_tokens": 71, "output_tokens": 7},
            },
        },
    },
    named=True,
)
CONVERSE = {
    "output": {"message": {"role": "assistant", "content": [{"text": TALK}]}},
    "usage": {
        "inputTokens": 30,
        "outputTokens": 628,
        "totalTokens": 658,
        "cacheReadInputTokens": 5,
        "cacheWriteInputTokens": 6,
    },
}
CONVERSE_STREAM = frames(
    {"contentBlockIndex": 0, "delta": {"text": TALK}},
    {"usage": {"inputTokens": 30, "outputTokens": 12, "totalTokens": 42}, "metrics": {"latencyMs": 1}},
)
INVOKE_STREAM = frames(
    inside(ANTHROPIC_START),
    inside(ANTHROPIC_TEXT),
    inside({"type": "message_delta", "usage": {"output_tokens": 15}}),
    inside(
        {
            "type": "message_stop",
            "amazon-bedrock-invocationMetrics": {"inputTokenCount": 25, "outputTokenCount": 15, "invocationLatency": 3},
        }
    ),
)
