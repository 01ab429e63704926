"""
The key source `gcp-secretmanager`, where it is out of reach or refuses: failures, credentials, tokens, addresses, logs.
"""

from __future__ import annotations

import base64
import json
import logging
import socket
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import CompanyAgentsError
from company_agents.keysources.base import KeySource, open_source
from company_agents.keysources.failures import SourceUnavailable
from company_agents.keysources.found import Found
from company_agents.keysources.text import key_text
from company_agents.sensitive import Sensitive
from tests.keysources.servers import gcp
from tests.keysources.servers.gcp import PROJECT, Code, Google
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


def our_payload(key: MasterKey) -> bytes:
    return f"{key.key_id}:{key_text(key).reveal_text()}".encode()


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


async def test_no_key_is_logged_even_where_the_library_is_told_to(google: Google, name: str) -> None:
    scope, records = logging.getLogger("google.cloud.secretmanager_v1"), list[dict[str, Any]]()
    handler = logging.Handler()
    handler.emit = lambda record: records.append(vars(record))  # type: ignore[method-assign]
    scope.addHandler(handler)
    # What GOOGLE_SDK_PYTHON_LOGGING_SCOPE does.
    scope.setLevel(logging.DEBUG)
    try:
        source = open_source(google.at(name))
        await source.add(KEY, NOTHING)
        await source.read()
    finally:
        scope.setLevel(logging.NOTSET)
        scope.removeHandler(handler)
    # The library makes base64 of a payload.
    secrets = [our_payload(KEY).decode(), base64.b64encode(our_payload(KEY)).decode(), "Bearer", *google.secrets]
    assert records
    assert [secret for secret in secrets if secret in str(records)] == []


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
