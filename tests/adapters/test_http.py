"""
Runs that are handed over to a remote agent: signed, without any token, to an address that may be connected to.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from company_agents.app import App
from company_agents.identity.tokens import AGENT_PREFIX, RUN_PREFIX
from company_agents.outgoing.receiver import Sent
from company_agents.runs.adapters.http import PATIENCE, SCHEDULE, Handover, HttpAdapter, secret_name, wait_after
from tests.adapters.remote import Remote, remote_agent
from tests.conftest import Tenant

MakeTenant = Callable[[], Awaitable[Tenant]]


@pytest.fixture
async def remote() -> AsyncIterator[Remote]:
    async with remote_agent() as started:
        yield started


@pytest.fixture
def adapter(app: App) -> HttpAdapter:
    found = app.adapters.kinds["http"]
    assert isinstance(found, HttpAdapter)
    return replace(found, url="https://company-agents.example.com")


async def handed_to(app: App, tenant: Tenant, remote: Remote, path: str = "/runs", *, private: bool = True) -> Handover:
    """Its agent is this remote one from now on; a run that it could be told of."""
    agent_id = tenant.agent.agent_id()
    config = {"url": remote.url + path, "allow_private_network": private}
    _, secret = await app.adapters.set(tenant.local, agent_id, "http", config)
    assert secret is not None
    remote.secret = secret.reveal_text()
    ids = (uuid.uuid4(), tenant.company.id, agent_id)
    return Handover(*ids, "ann", 3, "Say hello to Zoë.", None, datetime.now(UTC))


async def test_what_is_handed_over_is_signed_and_says_all_that_is_needed_to_claim_it(
    app: App, tenant: MakeTenant, remote: Remote, adapter: HttpAdapter
) -> None:
    here = await tenant()
    handover = await handed_to(app, here, remote, "/runs?key=of-the-receiver")
    assert await adapter.deliver(here.local.scope, handover) == Sent(202)
    assert await adapter.deliver(here.local.scope, handover) == Sent(202)
    first, again = remote.verified
    assert first["type"] == "run.queued"
    run = f"https://company-agents.example.com/v1/companies/{here.company.id}/runs/{handover.run_id}"
    assert (
        first["data"]
        == again["data"]
        == {
            "run": str(handover.run_id),
            "company": str(here.company.id),
            "agent": str(here.agent.agent_id()),
            "agent_name": "ann",
            "task": None,
            "prompt": "Say hello to Zoë.",
            "claim_url": f"{run}/claim",
            "run_url": run,
            "api_url": "https://company-agents.example.com/v1",
            "mcp_url": "https://company-agents.example.com/mcp",
            "gateway_url": "https://company-agents.example.com/gateway",
            "expires_at": (handover.queued_at + PATIENCE).isoformat(),
        }
    )
    # One start is one message, however often it is told of; the next start is another.
    ids = [headers["webhook-id"] for headers in remote.headers]
    assert ids[0] == ids[1] != replace(handover, fence=4).message_id
    # Neither the agent's token, nor a run's, nor any other: what is in there opens nothing.
    told = b"".join(remote.bodies) + json.dumps(remote.headers).encode()
    assert AGENT_PREFIX.encode() not in told and RUN_PREFIX.encode() not in told
    assert here.token.encode() not in told and remote.secret.encode() not in told


async def test_a_new_secret_signs_beside_the_old_one_for_a_while(
    app: App, tenant: MakeTenant, remote: Remote, adapter: HttpAdapter
) -> None:
    here = await tenant()
    handover = await handed_to(app, here, remote)
    first = remote.secret
    _, second, until = await app.adapters.rotate_secret(here.local, here.agent.agent_id())
    assert timedelta(hours=23) < until - datetime.now(UTC) <= timedelta(hours=24)
    for secret in (first, second.reveal_text()):
        remote.secret = secret
        assert (await adapter.deliver(here.local.scope, handover)).delivered
    # Rotated once more, the first is worth nothing; and set anew, none of the two is.
    _, third, _ = await app.adapters.rotate_secret(here.local, here.agent.agent_id())
    remote.secret = first
    assert (await adapter.deliver(here.local.scope, handover)).answer == 401
    await handed_to(app, here, remote)
    remote.secret = third.reveal_text()
    assert (await adapter.deliver(here.local.scope, handover)).answer == 401
    assert remote.forged == 2


@pytest.mark.parametrize(
    ("status", "said"), [(302, "none is followed"), (500, "answered 500"), (401, "answered 401"), (404, "answered 404")]
)
async def test_whatever_is_no_yes_says_that_it_was_not_taken(
    app: App, tenant: MakeTenant, remote: Remote, adapter: HttpAdapter, status: int, said: str
) -> None:
    here = await tenant()
    handover = await handed_to(app, here, remote)
    remote.answers = [status]
    sent = await adapter.deliver(here.local.scope, handover)
    assert (sent.delivered, sent.answer) == (False, status)
    assert said in sent.error
    assert len(remote.bodies) == 1


async def test_a_private_address_is_not_connected_to_unless_that_was_said(
    app: App, tenant: MakeTenant, remote: Remote, adapter: HttpAdapter
) -> None:
    here = await tenant()
    handover = await handed_to(app, here, remote)
    # As if the name had led elsewhere when it was set: it is sealed with the flag that counts.
    public = {"url": remote.url.replace("http://127.0.0.1", "https://localhost"), "allow_private_network": False}
    await app.adapters.set(here.local, here.agent.agent_id(), "http", public)
    sent = await adapter.deliver(here.local.scope, handover)
    assert not sent.delivered and sent.answer is None
    assert "may not connect to" in sent.error
    assert remote.bodies == []


async def test_nothing_is_sent_for_an_agent_that_is_executed_otherwise_by_now(
    app: App, tenant: MakeTenant, remote: Remote, adapter: HttpAdapter
) -> None:
    here = await tenant()
    handover = await handed_to(app, here, remote)
    await app.adapters.remove(here.local, here.agent.agent_id())
    assert await adapter.deliver(here.local.scope, handover) == Sent(None, "the agent has no address any more")
    assert remote.bodies == []
    names = [secret.name for secret in await app.store.list(here.local.scope)]
    assert secret_name(here.agent.agent_id()) not in names


def test_it_waits_longer_each_time_and_not_for_ever() -> None:
    waits = [wait_after(count, Sent(500, "no")) for count in range(1, 9)]
    assert all(planned * 0.8 <= wait <= planned * 1.2 for planned, wait in zip(SCHEDULE, waits, strict=False))
    assert all(SCHEDULE[-1] * 0.8 <= wait <= SCHEDULE[-1] * 1.2 for wait in waits[len(SCHEDULE) :])
    # Whoever says when to come again is obeyed, within reason.
    assert wait_after(1, Sent(503, "no", 120)) == 120
    assert wait_after(1, Sent(503, "no", 10**6)) == SCHEDULE[-1]
