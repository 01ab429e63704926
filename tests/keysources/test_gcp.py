"""
The key source `gcp-secretmanager`, against a server of Google's own messages: versions, etags, checksums, tokens.
"""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import CompanyAgentsError
from company_agents.keysources.base import KeySource, open_source
from company_agents.keysources.failures import SourceChanged, SourceReadOnly
from company_agents.keysources.found import Found
from company_agents.keysources.gcp import _crc32c
from company_agents.keysources.text import key_text
from company_agents.sensitive import Sensitive
from tests.keysources.servers import gcp
from tests.keysources.servers.gcp import PROJECT, Code, Google, State

KEY = MasterKey(Sensitive(b"k" * 32))
NEXT = MasterKey(Sensitive(b"n" * 32))
NOTHING = Found((), None)


@pytest.fixture(scope="module")
async def google(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Google]:
    async with gcp.place(tmp_path_factory.mktemp("google")) as place:
        yield place


@pytest.fixture
def name() -> str:
    return f"{PROJECT}/secrets/{uuid4().hex}"


@pytest.fixture
def source(google: Google, name: str) -> KeySource:
    return open_source(google.at(name))


async def refusal(google: Google, work: Awaitable[object]) -> CompanyAgentsError:
    """What was raised; none of its words is a secret, down to the last cause."""
    with pytest.raises(CompanyAgentsError) as caught:
        await work
    text = "".join(traceback.format_exception(caught.value))
    for secret in (*google.secrets, key_text(KEY).reveal_text(), key_text(NEXT).reveal_text()):
        assert secret not in text
    assert caught.value.hint
    return caught.value


def payloads(google: Google, name: str) -> list[bytes]:
    return [*google.of(name).data.values()]


def our_payload(key: MasterKey) -> bytes:
    return f"{key.key_id}:{key_text(key).reveal_text()}".encode()


# — versions —


async def test_each_key_has_a_version_whose_payload_names_it(google: Google, name: str, source: KeySource) -> None:
    for key in (KEY, NEXT, KEY):
        await source.add(key, NOTHING)
    assert payloads(google, name) == [our_payload(KEY), our_payload(NEXT)]
    found = await source.read()
    assert (found.keys, found.kept, found.current) == ((KEY, NEXT), frozenset({KEY.key_id, NEXT.key_id}), None)


def test_the_checksum_is_crc32c() -> None:
    # The check value of CRC-32C, and the one of 32 zeros in RFC 3720, B.4.
    assert (_crc32c(b"123456789"), _crc32c(bytes(32))) == (0xE3069283, 0x8A9136AA)


@pytest.mark.parametrize(
    "content", [b"k" * 32, KEY.secret.reveal().hex().encode() + b"\n", key_text(KEY).reveal(), b" " * 3 + b"61" * 32]
)
async def test_a_key_put_by_hand_is_bare_in_whatever_form(
    google: Google, name: str, source: KeySource, content: bytes
) -> None:
    google.put(name, content)
    found = await source.read()
    assert found.current is not None
    assert (found.keys, found.kept) == ((found.current,), frozenset())
    await source.add(found.current, found)
    assert (await source.read()).kept == {found.current.key_id}


async def test_the_newest_bare_key_is_current_until_the_alias_names_one(
    google: Google, name: str, source: KeySource
) -> None:
    google.put(name, b"k" * 32)
    google.put(name, b"n" * 32)
    assert (await source.read()).current == NEXT
    await source.make_current(KEY.key_id, NOTHING)
    assert (await source.read()).current == KEY
    google.put(name, b"z" * 32)
    assert (await source.read()).current == KEY
    assert dict(google.of(name).secret.version_aliases) == {"current": 1}


async def test_aliases_and_annotations_of_others_stay(google: Google, name: str, source: KeySource) -> None:
    google.put(name, our_payload(KEY))
    secret, instance = google.of(name).secret, uuid4()
    secret.version_aliases, secret.annotations = {"theirs": 1}, {"team": "theirs"}
    await source.make_current(KEY.key_id, NOTHING)
    await source.claim(instance, await source.read())
    assert dict(secret.version_aliases) == {"theirs": 1, "current": 1}
    assert dict(secret.annotations) == {"team": "theirs", "company-agents-instance": str(instance)}


async def test_a_write_that_came_twice_is_one_key_and_is_destroyed_as_one(
    google: Google, name: str, source: KeySource
) -> None:
    await source.add(NEXT, NOTHING)
    # By hand, twice by us: more than a page of versions, which hold one key.
    for content in (b"k" * 32, our_payload(KEY), our_payload(KEY), key_text(KEY).reveal()):
        google.put(name, content)
    found = await source.read()
    assert (found.keys, found.kept) == ((NEXT, KEY), frozenset({KEY.key_id, NEXT.key_id}))
    await source.destroy(KEY.key_id, found)
    await source.destroy(KEY.key_id, found)
    assert (await source.read()).keys == (NEXT,)
    assert payloads(google, name) == [our_payload(NEXT)]
    assert source.after_destroy == ""


