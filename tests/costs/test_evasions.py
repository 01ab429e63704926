"""
What a call could be made to look like so that it costs less than it does, and costs what it does all the same.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from websockets.asyncio import client
from websockets.asyncio.server import ServerConnection

from company_agents.app import App
from company_agents.errors import Refused
from company_agents.integrations.usage import Usage, asked, estimated_tokens
from company_agents.integrations.usage_reader import MOST_KEPT, MOST_LINE, MOST_PARSED, Reader
from company_agents.outgoing.client import OutgoingRequest
from company_agents.sensitive import Sensitive
from tests.conftest import Tenant
from tests.costs import replies
from tests.costs.conftest import Connect, Model, call
from tests.costs.test_usage import JSON, SSE, numbers, read, request
from tests.streams import test_websocket as sockets
from tests.streams.conftest import door, replica

__all__ = ["door", "replica"]

desk = sockets.desk
Desk = sockets.Desk
MakeTenant = Callable[[], Awaitable[Tenant]]
GPT, CHEAP = "gpt-6.2-sol", "gpt-5.6-luna"
CHAT = "/v1/chat/completions"
RICH = {"month_micros": 10**9}


async def refused(app: App, one: Tenant, integration: Any, body: Any, path: str = CHAT) -> Refused:
    with pytest.raises(Refused) as caught:
        await call(app, one.agent, integration, body, path)
    return caught.value


# — entered, wherever it is asked —


@pytest.mark.parametrize("path", [CHAT, "/v1/chat/completion%73", "/v1/chat//completions", f"{CHAT};a", "/v9/talk"])
async def test_a_stream_that_says_nothing_is_estimated_at_whatever_path_a_model_is_named(
    app: App, tenant: MakeTenant, model: Model, connect: Connect, path: str
) -> None:
    one = await tenant()
    integration = await connect(one, "openai")
    await app.limits.set(one.local, None, {"month_micros": 1})
    model.usual = (SSE, replies.CHAT_STREAM_THAT_SAYS_NOTHING)
    body = {"model": GPT, "stream": True}
    await call(app, one.agent, integration, body, path)
    [entry] = (await app.spending.entries(one.local)).items
    assert entry.estimated and entry.micros
    assert (await refused(app, one, integration, body, path)).reason == "budget_spent"


def test_a_reply_with_an_error_that_is_none_is_a_reply() -> None:
    usage = read(JSON, b'{"object": "response", "error": null}', path="/v1/responses")
    assert usage is not None and usage.estimated
    assert read(JSON, b'{"error": {"message": "no"}}') is None


def test_a_body_that_was_too_long_to_be_read_is_estimated_by_its_length() -> None:
    async def body() -> Any:
        yield b""

    reader = Reader(OutgoingRequest("POST", "/v1/chat/completion%73", body=body(), length=3_000_000), 200, {})
    usage = reader.usage()
    assert usage is not None and (usage.input_tokens, usage.estimated) == (1_000_000, True)


# — answered later —

LATER = [
    ("xai", CHAT, {"model": "grok-4", "deferred": True}),
    ("mistral", "/v1/batch/jobs", {"model": "mistral-large-latest"}),
    ("mistral", "/v1/batch//jobs;x", {"model": "mistral-large-latest"}),
    ("perplexity", "/async/chat/completions", {"request": {"model": "sonar"}}),
    ("perplexity", "/async/chat/completions", {"model": "sonar"}),
    ("openai", "/v1/batche%73", {"model": GPT}),
    ("openai", "/v1/responses", {"model": GPT, "background": 1}),
    ("xai", "/v1/batches/b/requests", {"model": "grok-4"}),
]


@pytest.mark.parametrize(("provider", "path", "body"), LATER)
async def test_with_any_budget_whatever_is_answered_later_is_refused(
    app: App, tenant: MakeTenant, model: Model, connect: Connect, provider: str, path: str, body: Any
) -> None:
    one = await tenant()
    integration = await connect(one, provider)
    await app.limits.set(one.local, None, {"month_tokens": 10**9})
    error = await refused(app, one, integration, body, path)
    assert (error.reason, model.sent) == ("cost_unknown", [])
    assert "later" in error.sentence or "when it is answered" in error.sentence


def test_an_invocation_of_bedrock_that_is_answered_later_is_recognised() -> None:
    assert asked(request("/async-invoke", {"modelId": "amazon.nova-reel-v1:0"})).later
    assert not asked(request("/model/amazon.nova-lite-v1/invoke", {})).later


async def test_a_provider_that_says_what_it_costs_is_not_asked_for_it_without_a_model(
    app: App, tenant: MakeTenant, model: Model, connect: Connect
) -> None:
    one = await tenant()
    integration = await connect(one, "openrouter")
    await app.limits.set(one.local, None, RICH)
    assert (await refused(app, one, integration, {"messages": []}, f"/api{CHAT}")).reason == "cost_unknown"
    model.usual = (JSON, json.dumps(replies.OPENROUTER).encode())
    await call(app, one.agent, integration, {"model": "anthropic/claude-opus-4.5"}, f"/api{CHAT}")


# — a price that is not known —


def reply(**more: Any) -> tuple[str, bytes]:
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    return JSON, json.dumps({"model": GPT, "choices": [], "usage": usage, **more}).encode()


async def test_a_variant_without_a_price_costs_what_the_model_that_was_asked_for_does(
    app: App, tenant: MakeTenant, model: Model, connect: Connect
) -> None:
    one = await tenant()
    integration = await connect(one, "openai")
    await app.limits.set(one.local, None, RICH)
    model.usual = reply(model=f"{GPT}-eu-west")
    await call(app, one.agent, integration, {"model": GPT}, CHAT)
    [entry] = (await app.spending.entries(one.local)).items
    assert (entry.model, entry.micros) == (f"{GPT}-eu-west", 1000 * 2 + 100 * 10)


@pytest.mark.parametrize("whose", ["company", "agent", "run"])
async def test_a_cost_that_is_not_known_ends_a_budget_in_money_until_it_is_set_again(
    app: App, tenant: MakeTenant, model: Model, connect: Connect, whose: str
) -> None:
    one = await tenant()
    integration = await connect(one, "openai")
    model.usual = reply(service_tier="priority")
    # What there was before there was a budget is no matter.
    await call(app, one.agent, integration, {"model": GPT}, CHAT)
    limits = {"run_micros" if whose == "run" else "month_micros": 10**9}
    at = one.agent.agent_id() if whose == "agent" else None
    await app.limits.set(one.local, at, limits)

    async def caller() -> Any:
        if whose != "run":
            return one.agent
        _, token = await app.runs.open(one.agent)
        return await app.identity.run(token.reveal_text())

    who = await caller()
    await call(app, who, integration, {"model": GPT}, CHAT)
    with pytest.raises(Refused) as caught:
        await call(app, who, integration, {"model": GPT}, CHAT)
    assert caught.value.reason == "cost_unknown"
    assert f"what a call of this {whose}" in caught.value.sentence
    assert len(model.sent) == 2
    if whose != "run":
        await app.limits.set(one.local, at, {"month_micros": 2 * 10**9})
    await call(app, await caller(), integration, {"model": GPT}, CHAT)
    await app.limits.set(one.local, at, {**dict.fromkeys(limits), "month_tokens": 10**9})
    await call(app, who, integration, {"model": GPT}, CHAT)


# — WebSockets —


async def open_at(desk: Desk, said: Callable[[str], str | bytes], limits: dict[str, int], model: str) -> Any:
    async def answer(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(said(str(message)))

    desk.provider.does = answer
    one = desk.tenant
    integration = await desk.app.integrations.connect(
        *(one.local, "openai", Sensitive(sockets.SECRET)),
        base_url=desk.provider.url,
        allow_private_network=True,
        allow=[one.agent.agent_id()],
    )
    await desk.app.limits.set(one.local, None, limits)
    url = desk.url.replace("generic", integration.name)
    return client.connect(f"{url}/v1/realtime?model={model}", additional_headers=desk.bearer(), proxy=None)


async def test_what_a_binary_message_says_of_costs_is_entered(desk: Desk) -> None:
    usage = {"promptTokenCount": 60, "responseTokenCount": 40, "totalTokenCount": 100}
    opening = await open_at(desk, lambda _: json.dumps({"usageMetadata": usage}).encode(), {"month_tokens": 100}, "g")
    async with opening as connection:
        await connection.send("go")
        assert isinstance(await connection.recv(), bytes)
        assert await sockets.closed(connection) == (1008, "budget_spent")


async def test_a_binary_message_that_is_no_json_passes(desk: Desk) -> None:
    opening = await open_at(desk, lambda _: b'\xff"usage\x00', {"month_tokens": 100}, "g")
    async with opening as connection:
        for _ in range(2):
            await connection.send("go")
            assert await connection.recv() == b'\xff"usage\x00'


async def test_a_connection_whose_messages_ask_for_a_model_without_a_price_ends(desk: Desk) -> None:
    def answer(message: str) -> str:
        usage = {"input_tokens": 10, "output_tokens": 10, "input_tokens_details": {"cached_tokens": 0}}
        named = json.loads(message)["model"]
        return json.dumps({"type": "response.completed", "response": {"model": named, "usage": usage}})

    async with await open_at(desk, answer, RICH, CHEAP) as connection:
        for named in (CHEAP, "o-of-the-future-pro"):
            await connection.send(json.dumps({"model": named}))
            await connection.recv()
        assert await sockets.closed(connection) == (1008, "cost_unknown")
    month = await desk.app.spending.month(desk.tenant.local)
    assert (month.calls, month.unpriced) == (2, 1)


# — what is repeated in a reply —

TOOLS = [
    {"type": "function", "name": "f", "parameters": {"a": {"const": {"model": CHEAP, "usage": {"input_tokens": 1}}}}}
]


def response(**more: Any) -> dict[str, Any]:
    said = {"id": "r", "object": "response", "error": None, "instructions": "y" * 5000, "model": "the-dear-one"}
    last = {"usage": replies.RESPONSE["usage"], "metadata": {"model": CHEAP, "usage": "none"}}
    return {**said, "tools": TOOLS, **more, **last}


def read_of(body: Any) -> Usage | None:
    return read(JSON, json.dumps(body).encode(), path="/v1/responses", pieces=65_536)


@pytest.mark.parametrize("size", [1, MOST_PARSED, MOST_KEPT])
def test_a_model_and_usage_that_were_asked_to_be_repeated_are_not_those_of_the_reply(size: int) -> None:
    usage = read_of(response(output="x" * size))
    assert numbers(usage) == (200, 52, 128, 0)
    # Of what is too long to be kept, the request says it.
    assert usage is not None and usage.model == ("asked-for" if size == MOST_KEPT else "the-dear-one")


def test_a_long_list_of_replies_is_read_each() -> None:
    parts = [{**part, "more": {"usageMetadata": {"totalTokenCount": 9**9}}} for part in replies.GEMINI_PARTS]
    usage = read_of([{**parts[0], "text": 'x"}]' * MOST_PARSED}, parts[1]])
    assert numbers(usage) == (10, 9, 0, 0)
    assert usage is not None and usage.model == "gemini-2.5-flash"


def test_a_long_reply_that_is_no_json_says_nothing() -> None:
    for text in (b"[" * MOST_PARSED * 2, b"]" * MOST_PARSED * 2, b'{"usage": ' * MOST_PARSED, b'"\\' * MOST_PARSED):
        usage = read(JSON, text)
        assert usage is not None and usage.estimated


def test_the_last_event_of_a_stream_is_read_however_much_it_repeats() -> None:
    long = "w\n" * MOST_LINE
    begin = {"type": "response.created", "response": {"instructions": long, "tools": TOOLS, "usage": None}}
    end = {"type": "response.completed", "response": response(instructions=long)}
    sent = {"model": "the-dear-one", "stream": True}
    usage = read(SSE, replies.sse(begin, end), path="/v1/responses", pieces=65_536, sent=sent)
    assert numbers(usage) == (200, 52, 128, 0)
    assert usage is not None and usage.model == "the-dear-one"
    # One that breaks off after its beginning has not said what it used.
    broken = read(SSE, replies.sse(begin), path="/v1/responses", pieces=65_536, sent=sent)
    assert broken is not None and broken.estimated and broken.model == "the-dear-one"


# — estimated —


def estimate(body: Any) -> int:
    return estimated_tokens(json.dumps(body).encode())


@pytest.mark.parametrize("letters", ["word\n", "語", "QUJD"])
def test_a_text_counts_by_its_length_whatever_it_is_made_of(letters: str) -> None:
    text = letters * 100_000
    least = 100_000
    look = f"data:image/png;base64,{'QUJD' * 100_000}"
    for body in (
        {"messages": [{"content": text}]},
        {"messages": [{"content": look}]},
        {"messages": [{"content": [{"type": "text", "text": look}]}]},
        {"messages": [{"content": [{"image_url": {"url": "data:image/png;base64," + letters * 100_000 + " !"}}]}]},
        {"messages": [{"content": [{"type": "document", "source": {"media_type": "text/plain", "data": text}}]}]},
        {"tools": [{"parameters": {"image_url": {"url": look}}}]},
        {"messages": [{"content": [{"type": "tool_use", "input": {"source": {"image_url": {"url": look}}}}]}]},
    ):
        assert estimate(body) >= least


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,%s"}},
        {"type": "input_image", "image_url": "data:image/jpeg;base64,%s"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "%s"}},
        {"inlineData": {"mimeType": "image/webp", "data": "%s"}},
    ],
)
def test_an_image_counts_as_a_page(block: Any) -> None:
    filled = json.loads(json.dumps(block).replace("%s", "iVBORw0KGgoAAAA" * 100_000))
    for body in ({"messages": [{"content": [filled] * 3}]}, {"input": [{"content": [filled] * 3}]}):
        assert 4000 < estimate(body) < 4500
    assert 4000 < estimate({"contents": [{"parts": [filled] * 3}]}) < 4500
