"""
A key source that does not do what it says: it loses a key, is late, alters one, writes twice, or dies between two calls.
Nothing is sealed under a key that was not read back, and a rotation works as soon as the source does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import CompanyAgentsError, Exit, Failed, MayNotStart
from company_agents.keysources.failures import SourceUnavailable, unreachable
from company_agents.keysources.file import FileSource
from company_agents.sensitive import Sensitive
from tests.rotation.place import Place, Watched, nothing_is_lost, outcome, rotate, whole

Add = Callable[[MasterKey, Any], Awaitable[None]]


class Failing(Watched):
    """Whose `add` is as the test wants it; it is given the real one."""

    def __init__(self, place: Place, add: Callable[[Add, MasterKey, Any], Awaitable[None]]) -> None:
        super().__init__(place)
        self._add = add
        self.added: list[MasterKey] = []

    async def add(self, key: MasterKey, seen: Any) -> None:
        self.calls.append("add")
        self.added.append(key)
        parent = FileSource(self.path).add
        await self._add(parent, key, seen)


async def loses(add: Add, key: MasterKey, seen: Any) -> None:
    """It says yes, and nothing is there."""


async def forgets_to_answer(add: Add, key: MasterKey, seen: Any) -> None:
    await add(key, seen)
    raise SourceUnavailable("the key source does not answer in time", code="key_source_timeout")


async def is_down(add: Add, key: MasterKey, seen: Any) -> None:
    raise unreachable("file://somewhere", ConnectionRefusedError())


async def alters(add: Add, key: MasterKey, seen: Any) -> None:
    await add(MasterKey(Sensitive(bytes(byte ^ 1 for byte in key.secret.reveal()))), seen)


async def writes_twice(add: Add, key: MasterKey, seen: Any) -> None:
    await add(key, seen)
    await add(key, seen)


@pytest.mark.parametrize(
    ("add", "kind", "status", "code"),
    [
        (loses, Failed, Exit.FAILED, "key_source_lost"),
        (alters, Failed, Exit.FAILED, "key_source_lost"),
        (is_down, SourceUnavailable, Exit.UNAVAILABLE, "key_source_refused"),
        (forgets_to_answer, SourceUnavailable, Exit.UNAVAILABLE, "key_source_timeout"),
    ],
)
async def test_a_key_that_does_not_come_back_is_not_used_and_the_next_rotation_works(
    place: Place, add: Any, kind: type[CompanyAgentsError], status: int, code: str
) -> None:
    before = place.secrets(), place.states()
    source = Failing(place, add)
    async with place.open() as app:
        error = await outcome(rotate(app, source=source))
        assert isinstance(error, kind), error
        assert (error.exit_status, error.reason) == (status, code)
        assert str(source.path) in error.sentence or "key source" in error.sentence
        secret = source.added[0].secret.reveal()
        assert secret.hex() not in f"{error.sentence}{error.hint}"
        assert (place.secrets(), place.states()) == before
        await nothing_is_lost(place, app)
        assert (await rotate(app)).action == "rotated"
        await nothing_is_lost(place, app)
    await whole(place)


async def test_a_key_that_arrives_after_the_call_has_failed_is_kept_and_never_pruned_by_itself(place: Place) -> None:
    late: list[Callable[[], Awaitable[None]]] = []

    async def is_late(add: Add, key: MasterKey, seen: Any) -> None:
        late.append(lambda: add(key, seen))
        raise SourceUnavailable("the key source does not answer in time", code="key_source_timeout")

    source = Failing(place, is_late)
    async with place.open() as app:
        assert isinstance(await outcome(rotate(app, source=source)), SourceUnavailable)
        await rotate(app)
        await late[0]()
        await rotate(app)
    late_key = source.added[0].key_id
    await whole(place)
    [row] = place.sql("SELECT state, ends_at FROM master_keys WHERE key_id = %(k)s", k=late_key)
    assert row == {"state": "archived", "ends_at": None}
    async with place.open() as app:
        assert (await app.pruner.prune(late_key, "tester")).destroyed == [late_key]
    await whole(place)


async def test_another_key_under_the_name_of_the_new_one_is_seen_and_refused_until_it_is_gone(place: Place) -> None:
    before = place.secrets(), place.states()

    async def puts_another(add: Add, key: MasterKey, seen: Any) -> None:
        file = place.key_file(key.key_id)
        file.touch(0o600)
        file.write_bytes(MasterKey.generate().secret.reveal())

    source = Failing(place, puts_another)
    async with place.open() as app:
        error = await outcome(rotate(app, source=source))
        assert isinstance(error, MayNotStart)
        assert (error.exit_status, error.reason) == (78, "key_wrong")
        assert str(place.key_file(source.added[0].key_id)) in error.sentence
    assert (place.secrets(), place.states()) == before
    assert (await place.refused()).reason == "key_wrong"
    place.key_file(source.added[0].key_id).unlink()
    async with place.open() as app:
        assert (await rotate(app)).action == "rotated"
    await whole(place)


async def test_a_key_that_is_written_twice_is_there_once(place: Place) -> None:
    source = Failing(place, writes_twice)
    async with place.open() as app:
        result = await rotate(app, source=source)
        assert result.new_key_id == source.added[0].key_id
        await nothing_is_lost(place, app)
    assert len(place.kept()) == 2
    await whole(place)


@pytest.mark.parametrize("call", ["read", "check", "add", "make_current"])
async def test_a_source_that_dies_at_any_call_loses_nothing_and_the_rotation_is_finished_once_it_is_back(
    place: Place, call: str
) -> None:
    async def down() -> None:
        raise unreachable(place.source.address, ConnectionRefusedError())

    async with place.open() as app:
        probe = Watched(place)
        await rotate(app, source=probe)
        for number in range(1, probe.calls.count(call) + 1):
            for side in ("before", "after"):
                source = Watched(place)
                source.moments[f"{side} {call} {number}"] = down
                error = await outcome(rotate(app, source=source))
                assert isinstance(error, SourceUnavailable), (side, number)
                assert place.rows_by_key().keys() <= place.kept()
                await nothing_is_lost(place, app)
                assert (await rotate(app)).action in ("rotated", "finished")
                assert not {"staged", "retiring"} & set(place.states().values())
    await whole(place)


async def test_a_key_that_is_lost_between_its_reading_back_and_the_switch_is_not_switched_to(place: Place) -> None:
    before = place.secrets()

    def say(step: str, done: int, total: int) -> None:
        if step == "confirm":
            place.key_file(place.only("staged")).unlink()

    async with place.open() as app:
        error = await outcome(rotate(app, say=say))
        assert isinstance(error, Failed)
        assert error.reason == "key_source_lost"
        assert place.secrets() == before
        assert list(place.states().values()).count("active") == 1
    async with place.open() as app:
        await nothing_is_lost(place, app)
        assert (await rotate(app)).action == "rotated"
    await whole(place)