async def test_an_alias_of_a_destroyed_version_is_no_hint(google: Google, name: str, source: KeySource) -> None:
    await source.add(KEY, NOTHING)
    await source.add(NEXT, NOTHING)
    await source.make_current(KEY.key_id, NOTHING)
    await source.destroy(KEY.key_id, NOTHING)
    found = await source.read()
    assert (found.keys, found.current) == ((NEXT,), None)
    await source.make_current(NEXT.key_id, found)
    assert (await source.read()).current == NEXT


async def test_where_destruction_is_delayed_it_is_said(google: Google, name: str, source: KeySource) -> None:
    await source.add(KEY, NOTHING)
    google.of(name).secret.version_destroy_ttl = timedelta(days=1)
    await source.destroy(KEY.key_id, NOTHING)
    assert await source.read() == NOTHING
    assert "delays destruction" in source.after_destroy
    assert await google.holds(google.at(name), KEY)


async def test_versions_that_cannot_be_looked_into_are_named_when_a_key_is_destroyed(
    google: Google, name: str, source: KeySource
) -> None:
    await source.add(KEY, NOTHING)
    await source.add(NEXT, NOTHING)
    google.state(name, google.put(name, our_payload(KEY)), State.DISABLED)
    await source.destroy(KEY.key_id, NOTHING)
    assert "disabled" in source.after_destroy
    assert (await source.read()).keys == (NEXT,)


async def test_a_disabled_version_is_not_read_and_is_a_refusal_where_it_is_needed(
    google: Google, name: str, source: KeySource
) -> None:
    await source.add(KEY, NOTHING)
    google.state(name, 1, State.DISABLED)
    # The only one.
    assert (await refusal(google, source.read())).reason == "key_disabled"
    await source.add(NEXT, NOTHING)
    assert (await source.read()).keys == (NEXT,)
    # The current one.
    await source.make_current(NEXT.key_id, NOTHING)
    google.state(name, 1, State.ENABLED)
    google.state(name, 2, State.DISABLED)
    error = await refusal(google, source.read())
    assert error.reason == "key_disabled"
    assert "version 2" in error.sentence


async def test_a_version_destroyed_between_the_list_and_the_reading_is_left_out(
    google: Google, name: str, source: KeySource
) -> None:
    await source.add(KEY, NOTHING)
    await source.add(NEXT, NOTHING)

    def rule(method: str, request: Any) -> None:
        if method == "AccessSecretVersion" and request.name.endswith("/1"):
            google.state(name, 1, State.DESTROYED)

    with google.ruled(rule):
        assert (await source.read()).keys == (NEXT,)


async def test_a_version_that_is_enabled_and_not_given_out_is_no_missing_one(
    google: Google, name: str, source: KeySource
) -> None:
    await source.add(KEY, NOTHING)
    await source.add(NEXT, NOTHING)

    def rule(method: str, request: Any) -> Any:
        return Code.FAILED_PRECONDITION if method == "AccessSecretVersion" and request.name.endswith("/1") else None

    with google.ruled(rule):
        for work in (source.read(), source.add(KEY, NOTHING), source.destroy(KEY.key_id, NOTHING)):
            error = await refusal(google, work)
            assert error.reason == "key_source_refused_call"
            assert "version 1" in error.sentence
    assert (await source.read()).keys == (KEY, NEXT)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"too short", "key_length"),
        (f"{NEXT.key_id}:{key_text(KEY).reveal_text()}".encode(), "key_wrong"),
        (f"{KEY.key_id}:abc".encode(), "key_length"),
        (b"", "key_length"),
    ],
)
async def test_a_version_that_is_no_key_or_another_one_is_refused_and_not_repeated(
    google: Google, name: str, source: KeySource, content: bytes, reason: str
) -> None:
    await source.add(KEY, NOTHING)
    google.put(name, content)
    error = await refusal(google, source.read())
    assert error.reason == reason
    assert "version 2" in error.sentence


@pytest.mark.parametrize("content", [b"k" * 32, our_payload(KEY)])
async def test_a_payload_that_does_not_arrive_as_written_is_refused(
    google: Google, name: str, source: KeySource, content: bytes
) -> None:
    google.put(name, content)
    google.corrupt.add(1)
    try:
        assert (await refusal(google, source.read())).reason == "key_wrong"
    finally:
        google.corrupt.clear()
    assert (await source.read()).keys == (KEY,)


# — whose it is —


async def test_of_two_that_take_over_from_the_same_one_wins(google: Google, source: KeySource) -> None:
    former, ours, theirs = uuid4(), uuid4(), uuid4()
    await source.claim(former, NOTHING)
    seen = await source.read()
    await source.claim(ours, seen)
    for late in (theirs, former):
        with pytest.raises(SourceChanged):
            await source.claim(late, seen)
    assert (await source.read()).owner == ours


