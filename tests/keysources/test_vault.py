"""
The key source `vault` against a real OpenBao: its document, what may be done to it, and where it is.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import MayNotStart
from company_agents.keysources.base import open_source
from company_agents.keysources.failures import SourceChanged, SourceReadOnly
from company_agents.keysources.found import Found
from tests.keysources.servers.openbao import Bao, address, keys_in
from tests.keysources.vaults import KEY, OTHER, add, opened, refusal, text

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
