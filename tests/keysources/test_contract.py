"""
What every kind of key source does in the same way: one set of tests, and the table in `kinds.py`.
"""

from __future__ import annotations

import asyncio
import base64
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import CompanyAgentsError, MayNotStart
from company_agents.keysources.base import KeySource, open_source
from company_agents.keysources.failures import SourceChanged, SourceReadOnly, SourceUnavailable
from company_agents.keysources.found import Found
from company_agents.settings import Settings
from tests.keysources.kinds import KINDS, LOCAL, READ_ONLY
from tests.keysources.place import Place

Find = Callable[[str], Awaitable[Place]]

every_kind = pytest.mark.parametrize("kind", KINDS)
every_writable_kind = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in READ_ONLY])
every_remote_kind = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in LOCAL])


@pytest.fixture(scope="module")
async def find(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Find]:
    """The place of a kind, which is made when the first test asks for it."""
    made: dict[str, Place] = {}
    async with AsyncExitStack() as stack:

        async def get(kind: str) -> Place:
            if kind not in made:
                made[kind] = await stack.enter_async_context(KINDS[kind](tmp_path_factory.mktemp("place")))
            return made[kind]

        yield get


async def fresh(place: Place) -> tuple[Settings, KeySource]:
    settings = place.settings()
    return settings, open_source(settings)


async def add(source: KeySource, *keys: MasterKey) -> Found:
    for key in keys:
        await source.add(key, await source.read())
    return await source.read()


def ids(*keys: MasterKey) -> frozenset[str]:
    return frozenset(key.key_id for key in keys)


def generated(count: int) -> list[MasterKey]:
    return [MasterKey.generate() for _ in range(count)]


def same(found: Found, other: Found) -> bool:
    """Equal, in whatever order the keys come."""
    by_id = [{key.key_id: key for key in one.keys} for one in (found, other)]
    return by_id[0] == by_id[1] and (found.current, found.kept, found.owner) == (other.current, other.kept, other.owner)


def writes(source: KeySource, key: MasterKey, seen: Found) -> dict[str, Callable[[], Awaitable[None]]]:
    """Every write, with a key that is not there."""
    return {
        "check_writable": lambda: source.check_writable(seen),
        "claim": lambda: source.claim(uuid.uuid4(), seen),
        "add": lambda: source.add(key, seen),
        "make_current": lambda: source.make_current(key.key_id, seen),
        "destroy": lambda: source.destroy(key.key_id, seen),
    }


def shown(error: BaseException) -> str:
    """Everything that a person or a log may see of an error."""
    hint = error.hint if isinstance(error, CompanyAgentsError) else ""
    return f"{error!r} {hint} {''.join(traceback.format_exception(error))}"


def forms(key: MasterKey) -> list[str]:
    """How a key would look in a text."""
    raw = key.secret.reveal()
    return [raw.hex(), base64.b64encode(raw).decode().rstrip("="), base64.urlsafe_b64encode(raw).decode().rstrip("=")]


# — reading —


@every_kind
async def test_an_empty_place_holds_nothing(find: Find, kind: str) -> None:
    place = await find(kind)
    _, source = await fresh(place)
    if place.empty:
        with pytest.raises(MayNotStart) as caught:
            await source.read()
        assert caught.value.reason == place.empty
        assert caught.value.hint
    else:
        found = await source.read()
        assert (found.keys, found.current, found.kept, found.owner) == ((), None, frozenset(), None)


@every_kind
async def test_a_bare_key_put_there_by_hand_is_the_current_one_and_not_kept_by_its_id(find: Find, kind: str) -> None:
    place = await find(kind)
    (key,) = generated(1)
    settings = await place.put_by_hand(place.settings(), key)
    found = await open_source(settings).read()
    assert (found.keys, found.current, found.kept, found.owner) == ((key,), key, frozenset(), None)


# — adding —


@every_writable_kind
async def test_a_key_that_was_added_is_kept_by_its_id_and_another_process_reads_it(find: Find, kind: str) -> None:
    place = await find(kind)
    (key,) = generated(1)
    settings, source = await fresh(place)
    await add(source, key)
    found = await open_source(settings).read()
    assert (found.keys, found.kept) == ((key,), ids(key))
    assert await place.holds(settings, key)


@every_writable_kind
async def test_adding_a_key_a_second_time_changes_nothing(find: Find, kind: str) -> None:
    _, source = await fresh(await find(kind))
    first, second = generated(2)
    before = await add(source, first, second)
    await source.add(first, before)
    after = await source.read()
    assert same(before, after)
    assert after.version == before.version


