"""
Two orchestrators at one consent: one call to the provider wins, and what is newer stays.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from company_agents.app import App, open_app
from company_agents.integrations.refresher import Upkeep
from company_agents.integrations.request import Requests
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings
from tests.conftest import Tenant
from tests.refresh.world import CLIENT, ONCE, WINDOW, World, patient


@pytest.fixture(scope="session")
async def second(settings: Settings, app: App) -> AsyncIterator[App]:
    """Another orchestrator on the same database, with connections and keys of its own."""
    async with open_app(settings) as opened:
        yield opened


async def test_two_that_claim_at_once_share_what_is_due(world: World, second: App) -> None:
    its = [await world.consent() for _ in range(12)]
    for it in its:
        await world.is_due(it)
    one, two = patient(world.app), patient(second)
    shares = await asyncio.gather(*(who.attempts.claim(world.scope, 100) for who in (one, two)))
    claimed = [attempt.integration_id for share in shares for attempt in share]
    assert sorted(claimed) == sorted(it.id for it in its)
    done = [who.start(world.scope, attempt) for who, share in zip((one, two), shares, strict=True) for attempt in share]
    assert await asyncio.gather(*done) == [True] * 12
    assert world.refreshes() == 12
    assert [world.server.is_good(await world.token(it)) for it in its] == [True] * 12


async def test_of_many_uses_on_two_replicas_one_renews_and_the_others_wait_for_it(world: World, second: App) -> None:
    it = await world.consent()
    await world.is_due(it, dead=True)
    world.server.misbehave("hold", seconds=30)
    calls = [
        asyncio.create_task(
            Requests(replace(app.relay, refresher=patient(app, age=60))).request(
                world.tenant.agent, it.name, "GET", "/api/me"
            )
        )
        for app in (world.app, second)
        for _ in range(3)
    ]
    await asyncio.to_thread(world.server.wait_until_held)
    assert world.server.calls_to("/api/me")[1:] == []
    assert (await world.now(it)).status == "refreshing"
    world.server.release()
    assert [reply.status for reply in await asyncio.gather(*calls)] == [200] * 6
    assert world.refreshes() == 1
    assert (await world.row(it))["attempt"] == 1
    assert (await world.now(it)).status == "connected"


async def test_a_first_that_slept_beyond_its_lease_does_not_overwrite_the_later_result(
    world: World, second: App
) -> None:
    world.server.state.reuse_window = 60
    it = await world.consent(WINDOW)
    await world.is_due(it)
    # The provider has carried the first out, and does not answer; then the lease of the first is over.
    world.server.misbehave("hold", seconds=30)
    first = asyncio.create_task(world.refresh(patient(world.app)))
    await asyncio.to_thread(world.server.wait_until_held)
    await world.set(it, "attempt_ends_at = now()")
    assert await world.refresh(patient(second)) == [True]
    later = await world.credential(it)
    world.server.release()
    assert await first == [False]
    row, now = await world.row(it), await world.credential(it)
    assert now.token == later.token and now.consent and later.consent
    assert now.consent.refresh == later.consent.refresh
    assert (row["attempt"], row["written_by"], row["attempt_ends_at"]) == (2, 2, None)
    assert world.server.is_good(now.token.reveal_text())
    assert (await world.now(it)).status == "connected"
    (late,) = await world.events(it, "integration.refresh_failed")
    assert (late["attempt"], late["error"]) == (1, "superseded")


async def test_the_late_reply_of_a_first_still_counts_where_the_second_got_nothing(world: World, second: App) -> None:
    world.server.state.reuse_window = 60
    it = await world.consent(WINDOW)
    await world.is_due(it)
    world.server.misbehave("hold", seconds=30)
    first = asyncio.create_task(world.refresh(patient(world.app)))
    await asyncio.to_thread(world.server.wait_until_held)
    await world.set(it, "attempt_ends_at = now()")
    world.server.misbehave("lose")
    assert await world.refresh(patient(second)) == [False]
    assert (await world.now(it)).status == "needs attention"
    world.server.release()
    assert await first == [True]
    row = await world.row(it)
    assert (row["written_by"], row["uncertain"], row["refresh_problem"]) == (1, 0, "")
    assert row["refresh_due_at"] is not None
    assert world.server.is_good(await world.token(it))
    assert (await world.now(it)).status == "connected"


async def test_the_failure_of_a_first_that_slept_says_nothing_of_the_later_result(world: World, second: App) -> None:
    it = await world.consent(ONCE)
    await world.is_due(it)
    world.server.misbehave("slow", seconds=30)
    first = asyncio.create_task(world.refresh(patient(world.app)))
    while not world.refreshes():
        await asyncio.sleep(0.01)
    # The second takes it for one that was never sent.
    await world.set(it, "attempt_ends_at = NULL")
    assert await world.refresh(patient(second)) == [True]
    newer = await world.token(it)
    # Now the first is carried out, with a refresh token that was used: that ends the consent there, and it is told.
    world.server.release()
    assert await first == [False]
    row = await world.row(it)
    assert (row["written_by"], row["refresh_problem"]) == (2, "")
    assert await world.token(it) == newer
    assert (await world.now(it)).status == "connected"
    assert await world.events(it, "integration.needs_attention") == []


async def test_one_that_finds_half_of_its_lease_gone_sends_nothing(world: World) -> None:
    it = await world.consent()
    await world.is_due(it)
    refresher = patient(world.app)
    (attempt,) = await refresher.attempts.claim(world.scope, 1)
    slept = dataclasses.replace(attempt, began=attempt.began - 31)
    assert await refresher.start(world.scope, slept) is False
    assert world.refreshes() == 0
    row = await world.row(it)
    assert (row["attempt_ends_at"], row["uncertain"]) == (None, 0)


async def test_a_permanent_failure_of_an_old_version_leaves_a_newer_consent_alone(world: World) -> None:
    it = await world.consent()
    await world.is_due(it)
    world.server.misbehave("slow", seconds=30)
    refreshing = asyncio.create_task(world.refresh())
    while not world.refreshes():
        await asyncio.sleep(0.01)
    # Meanwhile a person revokes the old consent, and gives a new one.
    old, present = await world.token(it), await world.credential(it)
    granted = world.server.grant(CLIENT)
    assert present.consent is not None
    consent = replace(present.consent, refresh=Sensitive(granted.refresh or ""))
    newer = replace(present, token=Sensitive(granted.access), consent=consent)
    await world.app.integrations.supersede(world.tenant.local, it.id, newer)
    world.server.kill(old)
    world.server.release()
    assert await refreshing == [False]
    now = await world.now(it)
    assert (now.version, now.status, now.status_reason) == (2, "connected", "")
    assert await world.token(it, 2) == granted.access
    assert (await world.row(it, 2))["refresh_due_at"] is not None
    assert await world.events(it, "integration.needs_attention") == []


async def test_a_reply_for_a_version_that_was_replaced_meanwhile_brings_nothing_back(world: World) -> None:
    it = await world.consent()
    await world.is_due(it)
    world.server.misbehave("hold", seconds=30)
    refreshing = asyncio.create_task(world.refresh())
    await asyncio.to_thread(world.server.wait_until_held)
    await world.app.integrations.rotate(world.tenant.local, it.id, Sensitive(world.server.grant(CLIENT).access))
    world.server.release()
    # Its own version takes it, to be revoked with it.
    assert await refreshing == [True]
    assert (await world.row(it))["state"] == "draining"
    await world.app.sweeper.sweep_company(world.scope)
    now = await world.now(it)
    assert (now.version, now.kind, now.status) == (2, "token", "connected")
    assert (await world.row(it))["state"] == "retired"


async def test_a_thousand_that_are_due_in_the_same_minute_are_refreshed_once_each(
    world: World, second: App, tenant: Callable[[], Awaitable[Tenant]]
) -> None:
    other = World(world.app, await tenant(), world.server, world.superuser)
    await many(world, 700)
    await many(other, 300)
    loops = [upkeep_of(app) for app in (world.app, second)]
    for loop in loops:
        loop.start()
    try:
        async with asyncio.timeout(120):
            while world.refreshes() < 1000 or await due(world) or await due(other):
                await asyncio.sleep(0.1)
    finally:
        for loop in loops:
            await loop.close()
    for one, number in ((world, 700), (other, 300)):
        cursor = await world.superuser.execute(
            "SELECT count(*) AS n, sum(attempt) AS attempts, sum(written_by) AS written FROM credential_versions"
            " WHERE company_id = %s",
            (one.tenant.company.id,),
        )
        assert await cursor.fetchone() == {"n": number, "attempts": number, "written": number}
    assert world.refreshes() == 1000
    assert not world.server.state.dead_families


def upkeep_of(app: App) -> Upkeep:
    """The loop of an orchestrator, looking more often."""
    return Upkeep(app.store, app.providers, patient(app), app.integrations.checks, 16, 0, tick=0.05)


async def many(world: World, number: int) -> None:
    """So many consents that are due at once."""
    its = [await world.consent()]
    while len(its) < number:
        its += await asyncio.gather(*(world.consent() for _ in range(min(20, number - len(its)))))
    await world.superuser.execute(
        "UPDATE credential_versions SET refresh_due_at = now() WHERE integration_id = ANY(%s)", ([it.id for it in its],)
    )


async def due(world: World) -> bool:
    cursor = await world.superuser.execute(
        "SELECT FROM credential_versions WHERE company_id = %s AND (refresh_due_at <= now() OR attempt_ends_at IS NOT NULL)",
        (world.tenant.company.id,),
    )
    return cursor.rowcount > 0
