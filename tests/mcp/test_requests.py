"""
The main job: an agent uses a service without holding its credential.
"""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Awaitable, Callable

import pytest

from company_agents.app import App
from company_agents.integrations.integrations import Integration
from tests.conftest import Tenant
from tests.mcp.served import Served, refused, use
from tests.mcp.slack import TOKEN, Slack

Make = Callable[[], Awaitable[Tenant]]
Connect = Callable[[Tenant], Awaitable[Integration]]


def spellings(secret: str) -> list[str]:
    raw = secret.encode()
    return [secret, base64.b64encode(raw).decode().rstrip("="), raw.hex(), urllib.parse.quote(secret, safe="")]


@pytest.mark.parametrize("by", ["name", "id"])
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_slack_gets_the_bearer_and_the_agent_never_sees_it(
    door: Served, tenant: Make, slack: Slack, connected: Connect, by: str, mode: str
) -> None:
    one = await tenant()
    integration = await connected(one)
    async with door.client(one.token, mode) as client:
        reply = await use(
            client,
            "integration_request",
            integration=str(getattr(integration, by)),
            method="POST",
            path="/api/chat.postMessage",
            query={"pretty": True, "tag": ["a", "b"]},
            headers={"X-Trace": "7"},
            body={"channel": "C1", "text": "hello"},
        )
        listed = await use(client, "integration_list")
    assert reply["status"] == 200
    assert reply["body"] == {"ok": True, "message": {"text": "hello"}}
    assert reply["headers"]["x-slack"] == "stand-in"
    assert slack.seen == [
        {
            "method": "POST",
            "path": "/api/chat.postMessage?pretty=true&tag=a&tag=b",
            "body": '{"channel":"C1","text":"hello"}',
        }
    ]
    for spelling in spellings(TOKEN):
        assert spelling not in json.dumps([reply, listed])


async def test_a_service_that_repeats_the_credential_does_not_get_it_to_the_agent(
    door: Served, tenant: Make, slack: Slack, connected: Connect
) -> None:
    one = await tenant()
    await connected(one)
    for version in ("2025-06-18", "2026-07-28"):
        answer = await door.call(
            one.token, "integration_request", {"integration": "slack", "method": "GET", "path": "/api/echo"}, version
        )
        assert answer.status == 200
        assert "xoxb" not in answer.text
        for spelling in spellings(TOKEN):
            assert spelling not in answer.text + str(answer.headers)
    assert len(slack.seen) == 2


async def test_a_bearer_of_the_agents_own_does_not_reach_the_service(
    door: Served, tenant: Make, slack: Slack, connected: Connect
) -> None:
    one = await tenant()
    await connected(one)
    async with door.client(one.token) as client:
        result = await client.call_tool(
            "integration_request",
            {
                "integration": "slack",
                "method": "GET",
                "path": "/api/echo",
                "headers": {"Authorization": "Bearer mine"},
            },
        )
    # Refused or replaced; in no case sent.
    assert result.is_error or len(slack.seen) == 1
    assert "mine" not in str(slack.seen)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"path": "api/no-slash"}, "wrong_usage"),
        ({"path": "//evil.example/"}, "wrong_usage"),
        ({"path": "https://evil.example/"}, "wrong_usage"),
        ({"method": "TRACE"}, "wrong_usage"),
        ({"method": "GET /x HTTP/1.1\r\nHost: evil.example"}, "wrong_usage"),
        ({"headers": {"X-A": "b\r\nX-C: d"}}, "wrong_usage"),
        ({"query": {"x": {"y": 1}}}, "wrong_usage"),
        ({"integration": "github"}, "not_found"),
    ],
)
async def test_a_request_that_must_not_be_made_is_not(
    door: Served,
    tenant: Make,
    slack: Slack,
    connected: Connect,
    arguments: dict[str, object],
    code: str,
) -> None:
    one = await tenant()
    await connected(one)
    call = {"integration": "slack", "method": "GET", "path": "/api/x", **arguments}
    async with door.client(one.token) as client:
        error = await refused(client, "integration_request", **call)
    assert error["code"] in (code, "refused")
    assert slack.seen == []


async def test_an_agent_is_sent_to_the_tool_that_lists_what_it_may_use(door: Served, tenant: Make) -> None:
    async with door.client((await tenant()).token) as client:
        error = await refused(client, "integration_request", integration="slack", method="GET", path="/")
    assert (error["code"], error["hint"]) == ("not_found", "integration_list shows the ones that you may use")


async def test_what_an_operator_disallows_counts_at_the_next_call(
    door: Served, app: App, tenant: Make, slack: Slack, connected: Connect
) -> None:
    one = await tenant()
    integration = await connected(one)
    call = {"integration": "slack", "method": "GET", "path": "/api/x"}
    async with door.client(one.token) as client:
        await use(client, "integration_request", **call)
        await app.integrations.disallow(one.local, integration.id, one.agent.agent_id())
        assert (await refused(client, "integration_request", **call))["code"] == "not_found"
    assert len(slack.seen) == 1


@pytest.mark.parametrize("version", ["2025-06-18", "2026-07-28"])
@pytest.mark.parametrize(
    ("reply", "body"),
    [
        (b'{"x": NaN, "y": [Infinity, 1.5]}', {"x": None, "y": [None, 1.5]}),
        (b'{"x": "\\ud800"}', {"x": "?"}),
        (b"[" * 90 + b"]" * 90, "nested"),
        (b"[" * 150 + b"]" * 150, "(JSON, nested too deeply to be shown)"),
        (b"[" * 900 + b"]" * 900, None),
        (b"\xff\xfe", {"base64": "//4="}),
        (b"7", 7),
        (b"", ""),
    ],
    ids=range(8),
)
async def test_whatever_a_service_answers_reaches_the_agent_as_good_json(
    door: Served, tenant: Make, slack: Slack, connected: Connect, version: str, reply: bytes, body: object
) -> None:
    one = await tenant()
    await connected(one)
    slack.reply = reply
    answer = await door.call(
        one.token, "integration_request", {"integration": "slack", "method": "GET", "path": "/api/x"}, version
    )
    result = json.loads(answer.text, parse_constant=lambda constant: pytest.fail(constant))["result"]
    assert result["isError"] is False
    assert json.loads(result["content"][0]["text"]) == result["structuredContent"]
    found = result["structuredContent"]["body"]
    if body == "nested":
        assert json.dumps(found) == reply.decode()
    elif body is None:
        assert isinstance(found, str)
    else:
        assert found == body
