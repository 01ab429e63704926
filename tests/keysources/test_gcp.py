"""
The key source `gcp-secretmanager`, against a server of Google's own messages: versions, etags, checksums, tokens.
"""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import CompanyAgentsError
from company_agents.keysources.base import KeySource, open_source
from company_agents.keysources.failures import SourceChanged, SourceReadOnly, SourceUnavailable
from company_agents.keysources.found import Found
from company_agents.keysources.gcp import _crc32c
from company_agents.keysources.text import key_text
from company_agents.logs import Redactor, start_logging
from company_agents.sensitive import Sensitive
from tests.keysources.servers import gcp
from tests.keysources.servers.gcp import PROJECT, Code, Google, State
from tests.outgoing.servers import Recorded, reply, serve

KEY = MasterKey(Sensitive(b"k" * 32))
NEXT = MasterKey(Sensitive(b"n" * 32))
NOTHING = Found((), None)
TOKEN = "made-up-token-of-the-tests"
SUBJECT = "made-up-subject-token-of-the-tests"


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
    for secret in (*google.secrets, TOKEN, SUBJECT, key_text(KEY).reveal_text(), key_text(NEXT).reveal_text()):
        assert secret not in text
    assert caught.value.hint
    return caught.value


def payloads(google: Google, name: str) -> list[bytes]:
    return [*google.of(name).data.values()]


def our_payload(key: MasterKey) -> bytes:
    return f"{key.key_id}:{key_text(key).reveal_text()}".encode()


# — versions —


async def test_each_key_has_a_version_whose_payload_names_it(google: Google, name: str, source: KeySource) -> None:
    await source.add(KEY, NOTHING)
    await source.add(NEXT, NOTHING)
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
    assert "delays the destruction" in source.after_destroy
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
    left = [theirs]

    def rule(asked: str, request: Any) -> None:
        if asked == method and left:
            owner = str(left.pop())
            if method == "CreateSecret":
                google.put(name, our_payload(KEY))
            google.of(name).secret.annotations = {"company-agents-instance": owner}
            google.of(name).secret.etag = '"theirs"'

    with google.ruled(rule), pytest.raises(SourceChanged):
        await source.claim(uuid4(), NOTHING)
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


# — failures —


@pytest.mark.parametrize(
    ("code", "reason", "calls"),
    [
        (Code.UNAUTHENTICATED, "key_source_forbidden", 1),
        (Code.PERMISSION_DENIED, "key_source_forbidden", 1),
        (Code.RESOURCE_EXHAUSTED, "key_source_throttled", 3),
        (Code.UNAVAILABLE, "key_source_unavailable", 3),
        (Code.INTERNAL, "key_source_error", 3),
        (Code.UNKNOWN, "key_source_error", 1),
        (Code.DEADLINE_EXCEEDED, "key_source_timeout", 1),
        (Code.FAILED_PRECONDITION, "key_source_refused_call", 1),
        (Code.INVALID_ARGUMENT, "key_source_refused_call", 1),
    ],
)
async def test_what_google_refuses_is_said_in_our_words(
    google: Google, source: KeySource, code: Any, reason: str, calls: int
) -> None:
    before = len(google.calls)
    with google.ruled(lambda method, request: code):
        assert (await refusal(google, source.read())).reason == reason
    assert google.calls[before:] == ["GetSecret"] * calls


async def test_a_moment_of_throttling_is_waited_for(google: Google, source: KeySource) -> None:
    left = [1, 1]
    with google.ruled(lambda method, request: Code.RESOURCE_EXHAUSTED if left and left.pop() else None):
        assert await source.read() == NOTHING
    assert not left


async def test_a_project_that_is_not_there_is_not_found(google: Google, source: KeySource) -> None:
    with google.ruled(lambda method, request: Code.NOT_FOUND):
        assert await source.read() == NOTHING
        assert (await refusal(google, source.add(KEY, NOTHING))).reason == "key_source_not_found"


async def test_silence_ends_with_the_time_that_is_set(google: Google, name: str) -> None:
    source = open_source(google.at(name, key_timeout=0.5))
    google.silent.add("GetSecret")
    try:
        assert (await refusal(google, source.read())).reason == "key_source_timeout"
    finally:
        google.silent.clear()
        google.answering.set()
    assert await open_source(google.at(name)).read() == NOTHING


async def test_a_server_of_another_authority_is_not_trusted_and_gets_nothing(google: Google, name: str) -> None:
    calls = len(google.calls)
    assert (await refusal(google, open_source(google.at(name, key_ca_file=None)).read())).reason == "key_source_tls"
    missing = google.at(name, key_ca_file=google.folder / "none.pem")
    assert (await refusal(google, open_source(missing).read())).reason == "key_source_ca"
    assert len(google.calls) == calls


async def test_a_host_that_has_no_name_is_said(google: Google, name: str) -> None:
    source = open_source(google.at(name, key_endpoint="secrets.invalid"))
    assert (await refusal(google, source.read())).reason == "key_source_name"


async def test_a_source_is_reached_again_after_it_was_out_of_reach(google: Google, name: str) -> None:
    settings, _ = google.unreachable()
    source = open_source(settings)
    with pytest.raises(SourceUnavailable):
        await source.read()
    assert settings.key_endpoint
    port = int(settings.key_endpoint.partition(":")[2])
    with google.serving(port):
        assert await source.read() == NOTHING


# — credentials —


