from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import structlog.testing
from mcp.shared.exceptions import MCPError

from company_agents.app import App
from company_agents.integrations.integrations import Integration
from company_agents.mcp_server.tools import TOOLS
from tests.conftest import Tenant
from tests.mcp.served import Served, refused, use

Make = Callable[[], Awaitable[Tenant]]


async def test_whoami_tells_an_agent_who_it_is(door: Served, tenant: Make) -> None:
    one = await tenant()
    async with door.client(one.token) as client:
        assert await use(client, "whoami") == {
            "id": str(one.agent.agent_id()),
            "company_id": str(one.company.id),
            "name": "ann",
            "state": "active",
            "run": None,
        }


async def test_fifty_callers_at_once_each_see_themselves(door: Served, app: App, tenant: Make) -> None:
    tenants = [await tenant() for _ in range(5)]
    tokens = {}
    for number in range(50):
        agent, token = await app.agents.create(tenants[number % 5].local, f"agent {number}")
        tokens[str(agent.id)] = token.reveal_text()

    async def ask(token: str, version: str) -> Any:
        return (await door.call(token, "whoami", {}, version)).json["result"]["structuredContent"]["id"]

    for version in ("2025-11-25", "2026-07-28"):
        seen = await asyncio.gather(*(ask(token, version) for token in tokens.values() for _ in range(3)))
        assert seen == [agent for agent in tokens for _ in range(3)]


async def test_a_note_is_written_found_read_replaced_and_deleted(door: Served, tenant: Make) -> None:
    async with door.client((await tenant()).token) as client:
        note = await use(client, "memory_write", content="the printer is on floor 3", title="printer", tags=["office"])
        assert (note["content"], note["title"], note["tags"]) == ("the printer is on floor 3", "printer", ["office"])
        assert await use(client, "memory_search", query="printer") == {"items": [note], "next": None}
        assert await use(client, "memory_search", query="elephants") == {"items": [], "next": None}
        assert await use(client, "memory_get", id=note["id"]) == note
        changed = await use(client, "memory_write", content="it moved to floor 4", id=note["id"])
        assert (changed["id"], changed["title"], changed["tags"]) == (note["id"], "", [])
        assert await use(client, "memory_delete", id=note["id"]) == {"id": note["id"], "deleted": True}
        assert (await refused(client, "memory_get", id=note["id"]))["code"] == "not_found"
        assert await use(client, "memory_search", query="") == {"items": [], "next": None}


async def test_a_task_is_created_listed_changed_and_commented(door: Served, tenant: Make) -> None:
    one = await tenant()
    me = str(one.agent.agent_id())
    async with door.client(one.token) as client:
        task = await use(client, "task_create", title="water the plants", description="all of them", assignee="me")
        assert (task["status"], task["assignee"], task["created_by"]) == ("open", me, f"agent:{me}")
        assert await use(client, "task_list") == {"items": [task], "next": None}
        assert (await use(client, "task_list", assignee="me"))["items"] == [task]
        assert (await use(client, "task_list", assignee=me, status="open"))["items"] == [task]
        assert (await use(client, "task_list", status="done"))["items"] == []
        done = await use(client, "task_update", id=task["id"], status="done")
        assert (done["status"], done["title"], done["description"]) == ("done", task["title"], task["description"])
        assert done["assignee"] == me
        assert (await use(client, "task_update", id=task["id"], assignee="nobody"))["assignee"] is None
        assert (await use(client, "task_update", id=task["id"], assignee="me"))["assignee"] == me
        comment = await use(client, "task_comment", id=task["id"], text="the cactus too")
        assert comment["author"] == f"agent:{me}"
        assert (await use(client, "task_get", id=task["id"]))["comments"] == [comment]


async def test_a_list_goes_on_where_the_page_before_ended(door: Served, tenant: Make) -> None:
    async with door.client((await tenant()).token) as client:
        made = [(await use(client, "task_create", title=f"task {number}"))["id"] for number in range(3)]
        first = await use(client, "task_list", limit=2)
        second = await use(client, "task_list", limit=2, after=first["next"])
        assert [task["id"] for task in first["items"] + second["items"]] == made
        assert second["next"] is None


