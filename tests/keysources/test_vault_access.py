"""
The key source `vault` against a real OpenBao: the ways in, TLS, and everything that can go wrong on the way.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import traceback
import uuid
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from company_agents.errors import MayNotStart
from company_agents.keysources.failures import SourceChanged, SourceReadOnly, SourceUnavailable
from company_agents.settings import Settings
from tests.keysources.place import free_port
from tests.keysources.servers.openbao import ROOT_TOKEN, Bao, address, openbao
from tests.keysources.vaults import GONE, JSON, KEY, OTHER, add, between, forwarded, opened, refusal, text
from tests.outgoing.servers import Recorded, authority, reply, serve

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
    source = opened(bao.settings(vault_addr="https://vault.invalid:8200"))
    assert (await refusal(source.read, SourceUnavailable)).reason == "key_source_name"
