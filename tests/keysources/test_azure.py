"""
The key source `azure-keyvault`, against a server that speaks as Key Vault and its login do: tags, copies, the challenge,
what Azure refuses, and what it cannot give.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import CompanyAgentsError
from company_agents.keysources.base import KeySource, open_source
from company_agents.keysources.failures import SourceChanged, SourceReadOnly
from company_agents.keysources.found import Found
from company_agents.keysources.text import key_text
from company_agents.logs import Redactor, start_logging
from company_agents.sensitive import Sensitive
from tests.keysources.place import free_port
from tests.keysources.servers import azure as vaults
from tests.keysources.servers.azure import Azure
from tests.outgoing.servers import Recorded, authority, reply

KEY = MasterKey(Sensitive(b"k" * 32))
NEXT = MasterKey(Sensitive(b"n" * 32))
NOTHING = Found((), None)


@pytest.fixture(scope="module")
async def azure(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Azure]:
    async with vaults.place(tmp_path_factory.mktemp("azure")) as place:
        yield place


@pytest.fixture
def name() -> str:
    return uuid4().hex


@pytest.fixture
def source(azure: Azure, name: str) -> KeySource:
    return open_source(azure.at(f"tests/{name}"))


async def refusal(work: Awaitable[object]) -> CompanyAgentsError:
    """What was raised; none of its words is a secret, down to the last cause."""
    with pytest.raises(CompanyAgentsError) as caught:
        await work
    text = "".join(traceback.format_exception(caught.value))
    for secret in (vaults.CLIENT_SECRET, vaults.TOKEN, key_text(KEY).reveal_text(), key_text(NEXT).reveal_text()):
        assert secret not in text
    assert caught.value.hint
    return caught.value


async def test_no_version_of_a_key_is_written_again_when_the_hint_moves(
    azure: Azure, name: str, source: KeySource
) -> None:
    for key in (KEY, NEXT):
        await source.add(key, NOTHING)
    before = [(one.id, dict(one.tags)) for one in azure.vault[name]]
    for key in (KEY, NEXT, NEXT, KEY):
        await source.make_current(key.key_id, NOTHING)
        assert (await source.read()).current == key
        # People and other tools see it where they look for it.
        assert azure.vault[name][-1].value == key_text(key).reveal_text()
    assert [(one.id, one.tags) for one in azure.vault[name]][:2] == before
    assert len(azure.vault[name]) == 5


async def test_a_key_that_was_only_added_does_not_become_the_hint_though_it_is_the_newest_version(
    source: KeySource,
) -> None:
    await source.add(KEY, NOTHING)
    assert (await source.read()).current is None
    await source.make_current(KEY.key_id, NOTHING)
    await source.add(NEXT, NOTHING)
    assert (await source.read()).current == KEY


async def test_a_key_put_by_hand_after_everything_is_the_hint_and_is_never_lost(
    azure: Azure, name: str, source: KeySource
) -> None:
    await source.add(KEY, NOTHING)
    await source.make_current(KEY.key_id, NOTHING)
    azure.put(name, f"  {NEXT.secret.reveal().hex()}\n")
    found = await source.read()
    assert (found.current, found.kept) == (NEXT, frozenset({KEY.key_id}))
    await source.make_current(KEY.key_id, found)
    found = await source.read()
    assert (found.current, found.kept) == (KEY, frozenset({KEY.key_id}))
    assert NEXT in found.keys


async def test_every_version_that_is_enabled_must_be_a_key(azure: Azure, name: str, source: KeySource) -> None:
    placeholder = azure.put(name, "a placeholder of 32 characters !!!")
    assert (await refusal(source.read())).reason == "key_length"
    placeholder.enabled = False
    assert await source.read() == NOTHING
    lying = azure.put(name, key_text(NEXT).reveal_text(), **{"company-agents-key": KEY.key_id})
    assert (await refusal(source.read())).reason == "key_wrong"
    assert (await refusal(source.add(KEY, NOTHING))).reason == "key_wrong"
    lying.enabled = False
    await source.add(KEY, NOTHING)
    assert (await source.read()).keys == (KEY,)


async def test_destroying_disables_every_copy_and_nothing_else(azure: Azure, name: str, source: KeySource) -> None:
    await azure.put_by_hand(azure.at(f"tests/{name}"), KEY)
    for key in (KEY, NEXT):
        await source.add(key, NOTHING)
        await source.make_current(key.key_id, NOTHING)
    await source.destroy(KEY.key_id, NOTHING)
    requests = len(azure.requests)
    await source.destroy(KEY.key_id, NOTHING)
    assert not [one for one in azure.requests[requests:] if one.line.startswith(("PUT", "PATCH"))]
    assert [one.enabled for one in azure.vault[name]] == [False, False, False, True, True]
    found = await source.read()
    assert (found.keys, found.current) == ((NEXT,), NEXT)
    assert "whole secret" in source.after_destroy


async def test_a_destroyed_key_that_is_added_again_is_there_again(source: KeySource) -> None:
    await source.add(KEY, NOTHING)
    await source.destroy(KEY.key_id, NOTHING)
    assert (await source.read()).keys == ()
    await source.add(KEY, NOTHING)
    assert (await source.read()).kept == {KEY.key_id}


async def test_a_claim_is_no_version_of_the_keys_secret(azure: Azure, name: str, source: KeySource) -> None:
    ours, theirs = uuid4(), uuid4()
    await source.claim(ours, NOTHING)
    await source.claim(ours, NOTHING)
    assert name not in azure.vault
    assert [one.value for one in azure.vault[f"{name}-instance"]] == [str(ours)]
    with pytest.raises(SourceChanged):
        await source.claim(theirs, NOTHING)
    await source.claim(theirs, await source.read())
    assert (await source.read()).owner == theirs
    # Of two at the same moment the later one wins: what `key init` is for.
    assert type(source).claims_alone is False


async def test_a_mark_that_names_no_instance_is_refused(azure: Azure, name: str, source: KeySource) -> None:
    azure.put(f"{name}-instance", "somebody")
    assert (await refusal(source.read())).reason == "key_source_mark"


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_a_lost_reply_loses_no_key(azure: Azure, name: str, source: KeySource, method: str) -> None:
    azure.lose.add(method)
    await source.add(KEY, NOTHING)
    azure.lose.add(method)
    await source.make_current(KEY.key_id, NOTHING)
    await source.add(NEXT, NOTHING)
    azure.lose = {method}
    try:
        await source.destroy(NEXT.key_id, NOTHING)
    except CompanyAgentsError as error:
        assert (method, error.reason[:11]) == ("PATCH", "key_source_")
        await source.destroy(NEXT.key_id, NOTHING)
    azure.lose.clear()
    found = await source.read()
    assert (found.keys, found.current, found.kept) == ((KEY,), KEY, frozenset({KEY.key_id}))
    # A reply that was lost is asked for again, and Azure then has two versions with one key; both are destroyed.
    await source.destroy(KEY.key_id, NOTHING)
    assert not any(one.enabled for one in azure.vault[name])


async def test_the_check_changes_nothing(azure: Azure, name: str, source: KeySource) -> None:
    await source.check_writable(NOTHING)
    assert name not in azure.vault
    await azure.put_by_hand(azure.at(f"tests/{name}"), KEY)
    await source.check_writable(NOTHING)
    await source.add(KEY, NOTHING)
    before = [vars(one).copy() for one in azure.vault[name]]
    await source.check_writable(NOTHING)
    assert [vars(one) for one in azure.vault[name]] == before
    assert azure.requests[-1].line.startswith("PATCH")


async def test_a_source_that_may_only_be_read_says_so(azure: Azure, source: KeySource) -> None:
    await source.add(KEY, NOTHING)
    with azure.ruled(vaults.read_only):
        seen = await source.read()
        assert seen.keys == (KEY,)
        for write in (
            source.check_writable(seen),
            source.add(NEXT, seen),
            source.claim(uuid4(), seen),
            source.make_current(KEY.key_id, seen),
            source.destroy(KEY.key_id, seen),
        ):
            assert isinstance(await refusal(write), SourceReadOnly)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (403, "key_source_forbidden"),
        (429, "key_source_throttled"),
        (500, "key_source_error"),
        (503, "key_source_error"),
    ],
)
async def test_what_azure_refuses_is_said_in_our_words(
    azure: Azure, source: KeySource, status: int, reason: str
) -> None:
    with azure.ruled(lambda request: vaults.refused(status) if request.path.startswith("/secrets") else None):
        assert (await refusal(source.read())).reason == reason


async def test_a_moment_of_throttling_is_waited_for_but_not_for_as_long_as_azure_says(
    azure: Azure, source: KeySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("company_agents.keysources.azure._LONGEST_WAIT", 0.01)
    left = [1, 1]

    def rule(request: Recorded) -> bytes | None:
        return reply(b"{}", "429 Slow", retry_after="3600") if left and left.pop() else None

    with azure.ruled(rule):
        assert await source.read() == NOTHING
    assert not left


async def test_a_wrong_client_secret_is_refused_and_not_repeated(azure: Azure, name: str) -> None:
    wrong = "another-made-up-client-secret"
    source = open_source(azure.at(f"tests/{name}", azure_client_secret=SecretStr(wrong)))
    error = await refusal(source.read())
    assert error.reason == "key_source_forbidden"
    assert wrong not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("part", "answer", "reason"),
    [
        ("openid-configuration", vaults.refused(400), "key_source_login"),
        ("oauth2", vaults.refused(503), "key_source_login"),
        ("oauth2", b"", "key_source_refused"),
    ],
)
async def test_a_login_that_fails_is_not_called_a_refusal(
    azure: Azure, name: str, source: KeySource, part: str, answer: bytes, reason: str
) -> None:
    with azure.ruled(lambda request: answer if part in request.path else None):
        assert (await refusal(source.read())).reason == reason
    # Another one: the library itself keeps a login's failure in mind, for a minute.
    assert await open_source(azure.at(f"tests/{name}")).read() == NOTHING


async def test_without_credentials_it_says_that_there_are_none(
    azure: Azure, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # No metadata service and no command-line tool of Azure's: what a machine of one's own looks like.
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("PATH", str(tmp_path))
    source = open_source(
        azure.at(f"tests/{name}", azure_tenant_id=None, azure_client_id=None, azure_client_secret=None)
    )
    assert (await refusal(source.read())).reason == "key_source_credentials"


async def test_a_certificate_of_another_authority_is_not_trusted(azure: Azure, name: str, tmp_path: Path) -> None:
    other = authority(tmp_path, "127.0.0.1").ca_file
    source = open_source(azure.at(f"tests/{name}", key_ca_file=other))
    assert (await refusal(source.read())).reason == "key_source_tls"
    plain = open_source(azure.at(f"tests/{name}", key_endpoint=azure.url.replace("https", "http")))
    assert (await refusal(plain.read())).reason == "key_source_tls"


async def test_a_secret_that_was_deleted_is_not_written_over(azure: Azure, name: str, source: KeySource) -> None:
    azure.deleted.add(name)
    assert await source.read() == NOTHING
    assert (await refusal(source.add(KEY, NOTHING))).reason == "key_source_deleted"


@pytest.mark.parametrize(
    ("rest", "url"),
    [
        ("my-vault/master-key", "https://my-vault.vault.azure.net"),
        ("my-vault.vault.azure.cn/master-key", "https://my-vault.vault.azure.cn"),
    ],
)
def test_a_vault_is_named_or_a_whole_host(azure: Azure, rest: str, url: str) -> None:
    source = open_source(azure.at(rest, key_endpoint=None))
    assert vars(source)["_url"] == url
    assert source.address == f"azure-keyvault://{rest}"


@pytest.mark.parametrize(
    "rest", ["vault", "vault/a_b", "vault/a/b", f"vault/{'a' * 119}", "v/a", "vault:1/a", "va@lt.x/a"]
)
def test_a_malformed_address_is_refused_and_not_repeated(azure: Azure, rest: str) -> None:
    with pytest.raises(CompanyAgentsError) as caught:
        open_source(azure.at(rest))
    assert caught.value.reason == "key_address"
    assert f"//{rest}" not in caught.value.sentence


async def test_only_azures_own_vault_may_ask_for_a_token_where_no_endpoint_is_set(azure: Azure, name: str) -> None:
    host = azure.url.removeprefix("https://")
    source = open_source(azure.at(f"tests/{name}"))
    # As the address would name it, with the check of the challenge that comes with that.
    source = type(source)("tests", name, f"https://{host}", azure.at("x/y", key_endpoint=None))  # type: ignore[call-arg]
    assert (await refusal(source.read())).reason == "key_source_challenge"


async def test_nothing_secret_is_logged_even_at_debug(
    azure: Azure, name: str, source: KeySource, tmp_path: Path
) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        start_logging(Redactor(), folder=tmp_path, level="debug")
        await source.add(KEY, NOTHING)
        await source.read()
        wrong = open_source(azure.at(f"tests/{name}", azure_client_secret=SecretStr("made-up-and-wrong")))
        await refusal(wrong.read())
        logging.getLogger("company_agents").debug("and this is there")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    log = (tmp_path / "orchestrator.log").read_text()
    assert "and this is there" in log
    for secret in (key_text(KEY).reveal_text(), vaults.CLIENT_SECRET, vaults.TOKEN, "made-up-and-wrong"):
        assert secret not in log
