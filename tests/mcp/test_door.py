"""
What the door says before it knows who is there, and to what is no call at all.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from company_agents.app import App
from company_agents.errors import Unavailable
from company_agents.mcp_server.gate import MOST_BODY
from tests.conftest import Tenant
from tests.mcp.served import JSON, Served, served

Make = Callable[[], Awaitable[Tenant]]
Send = Callable[..., Awaitable[Any]]

VERSIONS = ("2025-06-18", "2026-07-28")


def challenge(door: Served, more: str = "") -> str:
    return f'Bearer resource_metadata="{door.url}/.well-known/oauth-protected-resource/mcp"{more}'


async def test_no_token_is_told_where_to_read_on_and_nothing_is_called_an_error(door: Served) -> None:
    for headers in ({}, {"authorization": "Basic dXNlcjpwYXNz"}):
        answer = await door.send("POST", "/mcp", {**JSON, **headers}, b"{}")
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == challenge(door)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["code"] == "unauthenticated"
        assert answer.json["hint"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT", "OPTIONS", "HEAD"])
async def test_a_bad_token_is_refused_whatever_the_method(door: Served, method: str) -> None:
    answer = await door.send(method, "/mcp", {**JSON, "authorization": "Bearer ca_agent_hunter2"})
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == challenge(door, ', error="invalid_token"')
    assert "hunter2" not in answer.text + str(answer.headers)
    if method != "HEAD":
        assert answer.json == {
            "type": "about:blank",
            "title": "Unauthorized",
            "status": 401,
            "detail": "this token is not good",
            "code": "unauthenticated",
            "hint": "it may have been rotated, its run ended, or its agent paused; an operator can issue a new one",
        }


async def test_a_token_counts_in_the_header_alone_and_once(door: Served, tenant: Make) -> None:
    token = (await tenant()).token
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode()
    for path, headers in [
        (f"/mcp?access_token={token}", []),
        ("/mcp", [("cookie", f"token={token}")]),
        ("/mcp", [("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}")]),
        ("/mcp", [("authorization", f"Bearer {token} {token}")]),
        ("/mcp", [("authorization", f"Bearer{token}")]),
    ]:
        async with door.http.post(door.url + path, headers=[*JSON.items(), *headers], data=body) as reply:
            assert reply.status == 401, (path, [name for name, _ in headers])
    for scheme in ("Bearer", "bearer", "BEARER"):
        answer = await door.send("POST", "/mcp", {**JSON, "authorization": f"{scheme} {token}"}, body)
        assert answer.status == 200


async def test_the_metadata_name_the_resource_and_no_authorization_server(door: Served) -> None:
    for path in ("/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"):
        answer = await door.send("GET", path)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json == {
            "resource": f"{door.url}/mcp",
            "resource_name": "Company Agents",
            "bearer_methods_supported": ["header"],
        }
        assert (await door.send("HEAD", path)).status == 200
        assert (await door.send("POST", path)).status == 405


@pytest.mark.parametrize("path", ["/", "/mcp/x", "/mcpx", "/.well-known/oauth-protected-resource/other", "//mcp"])
async def test_other_paths_are_not_there(door: Served, tenant: Make, path: str) -> None:
    answer = await door.send("POST", path, {**JSON, "authorization": f"Bearer {(await tenant()).token}"}, b"{}")
    assert (answer.status, answer.json["code"]) == (404, "not_found")


async def test_only_post_is_served_and_nothing_is_held_open(door: Served, tenant: Make) -> None:
    bearer = {"authorization": f"Bearer {(await tenant()).token}", "accept": "text/event-stream"}
    for version in VERSIONS:
        for method in ("GET", "DELETE", "PUT"):
            answer = await door.send(method, "/mcp", {**bearer, "mcp-protocol-version": version})
            assert (answer.status, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        "http://127.0.0.1:{port}.evil.example",
        "http://evil.example:{port}",
        "https://localhost:{port}",
        "http://localhost.evil.example:{port}",
        "http://[::1",
        "http://localhost:99999999",
        "null",
        "",
    ],
)
async def test_a_page_of_another_site_is_turned_away_with_a_good_token_too(
    door: Served, tenant: Make, origin: str
) -> None:
    origin = origin.format(port=door.url.rpartition(":")[2])
    answer = await door.rpc((await tenant()).token, "tools/list", origin=origin)
    assert (answer.status, answer.json["code"]) == (403, "refused")


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
async def test_our_own_pages_may_call_under_each_name_of_this_machine(door: Served, tenant: Make, name: str) -> None:
    origin = f"http://{name}:{door.url.rpartition(':')[2]}"
    assert (await door.rpc((await tenant()).token, "tools/list", origin=origin)).status == 200


async def test_behind_a_public_address_localhost_is_another_site(app: App, tenant: Make) -> None:
    token = (await tenant()).token
    async with served(app, "https://agents.example:8443") as door:
        assert (await door.rpc(token, "tools/list", origin="https://agents.example:8443")).status == 200
        for origin in (door.url, "https://localhost:8443", "http://agents.example:8443", "https://agents.example"):
            assert (await door.rpc(token, "tools/list", origin=origin)).status == 403
        where = (await door.rpc(None, "tools/list")).headers["www-authenticate"]
        assert 'resource_metadata="https://agents.example:8443/.well-known/oauth-protected-resource/mcp"' in where


async def test_one_origin_that_is_ours_does_not_excuse_another(door: Served, tenant: Make) -> None:
    headers = [*JSON.items(), ("authorization", f"Bearer {(await tenant()).token}")]
    headers += [("origin", door.url), ("origin", "https://evil.example")]
    async with door.http.post(f"{door.url}/mcp", headers=headers, data=b"{}") as reply:
        assert reply.status == 403


async def test_while_the_database_is_away_a_token_is_neither_good_nor_bad(
    door: Served, tenant: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise Unavailable("the database does not answer", hint="try again in a moment")

    token = (await tenant()).token
    monkeypatch.setattr(type(door.app.identity), "agent", away)
    answer = await door.rpc(token, "tools/list")
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert "www-authenticate" not in answer.headers


async def test_a_check_that_breaks_lets_nobody_in_and_says_nothing_of_why(
    door: Served, tenant: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("hunter2")

    token = (await tenant()).token
    monkeypatch.setattr(type(door.app.identity), "agent", broken)
    answer = await door.rpc(token, "tools/list")
    assert (answer.status, answer.json["code"]) == (500, "failed")
    assert "hunter2" not in answer.text


CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whoami", "arguments": {}}}
DEEP = 100_000


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"7",
        b'"x"',
        b"[]",
        b"{}",
        json.dumps([CALL]).encode(),
        json.dumps({**CALL, "id": {"x": 1}}).encode(),
        json.dumps({**CALL, "method": 7}).encode(),
        json.dumps({**CALL, "params": [1]}).encode(),
        b'{"jsonrpc": "2.0", "id": ' + b"9" * 5000 + b', "method": "tools/list"}',
        b"[" * DEEP + b"]" * DEEP,
        b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"x": ' + b"[" * DEEP + b"]" * DEEP + b"}}",
    ],
    ids=range(15),
)
async def test_a_body_that_is_no_request_is_the_senders_fault(
    door: Served, tenant: Make, version: str, body: bytes
) -> None:
    bearer = {"authorization": f"Bearer {(await tenant()).token}", "mcp-protocol-version": version}
    answer = await door.send("POST", "/mcp", {**JSON, **bearer}, body)
    if version == VERSIONS[0] and b'"id": {"x"' in body:
        # The SDK takes this for a notification in the older revisions, and drops it.
        assert (answer.status, answer.text) == (202, "")
        return
    assert answer.status == 400
    assert len(answer.text) < 3000 and "Traceback" not in answer.text


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("depth", [90, 150, 190, 300, 500, 900, 2000])
async def test_an_argument_that_is_nested_too_deeply_is_the_senders_fault(
    door: Served, tenant: Make, version: str, depth: int
) -> None:
    body = '{"x":' * depth + "1" + "}" * depth
    arguments = {"integration": str(uuid.uuid4()), "method": "POST", "path": "/", "body": "BODY"}
    params: dict[str, Any] = {"name": "integration_request", "arguments": arguments}
    headers = {**JSON, "authorization": f"Bearer {(await tenant()).token}", "mcp-protocol-version": version}
    if version == VERSIONS[1]:
        headers |= {"mcp-method": "tools/call", "mcp-name": "integration_request"}
        params["_meta"] = {
            "io.modelcontextprotocol/protocolVersion": version,
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    sent = json.dumps({**CALL, "params": params}).replace('"BODY"', body).encode()
    answer = await door.send("POST", "/mcp", headers, sent)
    if answer.status == 200:
        text = answer.json["result"]["content"][0]["text"]
        code = json.loads(text)["error"]["code"]
        assert code == ("not_found" if depth <= 100 else "wrong_usage")
    else:
        assert answer.status == 400, answer.text[:200]
        assert depth > 100


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_a_body_of_another_type_is_the_senders_fault(
    door: Served, tenant: Make, version: str, media_type: str
) -> None:
    bearer = {"authorization": f"Bearer {(await tenant()).token}", "mcp-protocol-version": version}
    headers = {**JSON, **bearer, "content-type": media_type}
    answer = await door.send("POST", "/mcp", headers, json.dumps(CALL).encode())
    assert 400 <= answer.status < 500


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_body_over_the_limit_is_too_large_whether_it_says_so_or_not(
    door: Served, tenant: Make, version: str
) -> None:
    bearer = {**JSON, "authorization": f"Bearer {(await tenant()).token}", "mcp-protocol-version": version}
    piece = b" " * (MOST_BODY // 8)

    async def pieces() -> Any:
        for _ in range(9):
            yield piece

    for data in (b" " * (MOST_BODY + 1), pieces()):
        async with door.http.post(f"{door.url}/mcp", headers=bearer, data=data) as reply:
            assert reply.status == 413


async def test_a_revision_that_nobody_knows_is_refused_with_those_that_are(door: Served, tenant: Make) -> None:
    answer = await door.rpc((await tenant()).token, "tools/list", version="2031-01-01")
    assert answer.status == 400
    assert "2026-07-28" in answer.text
