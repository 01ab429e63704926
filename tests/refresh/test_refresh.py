"""
A refresh brings a new token into the same version, and is on record before and after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

from company_agents.sensitive import Sensitive
from tests.conftest import Tenant
from tests.promises.evidence import no_right_to_insert
from tests.refresh.world import CLIENT, ONCE, SECRET, World


async def test_a_refresh_renews_a_version_in_place(world: World) -> None:
    it = await world.consent()
    before = await world.credential(it)
    await world.is_due(it)
    assert await world.refresh() == [True]
    after, row = await world.credential(it), await world.row(it)
    assert before.consent and after.consent
    assert after.token != before.token and after.consent.refresh != before.consent.refresh
    assert after.destination == before.destination
    assert world.server.is_good(after.token.reveal_text())
    assert (row["version"], row["state"], row["written_by"], row["attempt_ends_at"]) == (1, "current", 1, None)
    assert timedelta(minutes=59) < row["expires_at"] - row["now"] <= timedelta(hours=1)
    assert row["now"] < row["refresh_due_at"] < row["expires_at"] - timedelta(minutes=5)
    assert abs(after.consent.expires_at - row["expires_at"]) < timedelta(seconds=1)
    assert (await world.now(it)).status == "connected"
    assert await world.history(it) == [("connected", "connect")]


async def test_what_is_not_due_is_left_alone(world: World) -> None:
    await world.consent()
    assert await world.refresh() == []
    assert world.refreshes() == 0


async def test_the_intent_is_on_record_before_the_consent_is_opened_and_the_result_after(world: World) -> None:
    it = await world.consent()
    await world.is_due(it)
    await world.refresh()
    (begun,) = await world.events(it, "credential.refresh_begun")
    (opened,) = [event for event in await world.events(it, "credential.begun") if event["purpose"] == "refresh"]
    (done,) = await world.events(it, "integration.refreshed")
    assert begun["seq"] < opened["seq"] < done["seq"]
    assert begun["attempt"] == done["attempt"] == 1
    assert "actor" not in begun


async def test_a_refresh_that_cannot_be_recorded_is_not_sent_and_is_made_later(world: World) -> None:
    it = await world.consent()
    await world.is_due(it)
    async with no_right_to_insert(world.superuser):
        assert await world.refresh() == [False]
    assert world.refreshes() == 0
    row = await world.row(it)
    assert (row["attempt_ends_at"], row["uncertain"]) == (None, 0)
    await world.is_due(it)
    assert await world.refresh() == [True]


async def test_no_transaction_is_open_while_the_provider_is_waited_for(world: World) -> None:
    it = await world.consent()
    await world.is_due(it)
    world.server.misbehave("hold", seconds=30)
    task = asyncio.create_task(world.refresh())
    await asyncio.to_thread(world.server.wait_until_held)
    cursor = await world.superuser.execute(
        "SELECT count(*) AS n FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    )
    assert await cursor.fetchone() == {"n": 0}
    row = await world.row(it)
    assert (row["attempt"], row["written_by"]) == (1, 0)
    assert row["attempt_ends_at"] > row["now"]
    world.server.release()
    assert await task == [True]


async def test_a_client_asks_for_a_token_of_its_own_anew(world: World) -> None:
    it = await world.consent(flow="client", refresh=None)
    before = await world.token(it)
    await world.is_due(it)
    assert await world.refresh() == [True]
    assert world.server.calls_to("/token")[-1].fields["grant_type"] == "client_credentials"
    assert await world.token(it) != before
    assert world.server.is_good(await world.token(it))


async def test_what_cannot_be_renewed_is_not_asked_for_again(world: World) -> None:
    it = await world.consent(refresh=None)
    assert (await world.row(it))["refresh_due_at"] is None
    await world.is_due(it)
    assert await world.refresh() == [False]
    assert world.refreshes() == 0
    row = await world.row(it)
    assert (row["refresh_due_at"], row["refresh_problem"], row["attempt_ends_at"]) == (None, "nothing", None)
    await world.is_due(it)
    assert (await world.now(it)).status == "connected"


async def test_a_version_that_drains_is_renewed_in_place_and_says_nothing_of_the_present_one(world: World) -> None:
    it = await world.consent()
    # A run holds the first version, so it drains.
    await world.app.runs.open(world.tenant.agent)
    granted = world.server.grant(CLIENT)
    present = await world.credential(it)
    assert present.consent is not None
    consent = replace(present.consent, refresh=Sensitive(granted.refresh or ""))
    newer = replace(present, token=Sensitive(granted.access), consent=consent)
    assert (await world.app.integrations.supersede(world.tenant.local, it.id, newer)).version == 2
    assert (await world.row(it))["state"] == "draining"
    old, new = await world.token(it), await world.token(it, 2)
    await world.is_due(it)
    assert await world.refresh() == [True]
    assert await world.token(it) != old and world.server.is_good(await world.token(it))
    assert await world.token(it, 2) == new
    # Nor is what becomes of it later.
    world.server.kill(await world.token(it))
    await world.is_due(it, dead=True)
    assert await world.refresh() == [False]
    assert (await world.row(it))["refresh_problem"] == "gone"
    now = await world.now(it)
    assert (now.status, now.status_reason) == ("connected", "")
    assert await world.events(it, "integration.needs_attention") == []
    assert await world.token(it, 2) == new
    assert (await world.row(it, 2))["refresh_problem"] == ""
    await world.is_due(it, version=2)
    assert await world.refresh() == [True]


async def test_a_company_is_refreshed_in_its_own_scope_only(
    world: World, tenant: Callable[[], Awaitable[Tenant]]
) -> None:
    it = await world.consent()
    await world.is_due(it)
    other = World(world.app, await tenant(), world.server, world.superuser)
    assert await other.refresh() == []
    assert await world.refresh() == [True]


async def test_a_client_that_is_another_one_now_gets_no_refresh_token_of_the_first(world: World) -> None:
    it = await world.consent()
    world.server.add_client("client-2", SECRET)
    await world.app.clients.configure(
        world.tenant.local,
        ONCE,
        client_id="client-2",
        secret=Sensitive(SECRET),
        issuer=world.server.url,
        allow_private=True,
    )
    await world.is_due(it)
    assert await world.refresh() == [False]
    assert world.refreshes() == 0
    now = await world.now(it)
    assert now.status == "needs attention"
    assert "is another one now" in now.status_reason
    # Once it is the first again, it goes on by itself.
    await world.client(ONCE)
    await world.is_due(it)
    assert await world.refresh() == [True]
    assert (await world.now(it)).status == "connected"