async def test_missing_broken_and_wrong_credentials_are_told_apart(
    google: Google, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = google.at(name)
    stranger = Google(tmp_path)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(stranger.credentials()))
    assert (await refusal(google, open_source(settings).read())).reason == "key_source_forbidden"
    for text in (
        "no json",
        '{"type": "service_account"}',
        f'{{"type": "service_account", "private_key": "{SUBJECT}"}}',
    ):
        (tmp_path / "broken.json").write_text(text)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "broken.json"))
        assert (await refusal(google, open_source(settings).read())).reason == "key_source_credentials"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    assert (await refusal(google, open_source(settings).read())).reason == "key_source_credentials"
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    monkeypatch.setattr("google.auth.compute_engine._metadata._NO_GCE_CHECK", False)
    monkeypatch.setattr("google.auth.compute_engine._metadata.is_on_gce", lambda *given, **named: False)
    assert (await refusal(google, open_source(settings).read())).reason == "key_source_credentials"


def federated(tmp_path: Path, url: str) -> str:
    """The credentials of a workload whose tokens another service gives."""
    (tmp_path / "subject").write_text(SUBJECT)
    path = tmp_path / "federated.json"
    path.write_text(
        json.dumps(
            {
                "type": "external_account",
                "audience": "//iam.googleapis.com/projects/4711/locations/global/workloadIdentityPools/p/providers/q",
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "token_url": url,
                "credential_source": {"file": str(tmp_path / "subject")},
            }
        )
    )
    return str(path)


async def test_a_workload_that_gets_its_tokens_elsewhere_is_known(
    google: Google, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = {"access_token": TOKEN, "issued_token_type": "-", "token_type": "Bearer", "expires_in": 3600}
    async with serve(reply(json.dumps(token).encode())) as tokens:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", federated(tmp_path, tokens.url))
        source = open_source(google.at(name))
        assert (await refusal(google, source.read())).reason == "key_source_forbidden"
        monkeypatch.setattr(google, "tokens", {TOKEN})
        assert await source.read() == NOTHING
        assert len(tokens.requests) == 1
        assert SUBJECT in tokens.requests[0].body.decode()


async def test_a_token_service_that_refuses_fails_or_is_not_there_is_said_without_what_it_quotes(
    google: Google, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    status = "400 Bad Request"

    def quoting(request: Recorded) -> bytes:
        return reply(json.dumps({"error": "invalid", "error_description": request.body.decode()}).encode(), status)

    calls = len(google.calls)
    async with serve(quoting) as tokens:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", federated(tmp_path, tokens.url))
        assert (await refusal(google, open_source(google.at(name)).read())).reason == "key_source_forbidden"
        assert SUBJECT in tokens.requests[0].body.decode()
    away = open_source(google.at(name))
    error = await refusal(google, away.read())
    assert error.reason == "key_source_refused"
    assert "tokens" in error.sentence
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", federated(tmp_path, url))
        waiting = open_source(google.at(name, key_timeout=0.5))
        assert (await refusal(google, waiting.read())).reason == "key_source_timeout"
    assert len(google.calls) == calls


# — addresses, logs —


@pytest.mark.parametrize(
    "address", ["projects/p", "projects/p/secrets/s/versions/1", "projects/p/secrets/a b", "secrets/s", "p/s"]
)
def test_a_malformed_address_is_refused_and_not_repeated(google: Google, address: str) -> None:
    with pytest.raises(CompanyAgentsError) as caught:
        open_source(google.at(address))
    assert caught.value.reason == "key_address"
    assert address not in f"{caught.value.sentence} {caught.value.hint}"


@pytest.mark.parametrize("endpoint", ["http://host", "host/path", "user@host", ""])
def test_an_endpoint_is_a_host_and_never_without_tls(google: Google, name: str, endpoint: str) -> None:
    settings = google.at(name, key_endpoint=endpoint or "https://")
    with pytest.raises(CompanyAgentsError) as caught:
        open_source(settings)
    assert caught.value.reason == "key_address"
    url = google.at(name, key_endpoint=f"https://127.0.0.1:{google.port}/")
    assert vars(open_source(url))["_host"] == f"127.0.0.1:{google.port}"


async def test_no_key_is_logged_even_where_the_library_is_told_to(google: Google, name: str, tmp_path: Path) -> None:
    root, scope = logging.getLogger(), logging.getLogger("google.cloud.secretmanager_v1")
    handlers, level = root.handlers[:], root.level
    try:
        start_logging(Redactor(), folder=tmp_path, level="debug")
        # What GOOGLE_SDK_PYTHON_LOGGING_SCOPE does.
        scope.setLevel(logging.DEBUG)
        source = open_source(google.at(name))
        await source.add(KEY, NOTHING)
        await source.read()
        logging.getLogger("company_agents").debug("and this is there")
    finally:
        scope.setLevel(logging.NOTSET)
        root.handlers[:] = handlers
        root.setLevel(level)
    log = (tmp_path / "orchestrator.log").read_text()
    assert "and this is there" in log
    for secret in (key_text(KEY).reveal_text(), "Bearer", *google.secrets):
        assert secret not in log


def test_a_failed_handshake_writes_nothing_of_its_own_to_stderr(google: Google) -> None:
    program = (
        "import asyncio\n"
        "from company_agents.keysources.base import open_source\n"
        "from company_agents.settings import read_settings\n"
        "try:\n    asyncio.run(open_source(read_settings()).read())\n"
        "except Exception as error:\n    print(error.reason)\n"
    )
    own = {
        "PATH": "",
        "HOME": str(google.folder),
        "GOOGLE_APPLICATION_CREDENTIALS": str(google.credentials()),
        "MASTER_KEY_SOURCE": "gcp-secretmanager://projects/p/secrets/s",
        "COMPANY_AGENTS_KEY_SOURCE_ENDPOINT": f"127.0.0.1:{google.port}",
    }
    done = subprocess.run([sys.executable, "-c", program], env=own, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("key_source_tls\n", "")
