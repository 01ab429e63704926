"""
An approved call ends as any other does once its agent may no longer make it, and what it cost by then is entered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web

from company_agents.app import App, open_app
from company_agents.errors import ApprovalNeeded
from company_agents.identity.principal import Caller
from company_agents.integrations import sending
from company_agents.integrations.integrations import Integration
from company_agents.integrations.rules import Rules
from company_agents.rotation import replica as beats
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings
from tests.conftest import Tenant

PATIENCE = 20.0
SONNET = "claude-sonnet-4-6"
KEY = "sk-ant-a-key-that-the-provider-knows-0001"


@dataclass
class Talking:
    """A model that begins to answer, and goes on until its caller hangs up, or until it breaks off itself."""

    url: str = ""
    breaks_off: bool = False
    asked: int = 0
    began: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @staticmethod
    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": []})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        usage = {"input_tokens": 1000, "output_tokens": 1}
        begin = {"type": "message_start", "message": {"model": SONNET, "usage": usage}}
        await reply.write(f"data: {json.dumps(begin)}\n\n".encode())
        self.began.set()
        with contextlib.suppress(ConnectionError):
            while request.transport is not None and not request.transport.is_closing():
                await reply.write(b'data: {"type": "content_block_delta", "delta": {"text": "word word"}}\n\n')
                if self.breaks_off:
                    request.transport.close()
                await asyncio.sleep(0.01)
        self.ended.set()
        return reply


@pytest.fixture
async def talking() -> AsyncIterator[Talking]:
    found = Talking()
    service = web.Application()
    service.router.add_get("/v1/models", found.models)
    service.router.add_post("/v1/messages", found.answer)
    runner = web.AppRunner(service)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


@pytest.fixture
async def replica(app: App, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    monkeypatch.setattr(beats, "BEAT", 0.1)
    async with open_app(settings, long_lived=True) as opened:
        yield opened


async def asked(app: App, one: Tenant, talking: Talking, caller: Caller | None = None) -> tuple[UUID, Integration]:
    integration = await app.integrations.connect(
        *(one.local, "anthropic", Sensitive(KEY)),
        base_url=talking.url,
        allow_private_network=True,
        allow=[one.agent.agent_id()],
        rules=Rules.read(ask=["POST /v1/messages"]),
    )
    body = {"model": SONNET, "stream": True}
    with pytest.raises(ApprovalNeeded) as needed:
        await app.requests.request(caller or one.agent, str(integration.id), "POST", "/v1/messages", body=body)
    return UUID(needed.value.facts["approval"]), integration


async def settled(app: App, approval_id: UUID) -> None:
    async with asyncio.timeout(PATIENCE):
        await app.sending.settled(approval_id)


async def spent(app: App, one: Tenant) -> tuple[int, int]:
    month = await app.spending.month(one.local)
    return month.calls, month.tokens


MakeTenant = Callable[[], Awaitable[Tenant]]


async def test_an_approved_call_whose_reply_breaks_off_is_entered_with_what_came(
    app: App, tenant: MakeTenant, talking: Talking
) -> None:
    one = await tenant()
    talking.breaks_off = True
    approval_id, _ = await asked(app, one, talking)
    await app.approvals.approve(one.local, approval_id)
    await settled(app, approval_id)
    assert (await app.approvals.get(one.local, approval_id)).state == "done"
    calls, tokens = await spent(app, one)
    assert calls == 1 and tokens > 1000


async def pause(app: App, one: Tenant, integration: Integration) -> None:
    await app.agents.pause(one.local, one.agent.agent_id())


async def disallow(app: App, one: Tenant, integration: Integration) -> None:
    await app.integrations.disallow(one.local, integration.id, one.agent.agent_id())


@pytest.mark.parametrize("change", [pause, disallow])
async def test_an_approved_call_ends_before_the_answer_that_its_agent_may_no_longer_make_it(
    replica: App, tenant: MakeTenant, talking: Talking, change: Callable[..., Awaitable[None]]
) -> None:
    one = await tenant()
    approval_id, integration = await asked(replica, one, talking)
    await replica.approvals.approve(one.local, approval_id)
    async with asyncio.timeout(PATIENCE):
        await talking.began.wait()
        await change(replica, one, integration)
        await talking.ended.wait()
    await settled(replica, approval_id)
    approval = await replica.approvals.get(one.local, approval_id)
    assert (approval.state, approval.reply_status) == ("done", 200)
    calls, tokens = await spent(replica, one)
    assert calls == 1 and tokens > 1000
    assert talking.asked == 1


async def test_an_approved_call_goes_on_when_its_run_ends(replica: App, tenant: MakeTenant, talking: Talking) -> None:
    one = await tenant()
    run, token = await replica.runs.open(one.agent)
    approval_id, _ = await asked(replica, one, talking, await replica.identity.run(token.reveal_text()))
    await replica.approvals.approve(one.local, approval_id)
    async with asyncio.timeout(PATIENCE):
        await talking.began.wait()
    await replica.runs.finish(one.agent, run.id, run.fencing_token)
    await replica.relay.open_streams.check()
    assert not talking.ended.is_set()
    assert (await replica.approvals.get(one.local, approval_id)).state == "sending"
    talking.breaks_off = True
    await settled(replica, approval_id)


async def test_what_may_no_longer_be_made_when_it_is_about_to_be_sent_is_not_sent(
    app: App, tenant: MakeTenant, talking: Talking, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await tenant()
    approval_id, _ = await asked(app, one, talking)
    begin = sending._Call._begin

    async def begun(call: Any) -> bool:
        found = await begin(call)
        await app.agents.pause(one.local, one.agent.agent_id())
        return found

    monkeypatch.setattr(sending._Call, "_begin", begun)
    await app.approvals.approve(one.local, approval_id)
    await settled(app, approval_id)
    approval = await app.approvals.get(one.local, approval_id)
    assert (approval.state, talking.asked) == ("failed", 0)
    assert "no longer allowed" in approval.reason