async def test_an_agent_lists_what_it_may_use_and_not_who_else_may(
    door: Served, app: App, tenant: Make, connected: Callable[[Tenant], Awaitable[Integration]]
) -> None:
    one = await tenant()
    integration = await connected(one)
    _, token = await app.agents.create(one.local, "bob")
    async with door.client(one.token) as client:
        [listed] = (await use(client, "integration_list"))["items"]
    assert (listed["id"], listed["name"], listed["provider"]) == (str(integration.id), "slack", "slack")
    assert (listed["status"], listed["destination"]) == ("connected", integration.destination)
    assert not {"agents", "allow_all", "company_id", "version"} & listed.keys()
    async with door.client(token.reveal_text()) as client:
        assert await use(client, "integration_list") == {"items": [], "next": None}


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("memory_get", {"id": "7"}, "id is no well-formed id"),
        ("memory_get", {"id": 7}, "id is no well-formed id"),
        ("memory_get", {"id": None}, "id is no well-formed id"),
        ("memory_get", {}, "the argument id is missing"),
        ("memory_delete", {"id": ""}, "id is no well-formed id"),
        ("memory_write", {"content": "x", "id": "zz"}, "id is no well-formed id"),
        ("memory_write", {"content": " "}, "a note has 1 to 100000 characters"),
        ("memory_write", {"content": "x" * 100_001}, "a note has 1 to 100000 characters"),
        ("memory_write", {"content": ["x"]}, "the argument content should be a valid string"),
        ("memory_write", {"content": "x", "titel": "y"}, "there is no argument titel"),
        ("memory_write", {"content": "a\x00b"}, "a value is too long, or has characters that cannot be stored"),
        ("memory_search", {"query": "x", "limit": 0}, "limit is 0; it may be 1 to 100"),
        ("task_list", {"assignee": "bob"}, "assignee is no well-formed id nor `me`"),
        ("task_list", {"after": "?"}, "this cursor is not one of ours"),
        ("task_list", {"limit": 10**30}, f"limit is {10**30}; it may be 1 to 200"),
        (
            "task_list",
            {"status": "lost"},
            "the argument status should be 'open', 'in_progress', 'blocked', 'done' or 'cancelled'",
        ),
        ("task_get", {"id": "1-2-3"}, "id is no well-formed id"),
        ("task_create", {"title": ""}, "a title has 1 to 200 characters"),
        ("task_update", {"id": "x"}, "id is no well-formed id"),
        (
            "task_update",
            {"id": str(uuid.uuid4()), "assignee": "bob"},
            "assignee is no well-formed id nor `me` nor `nobody`",
        ),
        ("task_create", {"title": "x", "assignee": "nobody"}, "assignee is no well-formed id nor `me`"),
        ("task_comment", {"id": "x", "text": "y"}, "id is no well-formed id"),
        ("task_comment", {"id": str(uuid.uuid4()), "text": ""}, "a comment has 1 to 50000 characters"),
        ("integration_list", {"limit": "many"}, "the argument limit should be a valid integer"),
        ("whoami", {"token": "x"}, "there is no argument token"),
    ],
)
async def test_arguments_that_do_not_fit_are_wrong_usage(
    door: Served, tenant: Make, tool: str, arguments: dict[str, Any], message: str
) -> None:
    async with door.client((await tenant()).token) as client:
        error = await refused(client, tool, **arguments)
    assert error["code"] == "wrong_usage"
    assert error["message"].startswith(message)
    assert "Traceback" not in str(error) and "pydantic" not in str(error)


async def test_an_error_does_not_repeat_the_values_of_a_call(door: Served, tenant: Make) -> None:
    async with door.client((await tenant()).token) as client:
        for tool in TOOLS.values():
            for name in tool.takes.model_fields:
                error = await refused(client, tool.name, **{name: {"hunter2": ["hunter2"]}, "other": "hunter2"})
                assert error["code"] == "wrong_usage"
                assert "hunter2" not in str(error)


async def test_half_a_character_is_wrong_usage_where_it_cannot_be_sent(door: Served, tenant: Make) -> None:
    token = (await tenant()).token
    calls: list[tuple[str, dict[str, Any]]] = [
        ("memory_write", {"content": "\ud800"}),
        ("integration_request", {"integration": "x", "method": "GET", "path": "/", "query": {"\ud800": "\udfff"}}),
        ("integration_request", {"integration": "x", "method": "GET", "path": "/", "body": "\ud800"}),
    ]
    for tool, arguments in calls:
        answer = await door.call(token, tool, arguments)
        assert (answer.status, answer.json["result"]["isError"]) == (200, True)
        assert '"code":"wrong_usage"' in answer.json["result"]["content"][0]["text"]


async def test_a_tool_that_does_not_exist_is_an_error_of_the_protocol(door: Served, tenant: Make) -> None:
    async with door.client((await tenant()).token) as client:
        with pytest.raises(MCPError, match="there is no tool of this name"):
            await client.call_tool("rm_rf", {})


async def test_what_nobody_expected_is_a_fixed_sentence_and_a_record_without_values(
    door: Served, tenant: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("hunter2")

    one = await tenant()
    monkeypatch.setattr(type(door.app.memory), "search", broken)
    with structlog.testing.capture_logs() as records:
        async with door.client(one.token) as client:
            error = await refused(client, "memory_search", query="hunter2")
    assert error["code"] == "failed"
    assert "hunter2" not in str(error) and "RuntimeError" not in str(error)
    [record] = [record for record in records if record["event"] == "tool failed"]
    assert record["tool"] == "memory_search"
    assert record["log_level"] == "error"
    assert "hunter2" not in str(record)


async def test_every_tool_says_what_it_takes_and_gives(door: Served, tenant: Make) -> None:
    async with door.client((await tenant()).token) as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert listed.keys() == TOOLS.keys()
    for tool in listed.values():
        assert tool.description and len(tool.description) > 20
        assert tool.input_schema["type"] == "object" and tool.input_schema["additionalProperties"] is False
        assert tool.output_schema and tool.output_schema["type"] == "object"
        for name, argument in tool.input_schema["properties"].items():
            assert argument.get("description"), f"{tool.name}.{name}"
    assert listed["task_create"].input_schema["required"] == ["title"]
    assert listed["memory_write"].input_schema["properties"]["id"]["anyOf"][0] == {"type": "string", "format": "uuid"}
    reading = {tool.name for tool in listed.values() if tool.annotations and tool.annotations.read_only_hint}
    assert reading == {"whoami", "memory_search", "memory_get", "task_list", "task_get", "integration_list"}