@every_writable_kind
async def test_a_bare_key_can_be_added_and_stays_the_current_one(find: Find, kind: str) -> None:
    place = await find(kind)
    (key,) = generated(1)
    source = open_source(await place.put_by_hand(place.settings(), key))
    found = await add(source, key)
    assert (found.keys, found.current, found.kept) == ((key,), key, ids(key))


@every_writable_kind
async def test_ten_keys_live_together(find: Find, kind: str) -> None:
    settings, source = await fresh(await find(kind))
    keys = generated(10)
    await add(source, *keys)
    found = await open_source(settings).read()
    assert {key.key_id: key for key in found.keys} == {key.key_id: key for key in keys}
    assert found.kept == ids(*keys)


@every_writable_kind
async def test_of_two_who_add_at_once_neither_loses_a_key(find: Find, kind: str) -> None:
    settings, source = await fresh(await find(kind))
    keys = generated(3)
    seen = await add(source, keys[0])
    other = open_source(settings)
    done = await asyncio.gather(source.add(keys[1], seen), other.add(keys[2], seen), return_exceptions=True)
    for key, outcome in zip(keys[1:], done, strict=True):
        if outcome is not None:
            assert isinstance(outcome, SourceChanged)
            await add(other, key)
    assert (await source.read()).kept == ids(*keys)


@every_writable_kind
async def test_seeing_whether_it_can_be_written_changes_nothing(find: Find, kind: str) -> None:
    _, source = await fresh(await find(kind))
    empty = await source.read()
    await source.check_writable(empty)
    assert same(await source.read(), empty)
    before = await add(source, *generated(2))
    await source.check_writable(before)
    after = await source.read()
    assert same(before, after)
    assert after.version == before.version


# — the hint —


@every_writable_kind
async def test_a_new_current_key_changes_the_hint_and_nothing_else(find: Find, kind: str) -> None:
    settings, source = await fresh(await find(kind))
    keys = generated(3)
    instance = uuid.uuid4()
    await source.claim(instance, await source.read())
    await add(source, *keys)
    for key in (*keys, keys[0], keys[0]):
        await source.make_current(key.key_id, await source.read())
        found = await open_source(settings).read()
        assert (found.current, found.kept, found.owner) == (key, ids(*keys), instance)
        assert ids(*found.keys) == ids(*keys)


@every_writable_kind
async def test_the_hint_cannot_name_a_key_that_is_not_there(find: Find, kind: str) -> None:
    _, source = await fresh(await find(kind))
    key, missing = generated(2)
    await add(source, key)
    await source.make_current(key.key_id, await source.read())
    before = await source.read()
    with pytest.raises(CompanyAgentsError):
        await source.make_current(missing.key_id, before)
    assert same(await source.read(), before)


@every_writable_kind
async def test_a_new_hint_does_not_lose_the_only_copy_of_a_bare_key(find: Find, kind: str) -> None:
    place = await find(kind)
    bare, other = generated(2)
    settings = await place.put_by_hand(place.settings(), bare)
    source = open_source(settings)
    seen = await add(source, other)
    try:
        await source.make_current(other.key_id, seen)
    except CompanyAgentsError as error:
        assert error.reason == "key_not_kept"
        assert error.hint
    assert bare in (await source.read()).keys
    assert await place.holds(settings, bare)


# — whose it is —


@every_writable_kind
async def test_a_claim_can_be_read_and_leaves_the_keys_alone(find: Find, kind: str) -> None:
    place = await find(kind)
    (key,) = generated(1)
    settings = await place.put_by_hand(place.settings(), key)
    source, instance = open_source(settings), uuid.uuid4()
    await source.claim(instance, await source.read())
    await source.claim(instance, await source.read())
    found = await open_source(settings).read()
    assert (found.owner, found.keys, found.current) == (instance, (key,), key)


@every_writable_kind
async def test_of_two_claims_at_once_one_wins_and_the_other_is_told(find: Find, kind: str) -> None:
    settings, source = await fresh(await find(kind))
    seen, instances = await source.read(), [uuid.uuid4() for _ in range(2)]
    sources = [source, open_source(settings)]
    done = await asyncio.gather(
        *(one.claim(instance, seen) for one, instance in zip(sources, instances, strict=True)), return_exceptions=True
    )
    owner = (await source.read()).owner
    if source.claims_alone:
        assert [type(outcome) for outcome in done if outcome is not None] == [SourceChanged]
        assert owner == instances[done.index(None)]
    else:
        assert owner in instances


@every_writable_kind
async def test_what_is_another_instances_is_seen_and_can_be_taken_over(find: Find, kind: str) -> None:
    settings, source = await fresh(await find(kind))
    first, second = uuid.uuid4(), uuid.uuid4()
    unclaimed = await source.read()
    await source.claim(first, unclaimed)
    seen = await open_source(settings).read()
    assert seen.owner == first
    if source.claims_alone:
        with pytest.raises(SourceChanged):
            await source.claim(second, unclaimed)
        assert (await source.read()).owner == first
    await open_source(settings).claim(second, seen)
    assert (await source.read()).owner == second


