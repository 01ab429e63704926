"""
What a provider can do to a refresh, for real: each ends in the right status, and nothing newer is lost.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from company_agents.errors import Unavailable
from company_agents.integrations.request import Requests
from tests.refresh.world import OFTEN, ONCE, WINDOW, World, patient

LOST = "the reply to a refresh was lost"


# — a reply that is lost after the token was rotated —


async def test_within_the_window_a_lost_reply_is_asked_for_once_more(world: World) -> None:
    world.server.state.reuse_window = 60
    it = await world.consent(WINDOW)
    await world.is_due(it)
    world.server.misbehave("lose")
    assert await world.refresh() == [True]
    assert world.refreshes() == 2
    now, row = await world.now(it), await world.row(it)
    assert now.status == "connected"
    assert (row["attempt"], row["written_by"], row["uncertain"], row["lost_at"]) == (2, 2, 0, None)
    assert world.server.is_good(await world.token(it))
    # The next one goes on from what the second try brought.
    await world.is_due(it)
    assert await world.refresh() == [True]


async def test_without_a_window_a_lost_reply_needs_attention_and_is_not_called_revoked(world: World) -> None:
    it = await world.consent(ONCE)
    await world.is_due(it)
    world.server.misbehave("lose")
    assert await world.refresh() == [False]
    assert world.refreshes() == 1
    now, row = await world.now(it), await world.row(it)
    assert now.status == "needs attention"
    assert LOST in now.status_reason and "revoked" not in now.status_reason and "gone" not in now.status_reason
    assert "new consent" in now.status_hint
    assert (row["refresh_problem"], row["uncertain"], row["refresh_due_at"]) == ("uncertain", 1, None)
    (event,) = await world.events(it, "integration.needs_attention")
    assert event["reason"] == now.status_reason
    # It is not asked for again: a second use of the old token would be taken for a theft.
    assert await world.refresh() == []
    assert not world.server.is_dead(await world.token(it))


async def test_a_token_that_still_works_does_not_make_a_consent_whole_again(world: World) -> None:
    it = await world.consent(ONCE)
    await world.is_due(it)
    world.server.misbehave("lose")
    await world.refresh()
    reply = await world.app.requests.request(world.tenant.agent, it.name, "GET", "/api/me")
    assert reply.status == 200
    assert (await world.app.integrations.check(world.tenant.local, it.id)).status == "needs attention"
    assert len(await world.events(it, "integration.needs_attention")) == 1


async def test_after_the_window_a_lost_reply_is_not_asked_for_again(world: World) -> None:
    it = await world.consent(WINDOW)
    await world.is_due(it)
    world.server.misbehave("lose")
    # The try after it begins too late.
    assert await world.refresh(patient(world.app, pause=61)) == [False]
    assert world.refreshes() == 1
    assert LOST in (await world.now(it)).status_reason


async def test_a_second_try_that_is_refused_is_still_called_lost(world: World) -> None:
    # The provider's window is shorter than its documentation says.
    it = await world.consent(WINDOW)
    await world.is_due(it)
    world.server.misbehave("lose")
    assert await world.refresh() == [False]
    assert world.refreshes() == 2
    now = await world.now(it)
    assert now.status == "needs attention"
    assert LOST in now.status_reason and "invalid_grant" in now.status_reason
    assert (await world.row(it))["refresh_problem"] == "uncertain"


async def test_both_tries_lost_need_attention(world: World) -> None:
    world.server.state.reuse_window = 60
    it = await world.consent(WINDOW)
    await world.is_due(it)
    world.server.misbehave("lose", times=2)
    assert await world.refresh() == [False]
    assert world.refreshes() == 2
    assert (await world.now(it)).status == "needs attention"
    assert (await world.row(it))["refresh_due_at"] is None


async def test_a_refresh_token_that_serves_often_is_used_again_until_a_reply_comes(world: World) -> None:
    world.server.state.rotate = False
    it = await world.consent(OFTEN)
    await world.is_due(it)
    world.server.misbehave("lose", times=3)
    assert await world.refresh() == [False]
    assert world.refreshes() == 2
    row = await world.row(it)
    assert (row["refresh_problem"], (await world.now(it)).status) == ("not now", "connected")
    await world.is_due(it)
    assert await world.refresh() == [False]
    await world.is_due(it)
    assert await world.refresh() == [True]
    assert (await world.row(it))["refresh_problem"] == ""


# — a provider that is broken or busy —

BROKEN: dict[str, dict[str, Any]] = {
    "500": {"kind": "status", "status": 500, "body": "oops"},
    "502": {
        "kind": "status",
        "status": 502,
        "body": "<html>bad gateway</html>",
        "headers": {"Content-Type": "text/html"},
    },
    "HTML that says yes": {
        "kind": "status",
        "status": 200,
        "body": "<html>hello</html>",
        "headers": {"Content-Type": "text/html"},
    },
}


@pytest.mark.parametrize("how", BROKEN)
async def test_an_answer_that_says_nothing_leaves_it_uncertain(world: World, how: str) -> None:
    it = await world.consent(ONCE)
    await world.is_due(it)
    world.server.misbehave(**BROKEN[how])
    assert await world.refresh() == [False]
    assert world.refreshes() == 1
    assert LOST in (await world.now(it)).status_reason


@pytest.mark.parametrize("how", BROKEN)
async def test_where_nothing_is_used_up_such_an_answer_is_got_over(world: World, how: str) -> None:
    world.server.state.rotate = False
    it = await world.consent(OFTEN)
    await world.is_due(it)
    world.server.misbehave(**BROKEN[how])
    assert await world.refresh() == [True]
    assert world.refreshes() == 2
    assert (await world.now(it)).status == "connected"


async def test_a_busy_provider_is_asked_again_when_it_says_and_the_status_stays(world: World) -> None:
    it = await world.consent(ONCE)
    await world.is_due(it)
    world.server.misbehave("busy", retry_after="7200")
    assert await world.refresh(patient(world.app, first_wait=1)) == [False]
    row = await world.row(it)
    waits = (row["refresh_due_at"] - row["now"]).total_seconds()
    assert 7000 < waits <= 7200
    assert (row["refresh_problem"], row["uncertain"], row["failures"]) == ("not now", 0, 1)
    now = await world.now(it)
    assert (now.status, now.status_since) == ("connected", it.status_since)
    # Nobody who uses it asks before, also once the token has ended.
    await world.set(it, "expires_at = now()")
    with pytest.raises(Unavailable):
        await world.app.requests.request(world.tenant.agent, it.name, "GET", "/api/me")
    assert world.refreshes() == 1
    (failed,) = await world.events(it, "integration.refresh_failed")
    assert failed["error"] == "oauth_not_now"


async def test_a_busy_provider_needs_attention_once_the_token_has_ended_and_is_got_over(world: World) -> None:
    it = await world.consent(ONCE)
    await world.is_due(it, dead=True)
    world.server.misbehave("busy", times=2)
    assert await world.refresh() == [False]
    now = await world.now(it)
    assert now.status == "needs attention" and "its token has ended" in now.status_reason
    await world.is_due(it)
    assert await world.refresh() == [False]
    await world.is_due(it)
    assert await world.refresh() == [True]
    assert await world.history(it) == [
        ("connected", "connect"),
        ("refreshing", "refresh"),
        ("needs attention", "refresh"),
        ("connected", "refresh"),
    ]
    assert len(await world.events(it, "integration.needs_attention")) == 1


async def test_each_failure_waits_longer_than_the_one_before(world: World) -> None:
    it = await world.consent(ONCE)
    refresher = patient(world.app, first_wait=100, longest_wait=1000)
    waits = []
    world.server.misbehave("busy", times=6)
    for _ in range(6):
        await world.is_due(it)
        await world.refresh(refresher)
        row = await world.row(it)
        waits.append((row["refresh_due_at"] - row["now"]).total_seconds())
    assert waits[:4] == sorted(waits[:4])
    assert 75 < waits[0] <= 120 and 790 < waits[5] <= 1200


async def test_a_provider_that_cannot_be_reached_is_tried_again_later(world: World) -> None:
    it = await world.consent(ONCE)
    await world.is_due(it)
    world.server.stop()
    assert await world.refresh() == [False]
    row = await world.row(it)
    assert (row["refresh_problem"], row["uncertain"], (await world.now(it)).status) == ("not now", 0, "connected")


async def test_a_slow_provider_is_waited_for(world: World) -> None:
    it = await world.consent(ONCE)
    await world.is_due(it)
    world.server.misbehave("hold", seconds=30)
    task = asyncio.create_task(world.refresh())
    await asyncio.to_thread(world.server.wait_until_held)
    assert await world.refresh() == []
    world.server.release()
    assert await task == [True]
    assert world.refreshes() == 1


async def test_a_provider_that_takes_longer_than_half_of_the_lease_is_uncertain(world: World) -> None:
    it = await world.consent(ONCE)
    await world.is_due(it)
    world.server.misbehave("hold", seconds=30)
    assert await world.refresh(patient(world.app, lease=2)) == [False]
    world.server.release()
    assert LOST in (await world.now(it)).status_reason


async def test_a_consent_that_is_gone_says_so_in_the_providers_words(world: World) -> None:
    it = await world.consent(ONCE)
    world.server.kill(await world.token(it))
    await world.is_due(it)
    assert await world.refresh() == [False]
    now, row = await world.now(it), await world.row(it)
    assert now.status == "needs attention" and "invalid_grant" in now.status_reason
    assert (row["refresh_problem"], row["refresh_due_at"], row["state"]) == ("gone", None, "current")
    assert await world.token(it)


async def test_a_client_that_is_refused_needs_attention_and_goes_on_once_it_is_mended(world: World) -> None:
    it = await world.consent(ONCE)
    world.server.state.clients["client-1"].secret = "another-secret-by-now"
    await world.is_due(it)
    assert await world.refresh() == [False]
    now, row = await world.now(it), await world.row(it)
    assert now.status == "needs attention" and "invalid_client" in now.status_reason
    assert row["refresh_problem"] == "rejected" and row["refresh_due_at"] is not None
    await world.client(ONCE)
    await world.is_due(it)
    assert await world.refresh() == [True]
    assert (await world.now(it)).status == "connected"


# — clocks —


async def test_a_provider_whose_clock_is_five_minutes_off_is_taken_by_the_length_of_its_lives(world: World) -> None:
    it = await world.consent(ONCE)
    for offset in (300.0, -300.0):
        world.server.clock_offset = offset
        await world.is_due(it)
        assert await world.refresh() == [True]
        row = await world.row(it)
        assert abs((row["expires_at"] - row["now"]).total_seconds() - 3600) < 60


async def test_a_token_that_ends_five_minutes_before_it_should_is_renewed_on_use(world: World) -> None:
    it = await world.consent(ONCE)
    token = world.server.state.by_access[await world.token(it)]
    token.expires_in = 0
    requests = Requests(dataclasses.replace(world.app.relay, refresher=patient(world.app)))
    assert (await requests.request(world.tenant.agent, it.name, "GET", "/api/me")).status == 200
    assert world.refreshes() == 1
    assert (await world.now(it)).status == "connected"
