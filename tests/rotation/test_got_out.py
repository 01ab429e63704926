"""
A key that got out, off the straight way: the command is killed, another key lay beside it, others still hold it.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable

import pytest

from company_agents.app import init_key
from company_agents.crypto.keyring import UnknownKey
from company_agents.errors import MayNotStart
from company_agents.rotation.replica import BEAT
from tests.rotation.place import Place, nothing_is_lost, opened, outcome, rotate, silent, whole


class Killed(Exception):
    """The process died here."""


def killed_at(wanted: str) -> Callable[[str, int, int], None]:
    def say(step: str, done: int, total: int) -> None:
        if step == wanted:
            raise Killed

    return say


async def killed(place: Place, wanted: str, *, compromised: bool = False) -> None:
    async with place.open() as app:
        with pytest.raises(Killed):
            await rotate(app, compromised=compromised, say=killed_at(wanted))


@pytest.mark.parametrize("moment", ["confirm", "switch", "rewrap", "archive"])
@pytest.mark.parametrize("finish", [True, False])
async def test_what_was_begun_as_a_compromise_is_finished_as_one_wherever_it_was_killed(
    place: Place, moment: str, finish: bool
) -> None:
    old = place.only("active")
    await killed(place, moment, compromised=True)
    async with place.open() as app:
        result = await rotate(app, finish=finish)
        assert (result.action, result.old_key_id, result.destroyed) == ("finished", old, True)
        assert place.states()[old] == "destroyed"
        assert old not in place.kept()
        assert set(place.values) <= {entry.id for entry in await app.keys.to_reissue()}
    await whole(place)


async def test_a_key_that_lay_beside_one_that_got_out_is_never_the_next(place: Place) -> None:
    await killed(place, "switch")
    old, beside = place.only("active"), place.only("staged")
    async with place.open() as app:
        assert (await app.rotator.foresee(compromised=True, say=silent)).action == "rotate"
        result = await rotate(app, compromised=True)
        assert (result.action, result.old_key_id, result.destroyed) == ("rotated", old, True)
        assert result.new_key_id not in (old, beside)
        assert place.states()[beside] == "archived"
        assert (await app.pruner.prune(None, "tester")).destroyed == [beside]
    await whole(place)


async def test_one_that_was_made_because_of_it_is_not_set_aside(place: Place) -> None:
    await killed(place, "switch", compromised=True)
    new = place.only("staged")
    async with place.open() as app:
        assert (await app.rotator.foresee(compromised=True, say=silent)).action == "finish"
        assert (await rotate(app, compromised=True)).new_key_id == new
    await whole(place)


async def test_an_orchestrator_opens_nothing_with_a_key_that_another_process_destroyed(place: Place) -> None:
    old, some = place.only("active"), next(iter(place.values))
    [before] = place.sql("SELECT value, nonce FROM secrets WHERE id = %(id)s", id=some)
    async with place.open(long_lived=True) as orchestrator:
        async with place.open() as command:
            await rotate(command, compromised=True)
        async with asyncio.timeout(30):
            while old in orchestrator.held.ring:
                await asyncio.sleep(BEAT / 20)
        await nothing_is_lost(place, orchestrator)
        # Whoever has the key and can write here puts a row of theirs: this one was sealed with it.
        change = "UPDATE secrets SET value = %(value)s, nonce = %(nonce)s, key_id = %(key)s WHERE id = %(id)s"
        place.sql(change, **before, key=old, id=some)
        assert isinstance(await outcome(opened(orchestrator, place, some)), UnknownKey)


async def test_no_key_is_destroyed_while_the_hint_is_a_copy_of_it(place: Place) -> None:
    old, copy = place.only("active"), place.hint()
    async with place.open() as app:
        await rotate(app)
        place.source.path.write_bytes(copy)
        place.sql("UPDATE master_keys SET ends_at = now() WHERE key_id = %(k)s", k=old)
        error = await outcome(app.pruner.prune(None, "tester"))
        assert error is not None
        assert error.reason == "key_current"
        assert old in place.kept()
    async with place.open() as app:
        assert (await app.pruner.prune(None, "tester")).destroyed == [old]
        assert place.hint() != copy
    await whole(place)


async def test_a_sign_of_life_from_the_future_is_not_waited_for(place: Place) -> None:
    place.sql(
        "INSERT INTO replicas (id, host, process, version, key_ids, seen_at)"
        " VALUES (gen_random_uuid(), 'elsewhere', 1, '1', '{}', now() + interval '1 year')"
    )
    async with place.open() as app:
        assert (await app.rotator.foresee(compromised=False, say=silent)).replicas == 0
        assert (await rotate(app)).action == "rotated"


async def test_no_first_key_is_made_where_rows_wait_for_another(place: Place) -> None:
    place.sql("DELETE FROM master_keys")
    shutil.rmtree(place.folder)
    error = await outcome(init_key(place.settings(), adopt=False, take_over=False))
    assert isinstance(error, MayNotStart)
    assert "has rows" in error.sentence
    assert not place.folder.exists()
    assert place.states() == {}