@pytest.mark.parametrize("method", ["CreateSecret", "UpdateSecret"])
async def test_a_claim_that_comes_between_our_look_and_our_write_wins(
    google: Google, name: str, source: KeySource, method: str
) -> None:
    theirs = uuid4()
    if method == "UpdateSecret":
        google.put(name, our_payload(KEY))
    left, calls = [theirs], len(google.calls)

    def rule(asked: str, request: Any) -> None:
        if asked == method and left:
            owner = str(left.pop())
            if method == "CreateSecret":
                google.put(name, our_payload(KEY))
            google.of(name).secret.annotations = {"company-agents-instance": owner}
            google.of(name).secret.etag = '"theirs"'

    with google.ruled(rule), pytest.raises(SourceChanged):
        await source.claim(uuid4(), NOTHING)
    # Written against what was looked at, and nothing newer.
    assert google.calls[calls:] == ["GetSecret", method, "GetSecret"]
    assert (await source.read()).owner == theirs


async def test_a_change_of_something_else_does_not_cost_the_claim_or_the_hint(
    google: Google, name: str, source: KeySource
) -> None:
    await source.add(KEY, NOTHING)
    left = [1, 1]

    def rule(method: str, request: Any) -> None:
        if method == "UpdateSecret" and left:
            left.pop()
            google.of(name).secret.etag = f'"{uuid4()}"'

    instance = uuid4()
    with google.ruled(rule):
        await source.claim(instance, NOTHING)
        left.append(1)
        await source.make_current(KEY.key_id, NOTHING)
    found = await source.read()
    assert (found.owner, found.current) == (instance, KEY)


async def test_a_claim_that_does_not_say_whose_is_refused(google: Google, name: str, source: KeySource) -> None:
    google.put(name, our_payload(KEY))
    google.of(name).secret.annotations = {"company-agents-instance": "nobody"}
    assert (await refusal(google, source.read())).reason == "key_source_mark"
    assert (await refusal(google, source.claim(uuid4(), NOTHING))).reason == "key_source_mark"


# — writes —


async def test_lost_replies_change_nothing(google: Google, name: str, source: KeySource) -> None:
    instance = uuid4()
    google.lose |= {"CreateSecret", "UpdateSecret", "AddSecretVersion", "DestroySecretVersion"}
    await source.claim(instance, NOTHING)
    await source.add(NEXT, NOTHING)
    await source.add(KEY, NOTHING)
    google.lose |= {"UpdateSecret"}
    await source.make_current(KEY.key_id, NOTHING)
    await source.destroy(NEXT.key_id, NOTHING)
    assert not google.lose
    found = await source.read()
    assert (found.owner, found.keys, found.current, found.kept) == (instance, (KEY,), KEY, frozenset({KEY.key_id}))
    assert set(payloads(google, name)) == {our_payload(KEY)}


async def test_a_region_has_secrets_of_its_own(google: Google) -> None:
    source = open_source(google.at(f"{PROJECT}/locations/europe-west3/secrets/{uuid4().hex}"))
    await source.claim(uuid4(), NOTHING)
    await source.add(KEY, NOTHING)
    await source.make_current(KEY.key_id, NOTHING)
    assert (await source.read()).current == KEY
    # Without an endpoint of ours it would be asked where its region is.
    settings = google.at("projects/p/locations/europe-west3/secrets/s", key_endpoint=None)
    assert vars(open_source(settings))["_host"] == "secretmanager.europe-west3.rep.googleapis.com"


async def test_what_is_missing_for_writing_is_named_before_anything_is_written(
    google: Google, name: str, source: KeySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    await source.check_writable(NOTHING)
    await source.add(KEY, NOTHING)
    await source.check_writable(NOTHING)
    monkeypatch.setattr(google, "allowed", frozenset({"secretmanager.versions.add"}))
    calls = len(google.calls)
    error = await refusal(google, source.check_writable(NOTHING))
    assert isinstance(error, SourceReadOnly)
    assert "secretmanager.secrets.update" in error.hint
    assert not gcp.WRITES & {*google.calls[calls:]}


async def test_a_source_that_may_only_be_read_says_so(google: Google, name: str, source: KeySource) -> None:
    await source.add(KEY, NOTHING)
    with google.ruled(lambda method, request: Code.PERMISSION_DENIED if method in gcp.WRITES else None):
        seen = await source.read()
        assert seen.keys == (KEY,)
        for write in (
            source.add(NEXT, seen),
            source.claim(uuid4(), seen),
            source.make_current(KEY.key_id, seen),
            source.destroy(KEY.key_id, seen),
            open_source(google.settings()).add(KEY, NOTHING),
        ):
            assert isinstance(await refusal(google, write), SourceReadOnly)
