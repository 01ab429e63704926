"""
A status says what was seen, by whom, since when; and keeps its history.
"""

from __future__ import annotations

from typing import Any

import pytest

from company_agents.integrations.status import CONNECTED, EXPIRING, KEPT, NEEDS_ATTENTION, REFRESHING, stays
from tests.refresh.world import OFTEN, World


async def test_since_when_moves_only_when_the_status_changes(world: World) -> None:
    it = await world.consent(OFTEN)
    statuses = world.app.integrations.statuses
    assert await statuses.seen(world.scope, it.id, 1, NEEDS_ATTENTION, "it was refused", seen_by="use")
    first = await world.now(it)
    assert not await statuses.seen(world.scope, it.id, 1, NEEDS_ATTENTION, "refused once more", seen_by="use")
    second = await world.now(it)
    assert (second.status_since, second.status_reason) == (first.status_since, "refused once more")
    assert await statuses.seen(world.scope, it.id, 1, CONNECTED, seen_by="use")
    third = await world.now(it)
    assert third.status_since > first.status_since and third.status_reason == ""
    assert await world.history(it) == [("connected", "connect"), ("needs attention", "use"), ("connected", "use")]


async def test_each_turn_to_needs_attention_is_one_event(world: World) -> None:
    it = await world.consent(OFTEN)
    statuses = world.app.integrations.statuses
    for reason in ("one", "two"):
        await statuses.seen(world.scope, it.id, 1, NEEDS_ATTENTION, reason, "do this", seen_by="probe")
    (event,) = await world.events(it, "integration.needs_attention")
    assert (event["reason"], event["hint"], event["seen_by"], event["version"]) == ("one", "do this", "probe", 1)
    assert (event["provider"], event["name"]) == (it.provider, it.name)


async def test_of_a_version_that_was_replaced_nothing_is_written(world: World) -> None:
    it = await world.consent(OFTEN)
    for version in (0, 2):
        assert not await world.app.integrations.statuses.seen(world.scope, it.id, version, NEEDS_ATTENTION, "no")
    assert (await world.now(it)).status == CONNECTED
    assert len(await world.history(it)) == 1


async def test_the_newest_of_the_history_are_kept(world: World) -> None:
    it = await world.consent(OFTEN)
    statuses = world.app.integrations.statuses
    for number in range(KEPT // 2 + 5):
        await statuses.seen(world.scope, it.id, 1, NEEDS_ATTENTION, f"number {number}")
        await statuses.seen(world.scope, it.id, 1, CONNECTED)
    cursor = await world.superuser.execute("SELECT FROM integration_history WHERE integration_id = %s", (it.id,))
    assert cursor.rowcount == KEPT
    newest = await statuses.history(world.scope, it.id, limit=2)
    assert [(seen.status, seen.reason) for seen in newest] == [
        (CONNECTED, ""),
        (NEEDS_ATTENTION, f"number {KEPT // 2 + 4}"),
    ]
    assert newest[0].at >= newest[1].at


def row(status: str, *, seen_by: str = "refresh", problem: str = "", ends_soon: bool = False) -> dict[str, Any]:
    return {"status": status, "seen_by": seen_by, "refresh_problem": problem, "ends_soon": ends_soon}


@pytest.mark.parametrize("seen_by", ["use", "probe"])
@pytest.mark.parametrize("problem", ["rejected", "uncertain", "gone"])
def test_a_call_that_works_does_not_mend_a_consent_that_cannot_be_renewed(seen_by: str, problem: str) -> None:
    assert stays(row(NEEDS_ATTENTION, problem=problem), CONNECTED, seen_by)
    assert not stays(row(NEEDS_ATTENTION, problem="not now"), CONNECTED, seen_by)


@pytest.mark.parametrize("seen_by", ["use", "probe"])
def test_a_new_token_does_not_mend_what_a_call_has_found_refused(seen_by: str) -> None:
    assert stays(row(NEEDS_ATTENTION, seen_by=seen_by), CONNECTED, "refresh")
    assert not stays(row(NEEDS_ATTENTION, seen_by="refresh"), CONNECTED, "refresh")


@pytest.mark.parametrize("present", [CONNECTED, EXPIRING, REFRESHING, NEEDS_ATTENTION])
@pytest.mark.parametrize("seen_by", ["connect", "rotation"])
def test_a_new_credential_outweighs_everything(present: str, seen_by: str) -> None:
    assert not stays(row(present, problem="gone", ends_soon=True, seen_by="use"), CONNECTED, seen_by)


def test_what_needs_attention_does_not_turn_to_expiring_or_refreshing() -> None:
    assert stays(row(NEEDS_ATTENTION), EXPIRING, "refresh")
    assert stays(row(NEEDS_ATTENTION), REFRESHING, "refresh")
    assert not stays(row(CONNECTED), REFRESHING, "refresh")
    assert not stays(row(REFRESHING), EXPIRING, "refresh")


def test_what_ends_soon_stays_expiring_while_it_works() -> None:
    for seen_by in ("use", "probe", "refresh"):
        assert stays(row(EXPIRING, ends_soon=True), CONNECTED, seen_by)
        assert not stays(row(EXPIRING), CONNECTED, seen_by)
