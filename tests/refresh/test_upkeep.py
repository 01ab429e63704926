"""
What is done without being asked: refreshes ahead of expiry, probes, reminders, statuses that time changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from company_agents.app import open_app
from company_agents.integrations.integrations import Integration
from company_agents.integrations.refresher import Upkeep
from company_agents.settings import read_settings
from tests.conftest import LOCAL, Tenant, remove
from tests.oauth.server import AuthorizationServer
from tests.promises.evidence import connect_past, sql
from tests.refresh.world import OFTEN, World, patient, write_services


def upkeep(world: World, *, probe_every: int = 24, **how: Any) -> Upkeep:
    app = world.app
    given = {"tick": 0.05, "sweep": 0.05, **how}
    return Upkeep(app.store, app.providers, patient(app), app.integrations.checks, 4, probe_every, **given)


@asynccontextmanager
async def running(loop: Upkeep) -> AsyncIterator[Upkeep]:
    loop.start()
    try:
        yield loop
    finally:
        await loop.close()


async def eventually(what: Any) -> None:
    async with asyncio.timeout(30):
        while not await what():
            await asyncio.sleep(0.02)


async def on_integration(world: World, it: Integration, what: str) -> None:
    await sql(world.superuser, f"UPDATE integrations SET {what} WHERE id = %(i)s", i=it.id)


async def planned(world: World, it: Integration) -> dict[str, Any]:
    (row,) = await sql(world.superuser, "SELECT *, now() AS now FROM integrations WHERE id = %(i)s", i=it.id)
    return row


# — refreshes —


async def test_what_is_due_is_refreshed_by_the_loop_ahead_of_its_end(world: World) -> None:
    it = await world.consent()
    await world.is_due(it)
    async with running(upkeep(world)):
        await eventually(lambda: written(world, it))
    assert world.refreshes() == 1


async def written(world: World, it: Integration) -> bool:
    return bool((await world.row(it))["written_by"])


async def test_a_slow_company_does_not_keep_another_waiting(world: World, tenant: Any) -> None:
    slow = [await world.consent(OFTEN) for _ in range(8)]
    for it in slow:
        await world.is_due(it)
    world.server.misbehave("hold", times=8, seconds=60)
    with AuthorizationServer() as server:
        other = World(world.app, await tenant(), server, world.superuser)
        quick = await other.consent(OFTEN)
        async with running(upkeep(world)):
            for _ in range(3):
                await asyncio.to_thread(world.server.wait_until_held)
            await other.is_due(quick)
            await eventually(lambda: written(other, quick))
            assert not any([await written(world, it) for it in slow])
            world.server.behave()


async def test_a_stop_waits_for_what_is_under_way(world: World) -> None:
    it = await world.consent()
    await world.is_due(it)
    world.server.misbehave("hold", seconds=30)
    loop = upkeep(world)
    loop.start()
    await asyncio.to_thread(world.server.wait_until_held)
    closing = asyncio.create_task(loop.close())
    await asyncio.sleep(0.1)
    assert not closing.done()
    world.server.release()
    await closing
    assert await written(world, it)


async def test_a_sealed_instance_refreshes_nothing_until_it_is_unsealed(tmp_path: Path, server: Any) -> None:
    home = tmp_path / "home"
    write_services(home)
    settings = read_settings(home=home, database_url=None, master_key_path=None, master_key_source=None)
    try:
        async with open_app(settings, long_lived=True) as app, await connect_past(app, "postgres") as superuser:
            company = await app.companies.create(LOCAL, "sealed")
            local = await app.identity.in_company(LOCAL, company.id)
            _, token = await app.agents.create(local, "ann")
            agent = await app.identity.agent(token.reveal_text())
            world = World(app, Tenant(company, local, agent, token.reveal_text()), server, superuser)
            it = await world.consent()
            await app.panic.seal("tester")
            await world.is_due(it)
            assert await app.upkeep.refresh_due() == 0
            await asyncio.sleep(1.5)
            row = await world.row(it)
            assert (row["attempt"], world.refreshes()) == (0, 0)
            await app.panic.unseal("tester")
            await eventually(lambda: written(world, it))
            assert world.refreshes() == 1
    finally:
        if (home / "db").is_symlink():
            remove((home / "db").resolve())


async def test_sealed_in_the_middle_of_a_refresh_its_result_is_uncertain(tmp_path: Path, server: Any) -> None:
    home = tmp_path / "home"
    write_services(home)
    settings = read_settings(home=home, database_url=None, master_key_path=None, master_key_source=None)
    try:
        async with open_app(settings) as app, await connect_past(app, "postgres") as superuser:
            company = await app.companies.create(LOCAL, "sealed")
            local = await app.identity.in_company(LOCAL, company.id)
            _, token = await app.agents.create(local, "ann")
            agent = await app.identity.agent(token.reveal_text())
            world = World(app, Tenant(company, local, agent, token.reveal_text()), server, superuser)
            it = await world.consent()
            await world.is_due(it)
            server.misbehave("hold", seconds=30)
            task = asyncio.create_task(world.refresh())
            await asyncio.to_thread(server.wait_until_held)
            await app.panic.seal("tester")
            server.release()
            assert await task == [False]
            await app.panic.unseal("tester")
            await world.set(it, "attempt_ends_at = now()")
            assert await world.refresh() == [False]
            assert "the reply to a refresh was lost" in (await world.now(it)).status_reason
    finally:
        if (home / "db").is_symlink():
            remove((home / "db").resolve())


# — probes —


async def test_probes_are_spread_over_the_period_and_made_when_they_are_due(world: World) -> None:
    its = [await world.consent(OFTEN) for _ in range(10)]
    loop = upkeep(world, probe_every=24)
    await loop.look_after()
    rows = [await planned(world, it) for it in its]
    waits = sorted((row["probe_due_at"] - row["now"]).total_seconds() for row in rows)
    assert waits[0] >= 0 and waits[-1] <= 24 * 3600 and waits[-1] - waits[0] > 3600
    assert all(row["probed_at"] is None for row in rows)
    # One whose provider refuses it now: nobody uses it, so nobody else would notice.
    it = its[0]
    world.server.publish("/api/me", {"error": "this account is closed"}, 403)
    await on_integration(world, it, "probe_due_at = now()")
    await loop.look_after()
    await eventually(lambda: has_status(world, it, "needs attention"))
    now, row = await world.now(it), await planned(world, it)
    assert "this account is closed" in now.status_reason
    assert timedelta(hours=21) < row["probe_due_at"] - row["now"] < timedelta(hours=27)
    assert (await world.history(it))[-1] == ("needs attention", "probe")
    assert [(await world.now(other)).status for other in its[1:]] == ["connected"] * 9


async def has_status(world: World, it: Integration, status: str) -> bool:
    return (await world.now(it)).status == status


async def test_a_probe_that_is_due_is_made_by_one_of_two_loops(world: World) -> None:
    it = await world.consent(OFTEN)
    calls = len(world.server.calls_to("/api/me"))
    loops = [upkeep(world), upkeep(world)]
    await on_integration(world, it, "probe_due_at = now()")
    await asyncio.gather(*(loop.look_after() for loop in loops))
    await eventually(lambda: probed(world, calls))
    for loop in loops:
        await loop.close()
    assert len(world.server.calls_to("/api/me")) == calls + 1


async def probed(world: World, calls: int) -> bool:
    return len(world.server.calls_to("/api/me")) > calls


async def test_without_a_period_nothing_is_probed(world: World) -> None:
    it = await world.consent(OFTEN)
    calls = len(world.server.calls_to("/api/me"))
    await on_integration(world, it, "probe_due_at = now()")
    loop = upkeep(world, probe_every=0)
    await loop.look_after()
    await loop.close()
    assert len(world.server.calls_to("/api/me")) == calls


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_provider_that_is_broken_says_nothing_of_the_credential(world: World, status: int) -> None:
    it = await world.consent(OFTEN)
    calls = len(world.server.calls_to("/api/me"))
    world.server.publish("/api/me", {"error": "later"}, status)
    await on_integration(world, it, "probe_due_at = now()")
    loop = upkeep(world)
    await loop.look_after()
    await eventually(lambda: probed(world, calls))
    await eventually(lambda: ended(world, it))
    assert (await world.now(it)).status == "connected"


async def ended(world: World, it: Integration) -> bool:
    events = await world.events(it, "credential.ended")
    return bool(events) and events[-1]["result"] == "unproven"


# — reminders —


async def test_a_credential_that_is_older_than_it_is_to_get_is_reminded_of_once(world: World) -> None:
    it = await world.consent(OFTEN)
    loop = upkeep(world, probe_every=0)
    await on_integration(world, it, "rotate_every = 90")
    await loop.look_after()
    assert await world.events(it, "integration.rotation_due") == []
    await world.set(it, "created_at = now() - interval '91 days'")
    await asyncio.gather(loop.look_after(), upkeep(world, probe_every=0).look_after())
    await loop.look_after()
    (event,) = await world.events(it, "integration.rotation_due")
    assert (event["version"], event["days"], event["period"]) == (1, 91, 90)
    assert "rotate it" in (await world.now(it)).status_hint
    # A use or a probe that finds it well does not take the reminder away.
    await world.app.integrations.check(world.tenant.local, it.id)
    now = await world.now(it)
    assert now.status == "connected" and "rotate it" in now.status_hint


# — ends —


async def test_a_consent_that_cannot_be_renewed_is_expiring_before_it_ends_and_needs_attention_after(
    world: World,
) -> None:
    it = await world.consent(OFTEN, refresh=None)
    loop = upkeep(world, probe_every=0)
    await loop.look_after()
    assert (await world.now(it)).status == "connected"
    await world.set(it, "ends_at = now() + interval '10 minutes', created_at = now() - interval '50 minutes'")
    await loop.look_after()
    now = await world.now(it)
    assert now.status == "expiring" and "nothing to renew it with" in now.status_reason and now.status_hint
    # That it works for now does not change that.
    await world.app.requests.request(world.tenant.agent, it.name, "GET", "/api/me")
    await world.app.integrations.check(world.tenant.local, it.id)
    assert (await world.now(it)).status == "expiring"
    since = (await world.now(it)).status_since
    await loop.look_after()
    assert (await world.now(it)).status_since == since
    await world.set(it, "ends_at = now(), created_at = now() - interval '50 minutes'")
    await loop.look_after()
    now = await world.now(it)
    assert now.status == "needs attention" and "has ended" in now.status_reason
    assert [status for status, _ in await world.history(it)] == ["connected", "expiring", "needs attention"]
    assert len(await world.events(it, "integration.needs_attention")) == 1


async def test_a_consent_with_an_end_that_no_refresh_moves_is_expiring_and_is_refreshed_all_the_same(
    world: World,
) -> None:
    it = await world.consent("acme-absolute")
    row = await world.row(it)
    # Idle for thirty days, it ends; ninety days after it was given, it ends in any case.
    assert (row["ends_because"], (row["ends_at"] - row["now"]).days) == ("idle", 29)
    await world.set(it, "created_at = now() - interval '85 days'")
    await world.is_due(it)
    assert await world.refresh() == [True]
    row = await world.row(it)
    assert (row["ends_because"], (row["ends_at"] - row["now"]).days) == ("absolute", 4)
    await upkeep(world, probe_every=0).look_after()
    now = await world.now(it)
    assert now.status == "expiring" and "has an end in any case" in now.status_reason
    await world.is_due(it)
    assert await world.refresh() == [True]
    assert (await world.now(it)).status == "expiring"


async def test_a_consent_that_may_be_one_of_a_test_is_expiring_until_it_has_outlived_that(world: World) -> None:
    it = await world.consent("acme-tested")
    loop = upkeep(world, probe_every=0)
    assert (await world.row(it))["ends_because"] == "testing"
    await world.set(it, "created_at = now() - interval '6 days', ends_at = now() + interval '1 day'")
    await loop.look_after()
    now = await world.now(it)
    assert now.status == "expiring" and now.status_reason.startswith("if the application is still in testing")
    await world.set(it, "created_at = now() - interval '8 days', ends_at = now() - interval '1 day'")
    await loop.look_after()
    assert (await world.now(it)).status == "connected"
    await world.is_due(it)
    assert await world.refresh() == [True]
    assert (await world.row(it))["ends_at"] is None


async def test_a_token_that_ends_between_two_tries_needs_attention_then(world: World) -> None:
    it = await world.consent(OFTEN)
    await world.is_due(it)
    world.server.misbehave("busy")
    await world.refresh()
    loop = upkeep(world, probe_every=0)
    await loop.look_after()
    assert (await world.now(it)).status == "connected"
    await world.set(it, "expires_at = now()")
    await loop.look_after()
    assert (await world.now(it)).status == "needs attention"
    await world.is_due(it)
    assert await world.refresh() == [True]
    assert (await world.now(it)).status == "connected"
