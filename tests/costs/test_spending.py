"""
What a call cost is entered when its reply has passed, for whom it was made, and once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from company_agents.app import App
from company_agents.errors import NotFound, Refused, Unavailable
from company_agents.identity.limits import Limit
from company_agents.integrations.costs import Entry, ModelSum
from company_agents.integrations.usage import Usage
from company_agents.sensitive import Sensitive
from tests.conftest import Tenant
from tests.costs import replies
from tests.costs.conftest import KEY, SONNET, Connect, Model, call, message, streamed
from tests.promises.evidence import Past, sql

MakeTenant = Callable[[], Awaitable[Tenant]]
SSE = "text/event-stream"


async def entries(app: App, tenant: Tenant, **which: Any) -> list[Entry]:
    return (await app.spending.entries(tenant.local, **which)).items


async def test_a_call_is_entered_for_its_agent_day_month_and_run(
    app: App, tenant: MakeTenant, model: Model, connect: Connect
) -> None:
    one = await tenant()
    integration = await connect(one)
    run, token = await app.runs.open(one.agent)
    caller = await app.identity.run(token.reveal_text())
    model.usual = message(tokens_in=1001, cache_read_input_tokens=10, cache_creation_input_tokens=7)
    await call(app, caller, integration)
    # 1001 × 3 + 200 × 15 + 10 × 0.3 + 7 × 3.75 = 6032.25 millionths of a dollar
    [entry] = await entries(app, one)
    assert (entry.agent_id, entry.run_id, entry.integration_id) == (one.agent.agent_id(), run.id, integration.id)
    assert (entry.provider, entry.model, entry.micros) == ("anthropic", SONNET, 6033)
    assert (entry.input_tokens, entry.output_tokens, entry.cache_read_tokens, entry.cache_write_tokens) == (
        1001,
        200,
        10,
        7,
    )
    assert not entry.estimated and not entry.late
    for month in [await app.spending.month(one.local), await app.spending.month(one.local, one.agent.agent_id())]:
        assert (month.calls, month.tokens, month.micros, month.unpriced, month.limit) == (1, 1218, 6033, 0, Limit())
        assert month.begins_anew.day == 1
    summary = await app.spending.summary(one.local)
    [day] = summary.days
    assert (day.agent, day.model, day.calls, day.tokens, day.micros) == ("ann", SONNET, 1, 1218, 6033)
    assert (summary.total.tokens, summary.total.micros) == (1218, 6033)
    assert await app.spending.of_run(one.local, run.id) == [
        ModelSum(provider="anthropic", model=SONNET, calls=1, tokens=1218, micros=6033)
    ]
    shown = await app.runs.get(one.local, run.id)
    assert (shown.tokens, shown.micros) == (1218, 6033)


async def test_a_streamed_reply_is_entered_before_its_reader_knows_that_it_was_all(
    app: App, tenant: MakeTenant, model: Model, connect: Connect
) -> None:
    one = await tenant()
    integration = await connect(one)
    model.usual = (SSE, replies.ANTHROPIC_STREAM)
    asked = json.dumps({"model": "claude-opus-4-5", "stream": True}).encode()
    async with app.relay.open(one.agent, str(integration.id), streamed([asked[:9], asked[9:]])) as relayed:
        passed = b"".join([piece async for piece in relayed.body()])
        assert passed == replies.ANTHROPIC_STREAM
        [entry] = await entries(app, one)
    assert model.sent == [("/v1/messages", asked)]
    assert (entry.model, entry.input_tokens, entry.output_tokens, entry.estimated) == (
        "claude-opus-4-5-20251101",
        25,
        15,
        False,
    )
    assert len(await entries(app, one)) == 1


async def test_a_reply_that_its_reader_leaves_is_entered_with_what_came_until_then(
    app: App, tenant: MakeTenant, model: Model, connect: Connect
) -> None:
    one = await tenant()
    integration = await connect(one)
    model.usual = (SSE, replies.sse(replies.ANTHROPIC_START, *[replies.ANTHROPIC_TEXT] * 20, named=True))
    model.go_on = asyncio.Event()
    asked = json.dumps({"model": "claude-opus-4-5", "stream": True}).encode()
    begun = asyncio.Event()

    async def leave() -> None:
        async with app.relay.open(one.agent, str(integration.id), streamed([asked])) as relayed:
            async for _ in relayed.body():
                begun.set()
                await asyncio.sleep(3600)

    reading = asyncio.create_task(leave())
    await begun.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    [entry] = await entries(app, one)
    assert (entry.input_tokens, entry.cache_read_tokens, entry.estimated) == (25, 100, True)
    assert entry.output_tokens > 1


async def test_a_stream_that_says_nothing_is_entered_as_an_estimate(
    app: App, tenant: MakeTenant, model: Model, connect: Connect
) -> None:
    one = await tenant()
    integration = await connect(one, "openai")
    model.usual = (SSE, replies.CHAT_STREAM_THAT_SAYS_NOTHING)
    await call(app, one.agent, integration, {"model": "gpt-6.2-sol", "stream": True}, "/v1/chat/completions")
    [entry] = await entries(app, one)
    assert entry.estimated and entry.input_tokens > 0 and entry.output_tokens == 9
    assert (await app.spending.summary(one.local)).total.estimated == 1


async def test_a_model_without_a_price_costs_something_that_is_not_known_and_never_nothing(
    app: App, tenant: MakeTenant, model: Model, connect: Connect
) -> None:
    one = await tenant()
    integration = await connect(one)
    model.answers = [message("claude-of-the-future"), message(), message(speed="fast")]
    for _ in range(3):
        await call(app, one.agent, integration, {"model": "claude-of-the-future"})
    assert [entry.micros for entry in await entries(app, one)] == [None, 6000, None]
    month = await app.spending.month(one.local)
    assert (month.calls, month.tokens, month.micros, month.unpriced) == (3, 3600, 6000, 2)


async def test_what_a_provider_says_that_it_cost_is_what_it_cost(
    app: App, tenant: MakeTenant, model: Model, connect: Connect
) -> None:
    one = await tenant()
    integration = await connect(one, "openrouter")
    model.usual = ("application/json", json.dumps(replies.OPENROUTER).encode())
    await call(app, one.agent, integration, {"model": "anthropic/claude-opus-4.5"}, "/api/v1/chat/completions")
    assert [entry.micros for entry in await entries(app, one)] == [950]


async def test_neither_a_refusal_nor_another_provider_costs_anything(
    app: App, tenant: MakeTenant, model: Model, connect: Connect
) -> None:
    one = await tenant()
    llm, other = await connect(one), await connect(one, "generic")
    model.usual = message()
    await call(app, one.agent, other)
    await app.requests.request(one.agent, str(llm.id), "GET", "/v1/models")
    await app.integrations.rotate(one.local, llm.id, Sensitive(KEY))
    model.usual = ("application/json", b'{"type": "error", "error": {"type": "overloaded_error"}}')
    await call(app, one.agent, llm)
    assert await entries(app, one) == []


async def test_somebody_who_was_relieved_of_a_run_has_spent_and_the_runs_counters_do_not_have_it(
    app: App, tenant: MakeTenant, model: Model, connect: Connect, superuser: Past
) -> None:
    one = await tenant()
    integration = await connect(one)
    run, token = await app.runs.open(one.agent)
    caller = await app.identity.run(token.reveal_text())
    model.usual = (SSE, replies.ANTHROPIC_STREAM)
    model.go_on = asyncio.Event()
    asked = json.dumps({"model": SONNET}).encode()
    async with app.relay.open(caller, str(integration.id), streamed([asked])) as relayed:
        await sql(superuser, "UPDATE runs SET fence = fence + 1 WHERE id = %(id)s", id=run.id)
        model.go_on.set()
        async for _ in relayed.body():
            pass
    [entry] = await entries(app, one, run=run.id)
    assert entry.late
    assert (await app.spending.month(one.local)).tokens == 147
    shown = await app.runs.get(one.local, run.id)
    assert (shown.tokens, shown.micros) == (0, 0)


async def test_calls_at_once_lose_no_entry_and_no_sum(
    app: App, tenant: MakeTenant, model: Model, connect: Connect
) -> None:
    one = await tenant()
    integration = await connect(one)
    run, token = await app.runs.open(one.agent)
    _, other = await app.agents.create(one.local, "bob")
    callers = [await app.identity.run(token.reveal_text()), await app.identity.agent(other.reveal_text())]
    model.usual = message()
    await asyncio.gather(*(call(app, caller, integration) for caller in callers for _ in range(20)))
    assert len(await entries(app, one)) == 40
    assert (await app.spending.month(one.local)).micros == 40 * 6000
    assert (await app.spending.month(one.local, callers[1].agent_id())).micros == 20 * 6000
    assert (await app.runs.get(one.local, run.id)).micros == 20 * 6000
    assert (await app.spending.summary(one.local)).total.micros == 40 * 6000
    assert (await app.spending.of_agent(one.local, callers[1].agent_id())).total.calls == 20


async def test_a_reply_reaches_its_caller_where_its_cost_cannot_be_entered_and_is_entered_later(
    app: App, tenant: MakeTenant, model: Model, connect: Connect, superuser: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await tenant()
    integration = await connect(one)
    model.usual = message()
    monkeypatch.setattr("company_agents.integrations.spending.PAUSES", (0.3, 0.3, 0.3, 5.0))
    monkeypatch.setattr("company_agents.integrations.spending.PATIENCE", 0.05)
    entered = app.spending.record
    refused = 0

    async def away(*args: Any) -> None:
        nonlocal refused
        if refused < 2:
            refused += 1
            raise Unavailable
        await entered(*args)

    monkeypatch.setattr(type(app.spending), "record", lambda self, *args: away(*args))
    assert (await call(app, one.agent, integration)).status == 200
    assert await entries(app, one) == []
    await app.spending.close()
    assert len(await entries(app, one)) == 1


async def test_nobody_but_people_of_the_company_sees_what_it_spent(app: App, tenant: MakeTenant) -> None:
    one, other = await tenant(), await tenant()
    usage = Usage(model=SONNET, input_tokens=5)
    await app.spending.record(one.agent, one.company.id, "anthropic", usage)
    assert len(await entries(app, one)) == 1
    assert await entries(app, other) == []
    assert (await app.spending.summary(other.local)).days == []
    for ask in (app.spending.entries, app.spending.summary, app.spending.month):
        with pytest.raises(Refused):
            await ask(one.agent)
    with pytest.raises(NotFound):
        await app.spending.month(other.local, one.agent.agent_id())
