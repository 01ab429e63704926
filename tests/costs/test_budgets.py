"""
A paid call is compared with its budgets before it is sent; a spent budget refuses it, and says what to do.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from company_agents.app import App
from company_agents.errors import Refused
from company_agents.identity.principal import Caller
from company_agents.integrations.integrations import Integration
from company_agents.outbox.events import BUDGET_NEAR, BUDGET_SPENT, KINDS
from company_agents.outbox.events import message as outgoing_message
from tests.conftest import Tenant
from tests.costs import replies
from tests.costs.conftest import SONNET, Connect, Model, call, message, streamed
from tests.promises.evidence import Past, recorded, sql

MakeTenant = Callable[[], Awaitable[Tenant]]
# What `message()` costs: 1000 × 3 + 200 × 15 millionths of a dollar, and so many tokens.
MICROS, TOKENS = 6000, 1200


async def refused(app: App, caller: Caller, integration: Integration, *more: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        await call(app, caller, integration, *more)
    return caught.value


async def run_of(app: App, tenant: Tenant) -> Caller:
    _, token = await app.runs.open(tenant.agent)
    return await app.identity.run(token.reveal_text())


@pytest.mark.parametrize(
    ("whose", "limits", "said"),
    [
        ("run", {"run_micros": 2 * MICROS}, "the budget of this run is spent: $0.012 of $0.012"),
        ("run", {"run_tokens": 2 * TOKENS - 1}, "the budget of this run is spent: 2,400 tokens of 2,399 tokens"),
        ("agent", {"month_micros": 10_000}, "the budget of this agent for this month is spent: $0.012 of $0.01"),
        (
            "agent",
            {"month_tokens": 1201},
            "the budget of this agent for this month is spent: 2,400 tokens of 1,201 tokens",
        ),
        (
            "company",
            {"month_micros": 11_999},
            "the budget of this company for this month is spent: $0.012 of $0.011999",
        ),
        (
            "company",
            {"month_tokens": 2400},
            "the budget of this company for this month is spent: 2,400 tokens of 2,400 tokens",
        ),
    ],
)
async def test_a_spent_budget_refuses_the_next_call_and_nothing_is_sent(
    app: App,
    tenant: MakeTenant,
    model: Model,
    connect: Connect,
    whose: str,
    limits: dict[str, int],
    said: str,
) -> None:
    one = await tenant()
    integration = await connect(one)
    await app.limits.set(one.local, None if whose == "company" else one.agent.agent_id(), limits)
    caller = await run_of(app, one) if whose == "run" else one.agent
    model.usual = message()
    for _ in range(2):
        await call(app, caller, integration)
    error = await refused(app, caller, integration)
    assert (error.reason, error.http_status, error.sentence) == ("budget_spent", 403, said)
    assert ("another one has a budget of its own" if whose == "run" else "begins anew on ") in error.hint
    assert len(model.sent) == 2
    # What costs nothing goes on, and so does whatever is not a model.
    await app.requests.request(caller, str(integration.id), "GET", "/v1/models")
    await call(app, caller, await connect(one, "generic"))
    [event] = await recorded(app, one.company.id, "budget.refused")
    assert (event["decision"], event["actor"], event["integration"]) == ("refused", caller.label, str(integration.id))
    await app.limits.set(one.local, None if whose == "company" else one.agent.agent_id(), dict.fromkeys(limits))
    await call(app, caller, integration)


async def test_a_runs_own_limit_counts_beside_those_of_agent_and_company(
    app: App, tenant: MakeTenant, model: Model, connect: Connect, superuser: Past
) -> None:
    one = await tenant()
    integration = await connect(one)
    caller = await run_of(app, one)
    await app.limits.set(one.local, None, {"run_tokens": 10**6})
    limit = "UPDATE runs SET token_limit = 1 WHERE id = %(id)s"
    await sql(superuser, limit, id=caller.principal.run_id)
    model.usual = message()
    await call(app, caller, integration)
    assert (await refused(app, caller, integration)).reason == "budget_spent"
    # Another run, and the agent by itself, have budgets of their own.
    await call(app, await run_of(app, one), integration)
    await call(app, one.agent, integration)


async def test_calls_under_way_overshoot_by_what_they_cost_and_no_more(
    app: App, tenant: MakeTenant, model: Model, connect: Connect
) -> None:
    one = await tenant()
    integration = await connect(one)
    await app.limits.set(one.local, None, {"month_micros": 1})
    model.usual = message()
    model.go_on = asyncio.Event()
    under_way = [asyncio.create_task(call(app, one.agent, integration)) for _ in range(5)]
    while len(model.sent) < 5:
        await asyncio.sleep(0.01)
    model.go_on.set()
    await asyncio.gather(*under_way)
    assert (await app.spending.month(one.local)).micros == 5 * MICROS
    assert (await refused(app, one.agent, integration)).reason == "budget_spent"
    assert len(model.sent) == 5


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"model": "claude-of-the-future"}, "no price is known for the model claude-of-the-future of Anthropic"),
        ({"model": SONNET, "speed": "fast"}, f"no price is known for the model {SONNET} of Anthropic at the tier fast"),
        ({"messages": []}, "which model of Anthropic this call is for cannot be told"),
        ("no json", "which model of Anthropic this call is for cannot be told"),
    ],
)
async def test_with_a_budget_in_money_a_call_whose_price_is_not_known_is_refused(
    app: App, tenant: MakeTenant, model: Model, connect: Connect, body: Any, said: str
) -> None:
    one = await tenant()
    integration = await connect(one)
    model.usual = message("claude-of-the-future")
    await app.limits.set(one.local, None, {"month_tokens": 10**9})
    await call(app, one.agent, integration, body)
    await app.limits.set(one.local, None, {"month_micros": 10**9})
    error = await refused(app, one.agent, integration, body)
    assert error.reason == "cost_unknown"
    assert error.sentence.startswith(said)
    assert len(model.sent) == 1


async def test_with_any_budget_what_is_answered_later_is_refused(
    app: App, tenant: MakeTenant, model: Model, connect: Connect
) -> None:
    one = await tenant()
    integration = await connect(one, "openai")
    later = [({"model": "gpt-6.2-sol", "background": True}, "/v1/responses"), ({"input_file_id": "f"}, "/v1/batches")]
    for body, path in later:
        await call(app, one.agent, integration, body, path)
    await app.limits.set(one.local, None, {"month_tokens": 10**9})
    for body, path in later:
        assert (await refused(app, one.agent, integration, body, path)).reason == "cost_unknown"
    await call(app, one.agent, integration, {"model": "gpt-6.2-sol"}, "/v1/responses")


async def test_a_streamed_body_is_read_for_its_model_and_an_upload_is_not(
    app: App, tenant: MakeTenant, model: Model, connect: Connect
) -> None:
    one = await tenant()
    integration = await connect(one)
    await app.limits.set(one.local, None, {"month_micros": 10**9})
    model.usual = ("text/event-stream", replies.ANTHROPIC_STREAM)
    asked = json.dumps({"messages": [{"content": "x" * 5000}], "model": SONNET}).encode()
    async with app.relay.open(one.agent, str(integration.id), streamed([asked[:4000], asked[4000:]])) as relayed:
        assert relayed.status == 200
    upload = streamed([b"--b\r\n", b"\r\n--b--"], "/v1/files", "multipart/form-data; boundary=b")
    async with app.relay.open(one.agent, str(integration.id), upload) as relayed:
        assert relayed.status == 200
    unread = streamed([b"--b\r\n", b"\r\n--b--"], "/v1/images/edits", "multipart/form-data; boundary=b")
    with pytest.raises(Refused) as caught:
        async with app.relay.open(one.agent, str(integration.id), unread):
            pass
    assert caught.value.reason == "cost_unknown"
    assert [path for path, _ in model.sent] == ["/v1/messages", "/v1/files"]
    assert model.sent[0][1] == asked


async def test_a_body_that_is_too_long_to_be_read_streams_on_and_is_refused_under_a_budget_in_money(
    app: App, tenant: MakeTenant, model: Model, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await tenant()
    integration = await connect(one)
    short = dataclasses.replace(app.spending, most_body=1000)
    monkeypatch.setitem(app.relay.__dict__, "spending", short)
    model.usual = message()
    asked = json.dumps({"model": SONNET, "messages": [{"content": "x" * 3000}]}).encode()

    async def ask() -> None:
        pieces = [asked[start : start + 400] for start in range(0, len(asked), 400)]
        async with app.relay.open(one.agent, str(integration.id), streamed(pieces)) as relayed:
            assert relayed.status == 200
            await relayed.whole()

    await ask()
    assert model.sent == [("/v1/messages", asked)]
    assert (await app.spending.month(one.local)).micros == MICROS
    await app.limits.set(one.local, None, {"month_tokens": 10**9})
    await ask()
    await app.limits.set(one.local, None, {"month_micros": 10**9})
    with pytest.raises(Refused) as caught:
        await ask()
    assert caught.value.reason == "cost_unknown"
    assert len(model.sent) == 2


async def test_a_price_of_an_operators_own_counts_at_the_next_call(
    app: App, tenant: MakeTenant, model: Model, connect: Connect
) -> None:
    one = await tenant()
    integration = await connect(one)
    await app.limits.set(one.local, None, {"month_micros": 10**9})
    model.usual = message("claude-of-the-future-20261101")
    body = {"model": "claude-of-the-future"}
    assert (await refused(app, one.agent, integration, body)).reason == "cost_unknown"
    file: Path = app.settings.home / "prices.toml"
    file.write_text(
        '[[group]]\nprovider = "anthropic"\n[[group.price]]\nmodel = "claude-of-*"\ninput = 1.5\noutput = 2\n'
    )
    file.chmod(0o600)
    try:
        await call(app, one.agent, integration, body)
        assert (await app.spending.month(one.local)).micros == 1900
    finally:
        file.unlink()
    assert (await refused(app, one.agent, integration, body)).reason == "cost_unknown"


async def test_a_budget_that_is_nearly_spent_and_one_that_is_spent_are_said_once_each(
    app: App, tenant: MakeTenant, model: Model, connect: Connect
) -> None:
    one = await tenant()
    integration = await connect(one)
    agent = one.agent.agent_id()
    await app.limits.set(one.local, agent, {"month_micros": 10 * MICROS})
    model.usual = message()
    await asyncio.gather(*(call(app, one.agent, integration) for _ in range(7)))
    assert await recorded(app, one.company.id, "budget.near") == []
    for _ in range(2):
        await call(app, one.agent, integration)
    [near] = await recorded(app, one.company.id, "budget.near")
    assert (near["agent"], near["unit"], near["limit"], near["spent"]) == (str(agent), "micros", 60_000, 48_000)
    model.go_on = asyncio.Event()
    under_way = [asyncio.create_task(call(app, one.agent, integration)) for _ in range(3)]
    while len(model.sent) < 12:
        await asyncio.sleep(0.01)
    model.go_on.set()
    await asyncio.gather(*under_way)
    with pytest.raises(Refused):
        await call(app, one.agent, integration)
    [spent] = await recorded(app, one.company.id, "budget.spent")
    assert (spent["agent"], spent["unit"], spent["limit"], spent["spent"]) == (str(agent), "micros", 60_000, 60_000)
    assert len(await recorded(app, one.company.id, "budget.near")) == 1
    # A lower one is another budget: it is spent by what there was.
    await app.limits.set(one.local, agent, {"month_micros": 4 * MICROS})
    await app.limits.set(one.local, None, {"month_tokens": 14 * TOKENS})
    assert [event["limit"] for event in await recorded(app, one.company.id, "budget.spent")] == [60_000, 24_000]
    near = (await recorded(app, one.company.id, "budget.near"))[-1]
    assert (near["agent"], near["unit"], near["limit"], near["spent"]) == ("all", "tokens", 16_800, 14_400)


def test_the_events_of_budgets_go_out_with_their_numbers() -> None:
    for kind in (BUDGET_NEAR, BUDGET_SPENT):
        record = {
            "at": "2026-11-30T00:00:00+00:00",
            "action": kind,
            "agent": "all",
            "month": "2026-11",
            "unit": "micros",
        }
        text = json.dumps({**record, "limit": 10, "spent": 9})
        sent = json.loads(outgoing_message(kind, uuid.uuid4(), uuid.uuid4(), 1, text).payload)
        assert sent["type"] == kind
        assert {name: sent["data"][name] for name in KINDS[kind].facts} == {
            "agent": "all",
            "month": "2026-11",
            "unit": "micros",
            "limit": 10,
            "spent": 9,
        }
