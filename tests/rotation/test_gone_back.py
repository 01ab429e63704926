"""
A database that goes back in time, by a restore or a point-in-time recovery, while the key source does not: to before a
rotation, into the middle of one, and to before a prune.
"""

from __future__ import annotations

import pytest

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import NotFound, Refused
from tests.rotation.place import Dump, Place, Watched, elsewhere, nothing_is_lost, rotate, whole

MOMENTS = ["opening", "confirm", "switched", "rewrap", "verify", "archive", "after"]


async def rotated_with_a_dump(place: Place, moment: str) -> Dump:
    """Rotate, and then once more; the dump that somebody made at that moment of the first rotation."""
    dumps: list[Dump] = []
    source = Watched(place)

    async def switched() -> None:
        dumps.append(place.dump())

    def say(step: str, done: int, total: int) -> None:
        if step == moment and not dumps:
            dumps.append(place.dump())
        if step == "switch" and moment == "switched":
            # The source is read next when the switch is done.
            source.moments[f"before read {source.calls.count('read') + 1}"] = switched

    async with place.open() as app:
        await rotate(app, source=source, say=say)
        if moment == "after":
            dumps.append(place.dump())
        await rotate(app)
    [dump] = dumps
    return dump


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_database_that_has_gone_back_into_a_rotation_starts_and_everything_comes_under_the_active_key(
    place: Place, moment: str
) -> None:
    dump = await rotated_with_a_dump(place, moment)
    last = place.only("active")
    place.restore(dump)
    assert last not in place.states()
    async with place.open() as app:
        await nothing_is_lost(place, app)
        active = place.only("active")
        # The keys of the time that is gone are ours still: archived, without an end, and not pruned by themselves.
        [adopted] = place.sql("SELECT state, ends_at FROM master_keys WHERE key_id = %(k)s", k=last)
        assert adopted == {"state": "archived", "ends_at": None}
        assert set(place.states()) == place.kept()
        assert place.hint() == place.key_file(active).read_bytes()
        result = await app.pruner.prune(None, "tester")
        assert last not in result.destroyed
        assert "no end" in next(kept.why for kept in result.kept if kept.key_id == last)
        events = [(event["action"], event.get("key")) for event in await app.events.newest(None, limit=20)]
        assert ("key.adopted", last) in events
    await whole(place)
    async with place.open() as app:
        assert (await rotate(app)).action == "rotated"
        # Somebody who knows that nobody needs it any more may say so.
        assert (await app.pruner.prune(last, "tester")).destroyed == [last]
    await whole(place)


async def test_rows_that_were_brought_back_from_before_a_rotation_are_moved_by_finish(place: Place) -> None:
    before, first = place.dump(), place.only("active")
    async with place.open() as app:
        await rotate(app)
    tables, seals = place.dump()
    place.restore(({**tables, "secrets": before[0]["secrets"]}, seals))
    back = sum(place.rows_by_key().values())
    assert place.rows_by_key() == {first: back}
    async with place.open() as app:
        # The audit key of the rotation is not among them, so that there is a newer one, under the active key.
        active = place.only("active")
        assert place.rows_by_key() == {first: back, active: 1}
        await nothing_is_lost(place, app)
        result = await rotate(app, finish=True)
        assert (result.action, result.new_key_id, result.rows) == (
            "finished",
            active,
            back,
        )
    await whole(place)


async def test_a_staged_key_that_the_source_does_not_have_is_dropped_at_start(place: Place) -> None:
    dump = await rotated_with_a_dump(place, "confirm")
    place.restore(dump)
    staged = place.only("staged")
    place.key_file(staged).unlink()
    async with place.open() as app:
        assert staged not in place.states()
        await nothing_is_lost(place, app)
        assert (await rotate(app, finish=True)).action == "nothing"
        assert (await rotate(app)).action == "rotated"
    await whole(place)


