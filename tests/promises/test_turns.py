"""
One company's calls that take long keep no other company's from going out.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from company_agents.app import App
from company_agents.errors import NotFound, TooMany
from company_agents.integrations.request import Reply, Requests
from company_agents.integrations.turns import Turns
from company_agents.sensitive import Sensitive
from tests.conftest import Tenant
from tests.mcp.slack import TOKEN, Slack, slack_stand_in
from tests.promises.evidence import recorded

MakeTenant = Callable[[], Awaitable[Tenant]]


def _post(requests: Requests, tenant: Tenant, text: str) -> Coroutine[Any, Any, Reply]:
    return requests.request(tenant.agent, "slack", "POST", "/api/chat.postMessage", body={"text": text})


async def _connect(app: App, tenant: Tenant, slack: Slack) -> None:
    await app.integrations.connect(
        tenant.local, "slack", Sensitive(TOKEN), base_url=slack.url, allow_private_network=True, allow_all=True
    )


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def test_a_company_with_all_its_turns_taken_waits_and_another_does_not(app: App, tenant: MakeTenant) -> None:
    requests = Requests(dataclasses.replace(app.relay, turns=Turns(2, 30)))
    busy, other = await tenant(), await tenant()
    async with slack_stand_in() as slow, slack_stand_in() as quick:
        await _connect(app, busy, slow)
        await _connect(app, other, quick)
        slow.held = asyncio.Event()
        calls = [asyncio.create_task(_post(requests, busy, str(number))) for number in range(5)]
        await _until(lambda: len(slow.used) == 2)
        assert (await _post(requests, other, "at once")).status == 200
        # What waits for its turn is not on record yet, as it opens nothing.
        assert len(slow.used) == len(await recorded(app, busy.company.id, "credential.begun", purpose=None)) == 2
        calls[4].cancel()
        slow.held.set()
        replies = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(reply) for reply in replies] == [Reply] * 4 + [asyncio.CancelledError]
        assert len(slow.used) == 4
    assert not requests.relay.turns._ways


async def test_who_gets_no_turn_in_time_is_told_to_slow_down_and_nothing_is_sent(app: App, tenant: MakeTenant) -> None:
    requests = Requests(dataclasses.replace(app.relay, turns=Turns(1, 0.05)))
    one = await tenant()
    async with slack_stand_in() as slack:
        await _connect(app, one, slack)
        slack.held = asyncio.Event()
        first = asyncio.create_task(_post(requests, one, "first"))
        await _until(lambda: len(slack.used) == 1)
        with pytest.raises(TooMany) as caught:
            await _post(requests, one, "second")
        assert (caught.value.http_status, caught.value.retry_after) == (429, 5)
        slack.held.set()
        assert (await first).status == 200
        assert (await _post(requests, one, "third")).status == 200
        assert [entry["body"] for entry in slack.seen] == ['{"text":"first"}', '{"text":"third"}']


async def test_an_agent_that_is_paused_while_it_waits_gets_no_turn(app: App, tenant: MakeTenant) -> None:
    requests = Requests(dataclasses.replace(app.relay, turns=Turns(1, 30)))
    one = await tenant()
    async with slack_stand_in() as slack:
        await _connect(app, one, slack)
        slack.held = asyncio.Event()
        first = asyncio.create_task(_post(requests, one, "first"))
        await _until(lambda: len(slack.used) == 1)
        second = asyncio.create_task(_post(requests, one, "second"))
        await asyncio.sleep(0)
        await app.agents.pause(one.local, one.agent.agent_id())
        slack.held.set()
        await first
        with pytest.raises(NotFound):
            await second
        assert len(slack.used) == 1
