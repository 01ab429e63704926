"""
A token is renewed when it is needed: before it ends, and after it was refused.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from company_agents.errors import NotFound, Refused, Unavailable
from company_agents.integrations.request import Reply, Requests
from company_agents.sensitive import Sensitive
from tests.promises.evidence import recorded
from tests.refresh.world import OFTEN, ONCE, World, patient


async def use(world: World, it: Any, method: str = "GET", path: str = "/api/me", body: Any = None, **how: Any) -> Reply:
    requests = Requests(replace(world.app.relay, refresher=patient(world.app, **how)))
    return await requests.request(world.tenant.agent, it.name, method, path, body=body)


async def test_a_token_that_ends_in_a_moment_is_renewed_before_it_is_used(world: World) -> None:
    it = await world.consent()
    before = await world.token(it)
    await world.set(it, "expires_at = now() + interval '20 seconds', refresh_due_at = now()")
    assert (await use(world, it)).status == 200
    used = world.server.calls_to("/api/me")[-1].headers["authorization"]
    assert used == f"Bearer {await world.token(it)}" != f"Bearer {before}"
    assert world.refreshes() == 1
    (begun,) = await world.events(it, "credential.refresh_begun")
    assert begun["actor"] == world.tenant.agent.label
    assert (await use(world, it)).status == 200
    assert world.refreshes() == 1


async def test_a_token_that_lives_for_less_than_a_minute_is_not_renewed_at_each_use(world: World) -> None:
    world.server.state.lifetime = 25
    it = await world.consent()
    await world.is_due(it, dead=True)
    for _ in range(3):
        assert (await use(world, it)).status == 200
    assert world.refreshes() == 1


async def test_a_token_that_is_refused_is_renewed_and_the_call_made_once_more(world: World) -> None:
    it = await world.consent()
    world.server.state.by_access[await world.token(it)].revoked = True
    assert (await use(world, it, "POST", body={"text": "hello"})).status == 200
    calls = world.server.calls_to("/api/me")[1:]
    assert [(call.method, call.status, call.fields) for call in calls] == [
        ("POST", 401, {"text": "hello"}),
        ("POST", 200, {"text": "hello"}),
    ]
    assert world.refreshes() == 1
    assert await world.history(it) == [("connected", "connect")]


async def test_a_token_that_is_refused_again_is_not_renewed_again(world: World) -> None:
    it = await world.consent()
    world.server.publish("/api/no", {"error": "not for you"}, 401)
    assert (await use(world, it, path="/api/no", age=60)).status == 401
    assert world.refreshes() == 0
    assert (await use(world, it, path="/api/no")).status == 401
    assert (world.refreshes(), len(world.server.calls_to("/api/no"))) == (1, 3)
    # What is quite new is refused for another reason.
    assert (await use(world, it, path="/api/no", age=60)).status == 401
    assert world.refreshes() == 1
    now = await world.now(it)
    assert (now.status, now.status_reason) == (
        "needs attention",
        "Acme-Once did not accept the credential: not for you (HTTP 401)",
    )


async def test_of_many_calls_that_are_refused_at_once_one_renews(world: World) -> None:
    it = await world.consent()
    world.server.state.by_access[await world.token(it)].revoked = True
    requests = Requests(replace(world.app.relay, refresher=patient(world.app)))
    replies = await asyncio.gather(*(requests.request(world.tenant.agent, it.name, "GET", "/api/me") for _ in range(8)))
    assert [reply.status for reply in replies] == [200] * 8
    assert world.refreshes() == 1


async def test_a_token_that_somebody_has_renewed_already_is_not_renewed_for_an_older_refusal(world: World) -> None:
    it = await world.consent()
    refresher = patient(world.app)
    for _ in range(2):
        state = await refresher.replaced(world.scope, it.id, 1, 0)
        assert state is not None and state.written_by == 1
    assert world.refreshes() == 1


async def test_a_token_that_was_pasted_is_never_renewed(world: World) -> None:
    await world.client(ONCE)
    granted = world.server.grant("client-1")
    it = await world.app.integrations.connect(
        world.tenant.local,
        ONCE,
        Sensitive(granted.access),
        base_url=world.server.url,
        allow_private_network=True,
        allow_all=True,
    )
    granted.revoked = True
    assert (await use(world, it)).status == 401
    assert world.refreshes() == 0
    assert (await world.now(it)).status == "needs attention"
    assert await world.events(it, "credential.refresh_begun") == []


async def test_a_token_that_has_ended_and_cannot_be_renewed_is_not_sent(world: World) -> None:
    it = await world.consent()
    world.server.kill(await world.token(it))
    await world.is_due(it, dead=True)
    for _ in range(3):
        with pytest.raises(Refused, match="cannot be renewed"):
            await use(world, it)
    assert world.refreshes() == 1
    assert len(world.server.calls_to("/api/me")) == 1
    (refused, *_) = await recorded(world.app, world.tenant.company.id, "integration.refused", integration=it.id)
    assert refused["reason"] == "needs attention"


async def test_while_a_provider_is_busy_a_token_is_used_until_it_ends(world: World) -> None:
    it = await world.consent()
    await world.set(it, "expires_at = now() + interval '20 seconds', refresh_due_at = now()")
    world.server.misbehave("busy", times=9)
    assert (await use(world, it)).status == 200
    assert (await use(world, it)).status == 200
    assert world.refreshes() == 1
    await world.set(it, "expires_at = now(), refresh_due_at = now()")
    with pytest.raises(Unavailable, match="no new one yet"):
        await use(world, it)
    assert (await world.now(it)).status == "needs attention"
    world.server.behave()
    await world.set(it, "refresh_due_at = now()")
    assert (await use(world, it)).status == 200
    assert (await world.now(it)).status == "connected"


async def test_whoever_waited_for_a_new_token_and_is_no_longer_allowed_gets_nothing(world: World) -> None:
    it = await world.consent()
    await world.is_due(it, dead=True)
    world.server.misbehave("hold", seconds=30)
    call = asyncio.create_task(use(world, it))
    await asyncio.to_thread(world.server.wait_until_held)
    await world.app.integrations.allow_all(world.tenant.local, it.id, False)
    world.server.release()
    with pytest.raises(NotFound):
        await call
    assert len(world.server.calls_to("/api/me")) == 1


async def test_a_caller_who_goes_away_does_not_end_the_refresh(world: World) -> None:
    it = await world.consent()
    await world.is_due(it, dead=True)
    world.server.misbehave("hold", seconds=30)
    refresher = patient(world.app)
    requests = Requests(replace(world.app.relay, refresher=refresher))
    call = asyncio.create_task(requests.request(world.tenant.agent, it.name, "GET", "/api/me"))
    await asyncio.to_thread(world.server.wait_until_held)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    world.server.release()
    await refresher.close()
    assert (await world.row(it))["written_by"] == 1
    assert world.server.is_good(await world.token(it))


async def test_a_call_waits_for_a_refresh_that_another_has_under_way_and_not_for_ever(world: World) -> None:
    it = await world.consent(OFTEN)
    # Another replica began, and is gone.
    await world.set(it, "attempt = 1, attempt_began_at = now(), attempt_ends_at = now() + interval '60 seconds'")
    await world.set(it, "expires_at = now() + interval '20 seconds', refresh_due_at = now()")
    assert (await use(world, it, patience=0.3)).status == 200
    await world.set(it, "expires_at = now()")
    with pytest.raises(Unavailable):
        await use(world, it, patience=0.3)
    assert world.refreshes() == 0


async def test_a_check_renews_a_token_that_is_refused(world: World) -> None:
    it = await world.consent()
    world.server.state.by_access[await world.token(it)].revoked = True
    checks = replace(world.app.integrations.checks, refresher=patient(world.app))
    await checks.check(world.scope, it.id)
    assert world.refreshes() == 1
    assert (await world.now(it)).status == "connected"
