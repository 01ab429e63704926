"""
A version that goes while its refresh is under way: what the provider gives then is revoked, and not forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from company_agents.integrations.integrations import Integration
from company_agents.integrations.provider import Provider
from company_agents.sensitive import Sensitive
from tests.refresh.world import CLIENT, OFTEN, World, patient


@contextlib.asynccontextmanager
async def refreshing(world: World, it: Integration) -> AsyncIterator[None]:
    """A refresh whose reply is on its way; the provider forgets what was used up, as most do."""
    await world.is_due(it)
    world.server.misbehave("hold", seconds=60)
    first = asyncio.create_task(world.refresh(patient(world.app)))
    await asyncio.to_thread(world.server.wait_until_held)
    yield
    world.server.release()
    await first


def alive(world: World) -> list[str]:
    return [token.access for token in world.server.state.by_access.values() if world.server.is_good(token.access)]


async def rotate_to_a_token(world: World, it: Integration) -> str:
    token: str = world.server.grant(CLIENT).access
    await world.app.integrations.rotate(world.tenant.local, it.id, Sensitive(token))
    return token


async def states(world: World, it: Integration) -> dict[int, str]:
    found = await world.app.integrations.versions.list(world.scope, it.id)
    return {version.version: version.state for version in found}


async def test_a_version_is_not_retired_while_it_is_refreshed_and_its_newest_token_is_revoked(world: World) -> None:
    it = await world.consent()
    async with refreshing(world, it):
        pasted = await rotate_to_a_token(world, it)
        assert await states(world, it) == {2: "current", 1: "draining"}
        await world.app.sweeper.sweep_company(world.scope)
        assert world.server.calls_to("/revoke") == []
    newest = await world.token(it)
    await world.app.sweeper.sweep_company(world.scope)
    assert await states(world, it) == {2: "current", 1: "retired"}
    assert newest in [call.fields["token"] for call in world.server.calls_to("/revoke")]
    assert alive(world) == [pasted]
    assert len(await world.events(it, "credential.revoked")) == 1


async def test_a_version_whose_refresher_died_retires_when_the_lease_is_over(world: World) -> None:
    it = await world.consent()
    await world.is_due(it)
    await patient(world.app).attempts.claim(world.scope, 1)
    await rotate_to_a_token(world, it)
    assert await states(world, it) == {2: "current", 1: "draining"}
    await world.set(it, "attempt_ends_at = now()")
    await world.app.sweeper.sweep_company(world.scope)
    assert await states(world, it) == {2: "current", 1: "retired"}


async def test_what_comes_for_a_deleted_integration_is_revoked(world: World) -> None:
    it = await world.consent()
    async with refreshing(world, it):
        await world.app.revocation.delete(world.tenant.local, it.id, keep_consent=True)
    assert {call.fields["token_type_hint"] for call in world.server.calls_to("/revoke")} == {
        "access_token",
        "refresh_token",
    }
    assert alive(world) == []
    assert len(await world.events(it, "credential.revoked")) == 1


async def test_what_cannot_be_revoked_is_on_record(world: World) -> None:
    it = await world.consent()
    world.server.misbehave("status", on="/revoke", status=503, times=9)
    async with refreshing(world, it):
        await world.app.revocation.delete(world.tenant.local, it.id, keep_consent=True)
    # Of what was kept with the deletion, and of what came after it.
    assert len(await world.events(it, "credential.not_revoked")) == 2


async def test_a_token_is_kept_also_where_its_next_refresh_cannot_be_planned(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = await world.consent(OFTEN)
    await world.is_due(it)
    known = world.app.providers.get(OFTEN)
    assert known.oauth is not None and known.oauth.refresh is not None
    # No file says so any more; one that was read before may.
    rules = known.oauth.refresh.model_copy(update={"idle_days": 4_000_000})
    endless = known.model_copy(update={"oauth": known.oauth.model_copy(update={"refresh": rules})})

    def get(_: object, name: str) -> Provider:
        assert name == OFTEN
        return endless

    monkeypatch.setattr(type(world.app.providers), "get", get)
    before = await world.token(it)
    assert await world.refresh() == [True]
    after = await world.token(it)
    assert after != before and world.server.is_good(after)
    assert (await world.row(it))["attempt_ends_at"] is None
