"""
An orchestrator starts while another one rotates or prunes: between its look at the database and its look at the key
source, all may change.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from company_agents.app import App
from company_agents.rotation.start import unlock
from tests.rotation.place import Place, Watched, rotate, whole

Come = Callable[[], Awaitable[None]]


async def start_with(place: Place, app: App, moment: str, come: Come) -> None:
    """What a start does with the keys, while somebody comes at that moment."""
    source = Watched(place)
    source.moments[moment] = come
    ring = await unlock(app.store.db, source, app.instance.id)
    assert not source.moments
    assert place.only("active") in ring


async def test_a_start_that_was_overtaken_by_a_whole_rotation_does_not_set_its_hint_back(place: Place) -> None:
    async with place.open() as app:

        async def come() -> None:
            await rotate(app)

        await start_with(place, app, "before read 1", come)
        assert place.hint() == place.key_file(place.only("active")).read_bytes()
    await whole(place)


async def test_a_start_that_meets_a_prune_is_not_told_that_a_key_is_missing(place: Place) -> None:
    async with place.open() as app:
        await rotate(app)
        archived = place.only("archived")
        place.sql("UPDATE master_keys SET ends_at = now() WHERE state = 'archived'")

        async def come() -> None:
            assert (await app.pruner.prune(None, "tester")).destroyed == [archived]

        await start_with(place, app, "before read 1", come)
        assert archived not in place.kept()
    await whole(place)
