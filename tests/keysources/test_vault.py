"""
The key source `vault` against a real OpenBao: its document, its ways in, and everything that can go wrong between.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import CompanyAgentsError, MayNotStart
from company_agents.keysources.base import open_source
from company_agents.keysources.failures import SourceChanged, SourceReadOnly, SourceUnavailable
from company_agents.keysources.found import Found
from company_agents.keysources.vault import VaultSource
from company_agents.settings import Settings
from tests.keysources.place import free_port
from tests.keysources.servers.openbao import ROOT_TOKEN, Bao, address, keys_in, openbao
from tests.outgoing.servers import Recorded, Server, authority, reply, serve

E = TypeVar("E", bound=CompanyAgentsError)
KEY, OTHER = MasterKey.generate(), MasterKey.generate()
JSON = {"content_type": "application/json"}
GONE = b""


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    with openbao(tmp_path_factory.mktemp("bao")) as bao:
        yield bao


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


def opened(settings: Settings) -> VaultSource:
    source = open_source(settings)
    assert isinstance(source, VaultSource)
    return source


async def add(source: VaultSource, *keys: MasterKey) -> Found:
    for key in keys:
        await source.add(key, await source.read())
    return await source.read()


def text(key: MasterKey) -> str:
    return base64.b64encode(key.secret.reveal()).decode()


async def refusal(work: Callable[[], Awaitable[object]], kind: type[E], *secrets: str) -> E:
    """The error, which says what to do, and nothing that is secret."""
    with pytest.raises(kind) as caught:
        await work()
    error = caught.value
    seen = f"{error.sentence} {error.hint} {''.join(traceback.format_exception(error))}"
    assert error.hint
    assert [word for word in (ROOT_TOKEN, text(KEY), text(OTHER), *secrets) if word in seen] == []
    return error


# — the document —


@pytest.mark.parametrize(
    "form",
    [
        lambda raw: base64.b64encode(raw).decode(),
        lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("="),
        lambda raw: raw.hex(),
        lambda raw: raw.hex().upper() + "\n",
    ],
    ids=["base64", "base64url", "hex", "HEX and a line end"],
)
async def test_a_key_put_there_by_hand_may_have_any_text_form(bao: Bao, form: Callable[[bytes], str]) -> None:
    settings = bao.settings()
    bao.put(settings, {"key": form(KEY.secret.reveal())})
    assert (await opened(settings).read()).current == KEY


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"key": "a-password-by-mistake"}, "key_length"),
        ({"key": ""}, "key_length"),
        ({"key": None}, "key_length"),
        ({"key": {"value": text(KEY)}}, "key_length"),
        ({"key": 7}, "key_length"),
        ({KEY.key_id: text(OTHER)}, "key_wrong"),
        ({KEY.key_id: "a-password-by-mistake"}, "key_length"),
        ({KEY.key_id: [text(KEY)]}, "key_length"),
        ({"key": text(KEY), "instance": "a-password-by-mistake"}, "key_source_mark"),
        ({"instance": None}, "key_source_mark"),
    ],
)
async def test_a_document_that_holds_something_else_is_refused_and_left_as_it_is(
    bao: Bao, fields: dict[str, Any], reason: str
) -> None:
    settings = bao.settings()
    bao.put(settings, fields)
    source = opened(settings)
    assert (await refusal(source.read, MayNotStart, "a-password")).reason == reason
    seen = Found((), None, version=1)
    error = await refusal(lambda: source.add(KEY, seen), MayNotStart, "a-password")
    assert error.reason == reason
    assert bao.versions(settings) == [fields]


async def test_fields_of_others_stay_as_they_are(bao: Bao) -> None:
    others = {"note": "about this", "nested": {"a": [1, None, {"b": "ü"}]}, "KEY": "no key", "0123": 1.5}
    settings = bao.settings()
    bao.put(settings, others)
    source, instance = opened(settings), uuid.uuid4()
    await source.claim(instance, await source.read())
    await add(source, KEY, OTHER)
    await source.make_current(KEY.key_id, await source.read())
    await source.destroy(OTHER.key_id, await source.read())
    assert bao.versions(settings)[-1] == {
        **others,
        "instance": str(instance),
        "key": text(KEY),
        KEY.key_id: text(KEY),
    }


async def test_a_key_that_was_kept_by_hand_is_not_written_anew(bao: Bao) -> None:
    settings = bao.settings()
    bao.put(settings, {KEY.key_id: KEY.secret.reveal().hex()})
    assert (await add(opened(settings), KEY)).kept == {KEY.key_id}
    assert bao.versions(settings) == [{KEY.key_id: KEY.secret.reveal().hex()}]


async def test_a_new_current_key_is_refused_while_the_hint_is_the_only_copy_of_another(bao: Bao) -> None:
    settings = bao.settings()
    bao.put(settings, {"key": text(KEY), OTHER.key_id: text(OTHER)})
    source = opened(settings)
    seen = await source.read()
    assert (await refusal(lambda: source.make_current(OTHER.key_id, seen), MayNotStart)).reason == "key_not_kept"
    assert (await refusal(lambda: source.make_current(KEY.key_id, seen), MayNotStart)).reason == "key_missing"
    assert len(bao.versions(settings)) == 1


@pytest.mark.parametrize("how", ["delete", "destroy"])
async def test_a_document_that_was_deleted_is_empty_and_is_written_anew(bao: Bao, how: str) -> None:
    settings = bao.settings()
    source = opened(settings)
    await add(source, OTHER)
    bao.call("POST", address(settings).replace("/data/", f"/{how}/", 1), versions=[1])
    seen = await source.read()
    assert (seen.keys, seen.current, seen.version) == ((), None, 1)
    await refusal(lambda: source.add(KEY, Found((), None)), SourceChanged)
    await source.add(KEY, seen)
    assert (await source.read()).keys == (KEY,)


# — destroying —


async def test_every_version_that_held_a_destroyed_key_is_destroyed_and_no_other(bao: Bao) -> None:
    settings = bao.settings()
    source = opened(settings)
    bao.put(settings, {"before": "1"})
    await add(source, OTHER)
    await add(source, KEY)
    await source.make_current(KEY.key_id, await source.read())
    await source.claim(uuid.uuid4(), await source.read())
    await source.make_current(OTHER.key_id, await source.read())
    await source.destroy(KEY.key_id, await source.read())
    versions = bao.versions(settings)
    assert [set(fields) & {"before", KEY.key_id, "key"} for fields in versions] == [
        {"before"},
        {"before"},
        {"before", "key"},
    ]
    assert KEY.secret not in [found for fields in versions for found in keys_in(fields)]


async def test_a_destroyed_key_is_gone_as_the_hint_too(bao: Bao) -> None:
    settings = bao.settings()
    bao.put(settings, {"key": KEY.secret.reveal().hex(), KEY.key_id: text(KEY), "note": "1"})
    source = opened(settings)
    await source.destroy(KEY.key_id, await source.read())
    assert bao.versions(settings) == [{"note": "1"}]


async def test_a_destroy_that_was_killed_halfway_is_finished_by_the_next(bao: Bao) -> None:
    settings = bao.settings()
    source = opened(settings)
    await add(source, KEY, OTHER)
    bao.put(settings, {OTHER.key_id: text(OTHER)})  # all that the killed one did
    await source.destroy(KEY.key_id, await source.read())
    assert [sorted(fields) for fields in bao.versions(settings)] == [[OTHER.key_id]]


async def test_a_deleted_version_is_destroyed_too_because_it_could_be_brought_back(bao: Bao) -> None:
    settings = bao.settings()
    source = opened(settings)
    await add(source, KEY)
    bao.call("POST", address(settings).replace("/data/", "/delete/", 1), versions=[1])
    await add(source, OTHER)
    await source.destroy(KEY.key_id, await source.read())
    assert bao.versions(settings) == [{OTHER.key_id: text(OTHER)}]


async def test_a_document_that_keeps_few_versions_is_searched_to_its_end(bao: Bao) -> None:
    settings = bao.settings()
    source = opened(settings)
    bao.call("POST", address(settings).replace("/data/", "/metadata/", 1), max_versions=3)
    await add(source, KEY)
    for _ in range(5):
        await source.claim(uuid.uuid4(), await source.read())
    await source.destroy(KEY.key_id, await source.read())
    assert [sorted(fields) for fields in bao.versions(settings)] == [["instance"]]


# — what this machine may do —


async def test_no_more_rights_are_needed_than_the_two_paths(bao: Bao) -> None:
    settings = bao.settings()
    data = address(settings)
    token = bao.policy(
        f'path "{data}" {{ capabilities = ["read", "create", "update"] }}'
        f'path "{data.replace("/data/", "/destroy/", 1)}" {{ capabilities = ["update"] }}'
    )
    source = opened(settings.model_copy(update={"vault_token": SecretStr(token)}))
    await source.check_writable(await source.read())
    await source.claim(uuid.uuid4(), await source.read())
    await add(source, KEY, OTHER)
    await source.check_writable(await source.read())
    await source.make_current(OTHER.key_id, await source.read())
    await source.destroy(KEY.key_id, await source.read())
    assert KEY.secret not in [found for fields in bao.versions(settings) for found in keys_in(fields)]


@pytest.mark.parametrize(
    ("data", "destroy"),
    [
        (["read"], []),
        (["read"], ["update"]),
        (["read", "update"], []),
        (["read", "create"], ["update"]),
    ],
)
async def test_what_may_not_be_written_in_full_is_found_out_before_anything_is(
    bao: Bao, data: list[str], destroy: list[str]
) -> None:
    settings = bao.settings()
    bao.put(settings, {"key": text(KEY)})
    path = address(settings)
    rules = f'path "{path}" {{ capabilities = {json.dumps(data)} }}'
    if destroy:
        rules += f'path "{path.replace("/data/", "/destroy/", 1)}" {{ capabilities = {json.dumps(destroy)} }}'
    source = opened(settings.model_copy(update={"vault_token": SecretStr(bao.policy(rules))}))
    seen = await source.read()
    assert seen.current == KEY
    await refusal(lambda: source.check_writable(seen), SourceReadOnly)


async def test_a_document_that_is_not_there_yet_takes_the_right_to_make_it(bao: Bao) -> None:
    settings = bao.settings()
    path = address(settings)
    rules = f'path "{path}" {{ capabilities = ["read", "update"] }}'
    rules += f'path "{path.replace("/data/", "/destroy/", 1)}" {{ capabilities = ["update"] }}'
    source = opened(settings.model_copy(update={"vault_token": SecretStr(bao.policy(rules))}))
    seen = await source.read()
    await refusal(lambda: source.check_writable(seen), SourceReadOnly)
    bao.put(settings, {"key": text(KEY)})
    await source.check_writable(await source.read())


async def test_a_token_that_may_not_ask_what_it_may_do_is_not_said_to_be_read_only(bao: Bao) -> None:
    settings = bao.settings()
    bao.put(settings, {"key": text(KEY)})
    token = bao.policy(
        f'path "{address(settings)}" {{ capabilities = ["read", "create", "update"] }}', no_default_policy=True
    )
    source = opened(settings.model_copy(update={"vault_token": SecretStr(token)}))
    seen = await source.read()
    assert (await refusal(lambda: source.check_writable(seen), MayNotStart, token)).reason == "key_source_forbidden"


async def test_what_may_only_be_read_is_not_written(bao: Bao) -> None:
    settings = bao.settings()
    bao.put(settings, {"key": text(KEY), OTHER.key_id: text(OTHER), KEY.key_id: text(KEY)})
    token = bao.policy(f'path "{address(settings)}" {{ capabilities = ["read"] }}')
    source = opened(settings.model_copy(update={"vault_token": SecretStr(token)}))
    seen = await source.read()
    for write in (
        lambda: source.claim(uuid.uuid4(), seen),
        lambda: source.add(MasterKey.generate(), seen),
        lambda: source.make_current(OTHER.key_id, seen),
        lambda: source.destroy(OTHER.key_id, seen),
    ):
        await refusal(write, SourceReadOnly, token)
    assert len(bao.versions(settings)) == 1


async def test_a_document_that_is_another_ones_is_refused(bao: Bao) -> None:
    token = bao.policy('path "kv/data/elsewhere" { capabilities = ["read"] }')
    source = opened(bao.settings(vault_token=SecretStr(token)))
    error = await refusal(source.read, MayNotStart, token)
    assert (error.reason, error.exit_status) == ("key_source_forbidden", 78)


# — where it is —


@pytest.mark.parametrize(
    "rest",
    [
        "kv",
        "kv/data",
        "kv/data/",
        "data/x",
        "/data/x",
        "kv//data/x",
        "kv/data//x",
        "kv/data/../../sys/seal",
        "kv/data/./x",
        "../data/x",
        "kv/secret/x",
        "kv/data/x?version=1",
        "kv/data/x#y",
        "kv/data/x%2f..",
        "a-password@host/kv/data/x",
        "host:8200/kv/data/x",
        "kv/data/x\n",
        "kv/data/a b",
    ],
)
def test_a_malformed_address_is_refused_and_not_repeated(bao: Bao, rest: str) -> None:
    with pytest.raises(MayNotStart) as caught:
        open_source(bao.settings().model_copy(update={"master_key_source": SecretStr(f"vault://{rest}")}))
    assert caught.value.reason == "key_address"
    assert "vault://<mount>/data/<path>" in caught.value.hint
    assert rest not in caught.value.sentence.removeprefix("the address of the key source vault is malformed")


@pytest.mark.parametrize(
    "url", [None, "127.0.0.1:8200", "ftp://host", "https://", "https://user:a-password@host:8200", "https://[::1"]
)
def test_an_address_of_vault_that_is_none_is_refused_and_not_repeated(bao: Bao, url: str | None) -> None:
    with pytest.raises(MayNotStart) as caught:
        open_source(bao.settings(vault_addr=url))
    assert caught.value.reason == "key_address"
    assert "VAULT_ADDR" in caught.value.sentence
    assert "password" not in caught.value.sentence + caught.value.hint


async def test_a_mount_may_have_slashes_and_so_may_a_path_with_data_in_it(bao: Bao) -> None:
    bao.call("POST", "sys/mounts/teams/one/kv", type="kv", options={"version": "2"})
    source = opened(bao.settings("a/data/b", mount="teams/one/kv"))
    assert source.address == "vault://teams/one/kv/data/a/data/b"
    assert (await add(source, KEY)).keys == (KEY,)
    assert bao.call("GET", "teams/one/kv/data/a/data/b")["data"]["data"] == {KEY.key_id: text(KEY)}


async def test_an_engine_of_version_1_is_named_whether_something_is_there_or_not(bao: Bao) -> None:
    bao.call("POST", "sys/mounts/old", type="kv", options={"version": "1"})
    settings = bao.settings("master-key", mount="old")
    assert (await refusal(opened(settings).read, MayNotStart)).reason == "key_source_version"
    bao.put(settings, {"key": text(KEY)})
    error = await refusal(opened(settings).read, MayNotStart)
    assert error.reason == "key_source_version"
    assert "version 2" in error.sentence


@pytest.mark.parametrize("given", [{"mount": "nowhere"}, {"vault_namespace": "nowhere"}])
async def test_a_mount_or_a_namespace_that_is_not_there_is_no_empty_document(bao: Bao, given: dict[str, Any]) -> None:
    source = opened(bao.settings(**given))
    error = await refusal(source.read, MayNotStart)
    assert (error.reason, error.exit_status) == ("key_source_not_found", 78)


async def test_a_namespace_has_documents_of_its_own(bao: Bao) -> None:
    bao.call("POST", "sys/namespaces/team")
    bao.call("POST", "sys/mounts/kv", namespace="team", type="kv", options={"version": "2"})
    outside = bao.settings()
    inside = opened(outside.model_copy(update={"vault_namespace": "team"}))
    await add(inside, KEY)
    assert (await inside.read()).keys == (KEY,)
    assert (await opened(outside).read()).keys == ()


# — ways in —


async def test_without_credentials_it_is_said_which_there_are(bao: Bao) -> None:
    halves: list[dict[str, Any]] = [{"vault_role_id": "role"}, {"vault_secret_id": SecretStr("made-up-secret-id")}]
    for given in ({}, *halves):
        source = opened(bao.settings(**{"vault_token": None, **given}))
        error = await refusal(source.read, MayNotStart, "made-up-secret-id")
        assert error.reason == "key_source_credentials"
        assert "VAULT_TOKEN" in error.hint


async def test_a_token_that_is_none_is_refused_and_not_shown(bao: Bao) -> None:
    source = opened(bao.settings(vault_token=SecretStr("made-up-wrong-token")))
    assert (await refusal(source.read, MayNotStart, "made-up-wrong-token")).reason == "key_source_forbidden"


@pytest.mark.parametrize("token", ["made-up\ntoken", "made-up-tökèn", "made-up-token\x00", "made-up-token\u2028more"])
async def test_a_token_that_cannot_be_sent_is_refused_before_a_library_quotes_it(bao: Bao, token: str) -> None:
    with pytest.raises(MayNotStart) as caught:
        opened(bao.settings(vault_token=SecretStr(token)))
    assert caught.value.reason == "key_source_credentials"
    assert "made-up" not in "".join(traceback.format_exception(caught.value)) + caught.value.hint


async def test_a_line_end_after_a_token_does_not_count(bao: Bao) -> None:
    source = opened(bao.settings(vault_token=SecretStr(f" {ROOT_TOKEN}\n")))
    assert (await source.read()).keys == ()


def approle(bao: Bao, mount: str, settings: Settings) -> dict[str, Any]:
    """An AppRole for a document: what the settings say of it."""
    bao.call("POST", f"sys/auth/{mount}", type="approle")
    bao.call("POST", f"sys/policies/acl/{mount}", policy=f'path "{address(settings)}" {{ capabilities = ["read"] }}')
    bao.call("POST", f"auth/{mount}/role/orchestrator", token_policies=[mount], token_ttl="1h")
    return {
        "vault_token": None,
        "vault_role_id": bao.call("GET", f"auth/{mount}/role/orchestrator/role-id")["data"]["role_id"],
        "vault_secret_id": SecretStr(
            bao.call("POST", f"auth/{mount}/role/orchestrator/secret-id")["data"]["secret_id"]
        ),
        "vault_auth_mount": mount,
    }


async def test_an_approle_logs_in_once_and_again_when_its_token_has_ended(bao: Bao, monkeypatch: Any) -> None:
    settings = bao.settings()
    bao.put(settings, {"key": text(KEY)})
    role = approle(bao, "approle", settings)
    monkeypatch.setenv("VAULT_TOKEN", ROOT_TOKEN)  # the client library would take it
    async with between(bao) as proxy:
        source = opened(settings.model_copy(update={**role, "vault_auth_mount": None, "vault_addr": proxy.url}))
        for _ in range(2):
            assert (await source.read()).current == KEY
        assert [request.path for request in proxy.requests].count("/v1/auth/approle/login") == 1
        assert ROOT_TOKEN not in [request.headers.get("x-vault-token") for request in proxy.requests]
        bao.call("POST", "auth/token/revoke-self", token=proxy.requests[-1].headers["x-vault-token"])
        assert (await source.read()).current == KEY
        assert [request.path for request in proxy.requests].count("/v1/auth/approle/login") == 2


async def test_a_login_is_not_repeated_for_what_the_role_may_not_do(bao: Bao) -> None:
    settings = bao.settings()
    bao.put(settings, {"key": text(KEY)})
    role = approle(bao, "elsewhere/roles", settings)
    async with between(bao) as proxy:
        source = opened(settings.model_copy(update={**role, "vault_addr": proxy.url}))
        seen = await source.read()
        await refusal(lambda: source.add(OTHER, seen), SourceReadOnly, role["vault_secret_id"].get_secret_value())
        paths = [request.path for request in proxy.requests]
        assert paths.count("/v1/auth/elsewhere/roles/login") == 2
        assert paths.count(f"/v1/{address(settings)}") == 4


async def test_a_login_that_is_refused_shows_no_secret(bao: Bao) -> None:
    settings = bao.settings()
    role = approle(bao, "refusing", settings)
    wrong = {**role, "vault_secret_id": SecretStr("made-up-wrong-secret-id")}
    source = opened(settings.model_copy(update=wrong))
    error = await refusal(source.read, MayNotStart, "made-up-wrong-secret-id")
    assert error.reason == "key_source_forbidden"
    source = opened(settings.model_copy(update={**role, "vault_auth_mount": "nowhere"}))
    error = await refusal(source.read, MayNotStart, role["vault_secret_id"].get_secret_value())
    assert error.reason == "key_source_forbidden"


def service_account_token(number: int) -> str:
    """As a cluster writes it; its signature is looked at by the cluster, and ours takes any."""
    account = {"name": "orchestrator", "uid": "uid-1"}
    now = int(time.time())
    claims = {
        "iss": "kubernetes",
        "sub": "system:serviceaccount:agents:orchestrator",
        "jti": str(number),
        "iat": now,
        "nbf": now,
        "exp": now + 3600,
        "kubernetes.io": {"namespace": "agents", "serviceaccount": account},
    }
    parts = [json.dumps({"alg": "ES256", "typ": "JWT"}).encode(), json.dumps(claims).encode(), b"s" * 64]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


async def test_a_pod_logs_in_with_the_token_that_its_file_holds_at_that_time(bao: Bao, tmp_path: Path) -> None:
    settings = bao.settings()
    await asyncio.to_thread(bao.put, settings, {"key": text(KEY)})
    user = {"username": "system:serviceaccount:agents:orchestrator", "uid": "uid-1", "groups": []}
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "status": {"authenticated": True, "user": user, "audiences": ["vault"]},
    }
    tls, token = authority(tmp_path, "127.0.0.1"), tmp_path / "token"
    async with serve(reply(json.dumps(review).encode(), "201 Created", **JSON), tls.server) as cluster:
        rules = f'path "{address(settings)}" {{ capabilities = ["read"] }}'
        made: dict[str, dict[str, Any]] = {
            "sys/auth/kubernetes": {"type": "kubernetes"},
            "sys/policies/acl/pod": {"policy": rules},
            "auth/kubernetes/config": {
                "kubernetes_host": f"https://127.0.0.1:{cluster.port}",
                "kubernetes_ca_cert": tls.ca_file.read_text(),
                "token_reviewer_jwt": service_account_token(0),
                "disable_local_ca_jwt": True,
            },
            "auth/kubernetes/role/pods": {
                "bound_service_account_names": ["orchestrator"],
                "bound_service_account_namespaces": ["agents"],
                "token_policies": ["pod"],
                "token_num_uses": 1,
            },
        }
        for path, body in made.items():
            await asyncio.to_thread(bao.call, "POST", path, **body)
        source = opened(
            settings.model_copy(
                update={
                    "vault_token": None,
                    "vault_kubernetes_role": "pods",
                    "vault_kubernetes_token": token,
                }
            )
        )
        error = await refusal(source.read, MayNotStart)
        assert (error.reason, cluster.requests) == ("key_source_credentials", [])
        # Each token of a login is good for one call here, so that the second call logs in anew.
        for number in (1, 2):
            token.write_text(service_account_token(number) + "\n")
            assert (await source.read()).current == KEY
            assert service_account_token(number).encode() in cluster.requests[-1].body
        assert len(cluster.requests) == 2
        token.write_text("made-up-wrong-token")
        error = await refusal(source.read, MayNotStart, "made-up-wrong-token")
        assert error.reason in ("key_source_forbidden", "key_source_error")


# — TLS —


async def test_an_authority_of_ones_own_is_trusted_where_it_is_named_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Made by the server itself.
    ca, strange = tmp_path / "vault-ca.pem", authority(tmp_path, "127.0.0.1").ca_file
    with openbao(tmp_path, "-dev-tls", f"-dev-tls-cert-dir={tmp_path}", ca=ca) as bao:
        settings = bao.settings()
        source = opened(settings)
        assert (await add(source, KEY)).keys == (KEY,)
        by_the_other_name = settings.model_copy(update={"vault_cacert": None, "key_ca_file": ca})
        assert (await opened(by_the_other_name).read()).keys == (KEY,)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca))  # for other programs
        for update in (
            {"vault_cacert": None},
            {"vault_cacert": strange, "key_ca_file": ca},
            {"vault_cacert": tmp_path / "nowhere.pem"},
        ):
            away = opened(settings.model_copy(update=update))
            assert (await refusal(away.read, SourceUnavailable)).reason == "key_source_tls"


async def test_a_redirect_is_not_followed_and_no_token_goes_there(bao: Bao) -> None:
    settings = bao.settings()
    async with serve(b"") as elsewhere:
        away = reply(b"", "307 Temporary Redirect", location=f"{elsewhere.url}/v1/{address(settings)}")
        async with serve(away) as standby:
            source = opened(settings.model_copy(update={"vault_addr": standby.url}))
            error = await refusal(source.read, SourceUnavailable)
    assert "307, a redirect" in error.sentence
    assert elsewhere.connections == 0


# — what goes wrong on the way —


@asynccontextmanager
async def between(bao: Bao, meddle: Callable[[int, Recorded], bytes | None] | None = None) -> AsyncIterator[Server]:
    """
    A proxy before the server. `meddle` is told of each write by its number, from 1: what it returns is answered in the
    server's place, and an answer of nothing hangs up.
    """
    count = 0

    def answer(request: Recorded) -> bytes:
        nonlocal count
        if meddle is not None and request.line.startswith("POST"):
            count += 1
            answered = meddle(count, request)
            if answered is not None:
                return answered
        return forwarded(bao, request)

    async with serve(answer) as server:
        yield server


def forwarded(bao: Bao, request: Recorded) -> bytes:
    method, path, _ = request.line.split(" ")
    headers = {name: value for name, value in request.headers.items() if name.startswith("x-vault")}
    status, body = bao.raw(method, path, headers, request.body)
    return reply(body, f"{status} As It Is", **JSON)


async def test_a_write_whose_reply_was_lost_is_seen_to_be_there_and_not_done_again(bao: Bao) -> None:
    def lose(count: int, request: Recorded) -> bytes:
        forwarded(bao, request)
        return GONE

    settings = bao.settings()
    async with between(bao, lose) as proxy:
        source = opened(settings.model_copy(update={"vault_addr": proxy.url}))
        instance = uuid.uuid4()
        await source.claim(instance, await source.read())
        await add(source, KEY)
    found = await opened(settings).read()
    assert (found.owner, found.kept, found.version) == (instance, frozenset({KEY.key_id}), 2)


@pytest.mark.parametrize(
    "answered",
    [GONE, reply(b"{}", "429 Too Many Requests", **JSON), reply(b"", "502 Bad Gateway")],
    ids=["hung up", "throttled", "bad gateway"],
)
async def test_a_write_that_never_arrived_is_done_again(bao: Bao, answered: bytes) -> None:
    settings = bao.settings()
    async with between(bao, lambda count, request: answered if count < 3 else None) as proxy:
        source = opened(settings.model_copy(update={"vault_addr": proxy.url}))
        assert (await add(source, KEY)).version == 1


async def test_a_write_that_never_arrives_is_given_up(bao: Bao) -> None:
    settings = bao.settings()
    async with between(bao, lambda count, request: reply(b"{}", "500 Error", **JSON)) as proxy:
        source = opened(settings.model_copy(update={"vault_addr": proxy.url}))
        seen = await source.read()
        assert (await refusal(lambda: source.add(KEY, seen), SourceUnavailable)).reason == "key_source_error"
        assert len([request for request in proxy.requests if request.line.startswith("POST")]) == 3
    assert (await opened(settings).read()).version == 0


@pytest.mark.parametrize("lost", [False, True])
async def test_another_ones_write_in_between_wins_and_is_not_written_over(bao: Bao, lost: bool) -> None:
    settings = bao.settings()

    def another(count: int, request: Recorded) -> bytes | None:
        bao.put(settings, {OTHER.key_id: text(OTHER)})
        return GONE if lost else None

    async with between(bao, another) as proxy:
        source = opened(settings.model_copy(update={"vault_addr": proxy.url}))
        seen = await source.read()
        await refusal(lambda: source.add(KEY, seen), SourceChanged)
    assert bao.versions(settings) == [{OTHER.key_id: text(OTHER)}]


OVER_SOON = [
    (reply(b'{"errors":[]}', "429 Too Many Requests", **JSON), "key_source_throttled"),
    (reply(b'{"errors":["made-up-root-token"]}', "500 Internal Server Error", **JSON), "key_source_error"),
    (reply(b"<html>made-up-root-token", "502 Bad Gateway"), "key_source_error"),
    (reply(b"<html>slow down", "429 Too Many Requests"), "key_source_throttled"),
    (reply(b'{"errors":["standby"]}', "503 Service Unavailable", **JSON), "key_source_error"),
    (reply(b"<html>a portal that wants a password", content_type="text/html"), "key_source_error"),
    (reply(b"[1]", **JSON), "key_source_error"),
    (reply(b'{"data": null}', **JSON), "key_source_error"),
    (GONE, "key_source_refused"),
    (b"SSH-2.0-OpenSSH_9.2\r\n", "key_source_refused"),
]


async def test_what_may_be_over_in_a_moment_is_tried_three_times_and_then_named(bao: Bao) -> None:
    async def tried(answered: bytes, reason: str) -> None:
        async with serve(answered) as server:
            source = opened(bao.settings(vault_addr=server.url))
            assert (await refusal(source.read, SourceUnavailable)).reason == reason
            assert len(server.requests) == 3

    await asyncio.gather(*(tried(answered, reason) for answered, reason in OVER_SOON))


async def test_what_is_over_in_a_moment_is_not_noticed(bao: Bao) -> None:
    settings = bao.settings()
    bao.put(settings, {"key": text(KEY)})

    async def tried(answered: bytes) -> None:
        async with serve(lambda request: answered if len(server.requests) < 3 else forwarded(bao, request)) as server:
            source = opened(settings.model_copy(update={"vault_addr": server.url}))
            assert (await source.read()).current == KEY

    await asyncio.gather(*(tried(answered) for answered, _ in OVER_SOON))


async def test_a_vault_that_is_sealed_is_said_to_be_so(tmp_path: Path) -> None:
    with openbao(tmp_path) as bao:
        source = opened(bao.settings())
        seen = await add(source, KEY)
        bao.call("POST", "sys/seal")
        for work in (source.read, lambda: source.add(OTHER, seen), lambda: source.check_writable(seen)):
            error = await refusal(work, SourceUnavailable)
            assert (error.reason, error.exit_status) == ("key_source_sealed", 69)


@pytest.mark.parametrize("drip", [False, True])
async def test_a_server_that_does_not_come_to_an_answer_keeps_nobody_waiting(bao: Bao, drip: bool) -> None:
    over, hung_up, connections = asyncio.Event(), asyncio.Event(), 0

    async def dawdle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if drip:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
            while not over.is_set():
                writer.write(b" ")
                await asyncio.sleep(0.02)
        else:
            await reader.read()
            hung_up.set()
        writer.close()

    server = await asyncio.start_server(dawdle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with asyncio.timeout(8):
            source = opened(bao.settings(vault_addr=url, key_timeout=0.2))
            assert (await refusal(source.read, SourceUnavailable)).reason == "key_source_timeout"
            if not drip:
                await hung_up.wait()
    finally:
        over.set()
        server.close()
    assert connections == 1


async def test_the_words_of_an_address_are_not_taken_for_the_failure(bao: Bao) -> None:
    for path in ("DNS/TLS-certificate", "timeout/SSL"):
        source = opened(bao.settings(path, vault_addr=f"http://127.0.0.1:{free_port()}"))
        assert (await refusal(source.read, SourceUnavailable)).reason == "key_source_refused"


async def test_a_name_that_does_not_resolve_is_said_to_be_so(bao: Bao) -> None:
    source = opened(bao.settings(vault_addr="http://vault.invalid:8200"))
    assert (await refusal(source.read, SourceUnavailable)).reason == "key_source_name"
