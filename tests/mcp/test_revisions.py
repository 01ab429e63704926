"""
Every revision of the protocol that the SDK serves, and what a server says of itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from mcp.shared.exceptions import MCPError
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, KNOWN_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from company_agents import __version__
from company_agents.app import App
from company_agents.mcp_server.server import INSTRUCTIONS
from tests.conftest import Tenant
from tests.mcp.served import Served, refused, served, use

Make = Callable[[], Awaitable[Tenant]]


@pytest.mark.parametrize("version", KNOWN_PROTOCOL_VERSIONS)
async def test_every_revision_works_from_the_first_word_to_the_last(
    door: Served, tenant: Make, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The SDK's client offers the newest revision of its era; this makes it an older one.
    monkeypatch.setattr("mcp.client.session.LATEST_HANDSHAKE_VERSION", version)
    async with door.client((await tenant()).token, version if version in MODERN_PROTOCOL_VERSIONS else "legacy") as it:
        assert it.protocol_version == version
        assert len((await it.list_tools()).tools) == 13
        note = await use(it, "memory_write", content="remember me")
        assert await use(it, "memory_get", id=note["id"]) == note
        assert (await refused(it, "memory_get", id="x"))["code"] == "wrong_usage"


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_the_server_says_its_name_its_version_and_what_it_is_for(door: Served, tenant: Make, mode: str) -> None:
    async with door.client((await tenant()).token, mode) as client:
        assert client.server_info is not None
        assert (client.server_info.name, client.server_info.version) == ("company-agents", __version__)
        assert client.instructions == INSTRUCTIONS
        capabilities = client.server_capabilities
        assert capabilities.tools is not None and not capabilities.tools.list_changed
        assert capabilities.resources is None and capabilities.prompts is None


async def test_the_client_finds_the_newest_revision_by_itself(door: Served, tenant: Make) -> None:
    async with door.client((await tenant()).token) as client:
        assert client.protocol_version == KNOWN_PROTOCOL_VERSIONS[-1]


async def test_nobody_can_listen_so_no_stream_outlives_a_token(door: Served, tenant: Make) -> None:
    token = (await tenant()).token
    answer = await door.rpc(token, "subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    assert answer.status == 404
    assert answer.json["error"]["code"] == -32601
    async with door.client(token) as client:
        with pytest.raises(MCPError):
            async with client.listen(tools_list_changed=True):
                pass
        assert await use(client, "whoami")


async def test_calls_leave_no_task_behind(app: App, tenant: Make) -> None:
    token = (await tenant()).token
    async with served(app) as door:
        await door.call(token, "whoami", {})
        before = len(asyncio.all_tasks())
        for version in KNOWN_PROTOCOL_VERSIONS:
            for _ in range(5):
                assert (await door.call(token, "whoami", {}, version)).status == 200
                await door.rpc(token, "subscriptions/listen", {"notifications": {}}, version)
                await door.send("GET", "/mcp", {"authorization": f"Bearer {token}", "accept": "text/event-stream"})
        # What a request started is told to end before its answer is read, and ends with the next turns of the loop.
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) <= before


@pytest.mark.parametrize("version", HANDSHAKE_PROTOCOL_VERSIONS)
async def test_a_call_needs_no_handshake_since_nothing_is_kept_between_calls(
    door: Served, tenant: Make, version: str
) -> None:
    answer = await door.call((await tenant()).token, "whoami", {}, version)
    assert answer.status == 200
    assert "mcp-session-id" not in answer.headers


async def test_a_notification_is_taken_and_not_answered(door: Served, tenant: Make) -> None:
    headers = {
        "authorization": f"Bearer {(await tenant()).token}",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
    }
    answer = await door.send("POST", "/mcp", headers, b'{"jsonrpc": "2.0", "method": "notifications/initialized"}')
    assert (answer.status, answer.text) == (202, "")