# — taking away —


@every_writable_kind
async def test_a_destroyed_key_is_gone_and_nothing_else_is(find: Find, kind: str) -> None:
    place = await find(kind)
    settings, source = await fresh(place)
    keys = generated(3)
    instance = uuid.uuid4()
    await source.claim(instance, await source.read())
    await add(source, *keys)
    # It was the current one for a while.
    for key in keys[:2]:
        await source.make_current(key.key_id, await source.read())
    await source.destroy(keys[0].key_id, await source.read())
    found = await open_source(settings).read()
    assert (ids(*found.keys), found.kept, found.current) == (ids(*keys[1:]), ids(*keys[1:]), keys[1])
    assert found.owner == instance
    assert source.after_destroy or not await place.holds(settings, keys[0])
    assert [await place.holds(settings, key) for key in keys[1:]] == [True, True]


@every_writable_kind
async def test_destroying_what_is_not_there_changes_nothing(find: Find, kind: str) -> None:
    _, source = await fresh(await find(kind))
    key, other = generated(2)
    await add(source, key, other)
    await source.destroy(other.key_id, await source.read())
    before = await source.read()
    await source.destroy(other.key_id, before)
    await source.destroy(MasterKey.generate().key_id, await source.read())
    assert same(await source.read(), before)


# — what was changed meanwhile —


@every_writable_kind
@pytest.mark.parametrize("write", ["claim", "add", "make_current", "destroy"])
async def test_a_write_against_what_was_seen_before_a_change_harms_nothing(find: Find, kind: str, write: str) -> None:
    place = await find(kind)
    settings, source = await fresh(place)
    key, other, new = generated(3)
    seen = await add(source, key, other)
    await add(open_source(settings), new)
    before = await source.read()
    late = {
        "claim": lambda: source.claim(uuid.uuid4(), seen),
        "add": lambda: source.add(MasterKey.generate(), seen),
        "make_current": lambda: source.make_current(other.key_id, seen),
        "destroy": lambda: source.destroy(other.key_id, seen),
    }[write]
    if place.compares:
        with pytest.raises(SourceChanged):
            await late()
        assert same(await source.read(), before)
    else:
        await late()
        assert {key.key_id, new.key_id} <= (await source.read()).kept


# — refusals —


@pytest.mark.parametrize("kind", sorted(READ_ONLY))
async def test_every_write_to_what_may_only_be_read_is_refused_with_what_to_do_instead(find: Find, kind: str) -> None:
    place = await find(kind)
    key, other = generated(2)
    source = open_source(await place.put_by_hand(place.settings(), key))
    seen = await source.read()
    for write in writes(source, other, seen).values():
        with pytest.raises(SourceReadOnly) as caught:
            await write()
        assert caught.value.hint
    assert same(await source.read(), seen)
    # What is there already needs no write.
    await source.add(key, seen)
    await source.make_current(key.key_id, seen)


@every_remote_kind
async def test_a_service_that_is_not_there_is_said_in_the_same_words_by_every_verb(find: Find, kind: str) -> None:
    place = await find(kind)
    _, there = await fresh(place)
    seen = await add(there, *generated(1))
    away = place.unreachable()
    assert away is not None
    settings, reason = away
    source = open_source(settings)
    verbs = (source.read, *writes(source, MasterKey.generate(), seen).values())
    for error in await asyncio.gather(*(verb() for verb in verbs), return_exceptions=True):
        assert isinstance(error, SourceUnavailable)
        assert error.reason == reason
        assert source.address in error.sentence
        assert error.hint
        assert [secret for secret in place.secrets if secret in shown(error)] == []


@every_writable_kind
async def test_nothing_that_is_shown_holds_a_key_or_a_credential(find: Find, kind: str) -> None:
    place = await find(kind)
    keys = generated(2)
    settings = await place.put_by_hand(place.settings(), keys[0])
    source = open_source(settings)
    seen = await source.read()
    await add(source, *keys)
    texts = [source.address, source.after_destroy, repr(source), repr(seen), repr(await source.read())]
    for write in (*writes(source, keys[1], seen).values(), lambda: source.make_current("0" * 16, seen)):
        try:
            await write()
        except CompanyAgentsError as error:
            texts.append(shown(error))
    assert len(texts) > 5
    secrets = [*place.secrets, *forms(keys[0]), *forms(keys[1])]
    assert [secret for secret in secrets if any(secret in text for text in texts)] == []