async def test_the_start_of_a_database_that_has_gone_back_renews_the_fence_and_ends_the_one_that_went_on(
    place: Place,
) -> None:
    # The rotator's session outlives what it has done, as with a restore beneath it.
    before = place.dump()
    fences = place.sql("SELECT number, nonce FROM key_fence")

    async def start() -> None:
        async with place.open():
            pass

    def say(step: str, done: int, total: int) -> None:
        if step == "archive":
            assert place.take_session() == 1
            place.restore(before)
            elsewhere(start)

    async with place.open() as app:
        with pytest.raises(Exception, match="does not answer"):
            await rotate(app, say=say)
    assert place.sql("SELECT number, nonce FROM key_fence") != fences
    await whole(place)


async def pruned(place: Place, times: int) -> tuple[Dump, list[str]]:
    """Rotated so many times, and all that is archived pruned; a dump from right before that, and those keys."""
    async with place.open() as app:
        for _ in range(times):
            await rotate(app)
        place.sql("UPDATE master_keys SET ends_at = now() WHERE state = 'archived'")
        dump = place.dump()
        destroyed = (await app.pruner.prune(None, "tester")).destroyed
        assert len(destroyed) == times
        return dump, destroyed


@pytest.mark.parametrize("times", [1, 3])
async def test_a_database_that_has_gone_back_to_before_a_prune_is_refused_with_a_way_out_that_works(
    place: Place, times: int
) -> None:
    dump, gone = await pruned(place, times)
    place.restore(dump)
    left = set(gone)
    while left:
        error = await place.refused()
        assert (error.exit_status, error.reason) == (78, "key_missing")
        [named] = [key_id for key_id in left if f"`company-agents key prune --gone {key_id}`" in error.hint]
        async with place.open(gone=named) as app:
            await app.pruner.forget(named, "tester")
        left.remove(named)
    async with place.open() as app:
        assert [place.states()[key_id] for key_id in gone] == ["destroyed"] * times
        await nothing_is_lost(place, app)
        assert (await rotate(app)).action == "rotated"
    await whole(place)


async def test_only_a_key_that_is_archived_and_needed_by_no_row_can_be_given_up(place: Place) -> None:
    first = place.only("active")
    async with place.open() as app:
        await rotate(app)
        second = place.only("active")
        for key_id, error, why in (
            (first, Refused, "the source has this key"),
            (second, Refused, "the source has this key"),
            (MasterKey.generate().key_id, NotFound, "no archived key"),
        ):
            with pytest.raises(error, match=why):
                await app.pruner.forget(key_id, "tester")
    # A row came back that needs it: with it the key is missing, and cannot be called gone.
    before = place.states()
    place.sql("UPDATE secrets SET key_id = %(k)s WHERE name = 'secret 007'", k=first)
    place.key_file(first).rename(place.home / "put aside")
    async with place.open(gone=first) as app:
        with pytest.raises(Refused, match="secrets need the key") as caught:
            await app.pruner.forget(first, "tester")
        assert caught.value.reason == "key_needed"
    assert place.states() == before
    # An active key that is missing is missing, whatever is said.
    place.key_file(second).rename(place.home / "put aside too")
    (place.folder / "master.key").unlink()
    for gone in (None, first, second):
        assert (await place.refused(gone=gone)).reason == "key_missing"


async def test_a_database_that_was_restored_beside_itself_keeps_every_key_of_both_histories(place: Place) -> None:
    # Another database on the server is another place: what was archived there may be needed here.
    async with place.open() as app:
        await rotate(app)
    archived = place.only("archived")
    [row] = place.sql("SELECT ends_at FROM master_keys WHERE key_id = %(k)s", k=archived)
    assert row["ends_at"] is not None
    other = place.copied()
    try:
        async with other.open() as app:
            await nothing_is_lost(other, app)
            assert other.sql("SELECT ends_at FROM master_keys WHERE state = 'archived'") == [{"ends_at": None}]
        await whole(other)
    finally:
        other.drop()
