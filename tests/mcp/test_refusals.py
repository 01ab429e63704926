"""
The negative matrix: every tool that the server lists × every token that is not good. A tool without sample
arguments fails it, so that none ships without its refusals.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pyotp
import pytest

from company_agents.app import App
from company_agents.errors import ApprovalNeeded
from company_agents.identity.passwords import new_totp_secret
from company_agents.identity.permissions import Kind, Role
from company_agents.identity.principal import Principal, Via
from company_agents.identity.tokens import new_agent_token, new_run_token
from company_agents.integrations.integrations import Integration
from company_agents.integrations.rules import Rules
from company_agents.mcp_server.tools import TOOLS
from tests.conftest import LOCAL, Tenant
from tests.mcp.served import Answer, Served
from tests.mcp.slack import Slack

Make = Callable[[], Awaitable[Tenant]]
Connect = Callable[[Tenant], Awaitable[Integration]]

VERSIONS = ("2025-06-18", "2026-07-28")


@dataclass(frozen=True)
class World:
    """A company with one of everything, and what has arrived at its service."""

    app: App
    tenant: Tenant
    slack: Slack
    note: str
    task: str
    integration: str
    approval: str

    async def state(self) -> Any:
        """Everything that a tool could change."""
        agent = self.tenant.agent
        tasks = (await self.app.tasks.list(agent)).items
        return (
            await self.app.memory.search(agent, ""),
            [await self.app.tasks.get(agent, task.id) for task in tasks],
            [(it.id, it.status, it.version) for it in (await self.app.integrations.list(agent)).items],
            (await self.app.approvals.list(agent)).items,
            list(self.slack.seen),
        )


# Arguments with which each tool does something, in the world of the agent that calls.
SAMPLES: dict[str, Callable[[World], dict[str, Any]]] = {
    "whoami": lambda world: {},
    "memory_write": lambda world: {"id": world.note, "content": "overwritten"},
    "memory_search": lambda world: {"query": "secret plan"},
    "memory_get": lambda world: {"id": world.note},
    "memory_delete": lambda world: {"id": world.note},
    "task_list": lambda world: {"assignee": str(world.tenant.agent.agent_id())},
    "task_get": lambda world: {"id": world.task},
    "task_create": lambda world: {"title": "made by a stranger", "assignee": str(world.tenant.agent.agent_id())},
    "task_update": lambda world: {
        "id": world.task,
        "status": "cancelled",
        "assignee": str(world.tenant.agent.agent_id()),
    },
    "task_comment": lambda world: {"id": world.task, "text": "by a stranger"},
    "integration_list": lambda world: {},
    "integration_request": lambda world: {
        "integration": world.integration,
        "method": "POST",
        "path": "/api/chat.postMessage",
        "body": {"text": "by a stranger"},
    },
    "approval_get": lambda world: {"id": world.approval},
}

# Tasks are a company's: whoever works there sees them. Notes are an agent's, integrations of who may use them.
SHARED_IN_A_COMPANY = {"task_list", "task_get", "task_create", "task_update", "task_comment"}


@pytest.fixture
async def world(app: App, tenant: Make, slack: Slack, connected: Connect) -> World:
    one = await tenant()
    note = await app.memory.write(one.agent, "the secret plan", "plan")
    task = await app.tasks.create(one.agent, "carry out the plan")
    integration = await connected(one)
    await app.rulebook.set(one.local, integration.id, Rules.read(ask=["POST /api/asked"]))
    with pytest.raises(ApprovalNeeded) as needed:
        await app.requests.request(one.agent, str(integration.id), "POST", "/api/asked")
    asked = needed.value.facts["approval"]
    return World(app, one, slack, str(note.id), str(task.id), str(integration.id), asked)


def sample(tool: str, world: World) -> dict[str, Any]:
    assert tool in SAMPLES, f"{tool} has no sample arguments: without them nothing proves what it refuses"
    return SAMPLES[tool](world)


async def no_token(world: World) -> str | None:
    return None


async def empty(world: World) -> str | None:
    return ""


async def malformed(world: World) -> str | None:
    return "ca_agent_this-is-not-one"


async def truncated(world: World) -> str | None:
    return world.tenant.token[:-1]


async def lengthened(world: World) -> str | None:
    return world.tenant.token + "A"


async def one_character_off(world: World) -> str | None:
    token = world.tenant.token
    return token[:-12] + ("A" if token[-12] != "A" else "B") + token[-11:]


async def prefix_of_an_operator(world: World) -> str | None:
    return world.tenant.token.replace("ca_agent_", "ca_op_", 1)


async def prefix_of_a_run(world: World) -> str | None:
    return world.tenant.token.replace("ca_agent_", "ca_run_", 1)


async def operators_token(world: World) -> str | None:
    link = await world.app.operators.link(LOCAL)
    secret = new_totp_secret()
    code = pyotp.TOTP(secret.reveal_text()).now()
    person = await world.app.operators.join(
        link.reveal_text(), f"person {uuid.uuid4().hex[:8]}", uuid.uuid4().hex, secret, code
    )
    principal = Principal(Kind.OPERATOR, person.name, Via.SESSION, person.id, None, Role.OWNER, Role.OWNER)
    _, token = await world.app.operators.create_token(principal, "program", timedelta(days=1).days, Role.OWNER)
    # It is good where operators belong.
    assert (await world.app.identity.operator(token.reveal_text())).id == person.id
    return token.reveal_text()


async def rotated(world: World) -> str | None:
    await world.app.agents.rotate_token(world.tenant.local, world.tenant.agent.agent_id())
    return world.tenant.token


async def paused(world: World) -> str | None:
    await world.app.agents.pause(world.tenant.local, world.tenant.agent.agent_id())
    return world.tenant.token


async def retired(world: World) -> str | None:
    await world.app.agents.retire(world.tenant.local, world.tenant.agent.agent_id())
    return world.tenant.token


async def forged(world: World) -> str | None:
    return new_agent_token(world.tenant.company.id, world.tenant.agent.agent_id()).reveal_text()


async def company_that_does_not_exist(world: World) -> str | None:
    return new_agent_token(uuid.uuid4(), world.tenant.agent.agent_id()).reveal_text()


async def agent_that_does_not_exist(world: World) -> str | None:
    return new_agent_token(world.tenant.company.id, uuid.uuid4()).reveal_text()


async def run_whose_lease_has_ended(world: World) -> str | None:
    run, token = await world.app.runs.open(world.tenant.agent)
    async with await world.app.identity.db.logins.instance.connect() as connection:
        await connection.execute("UPDATE runs SET lease_until = now() WHERE id = %s", (run.id,))
    return token.reveal_text()


async def finished_run(world: World) -> str | None:
    run, token = await world.app.runs.open(world.tenant.agent)
    await world.app.runs.finish(world.tenant.agent, run.id, run.fencing_token)
    return token.reveal_text()


async def cancelled_run(world: World) -> str | None:
    run, token = await world.app.runs.open(world.tenant.agent)
    await world.app.runs.cancel(world.tenant.local, run.id)
    return token.reveal_text()


async def run_of_a_paused_agent(world: World) -> str | None:
    _, token = await world.app.runs.open(world.tenant.agent)
    await world.app.agents.pause(world.tenant.local, world.tenant.agent.agent_id())
    return token.reveal_text()


async def forged_run(world: World) -> str | None:
    run, _ = await world.app.runs.open(world.tenant.agent)
    return new_run_token(world.tenant.company.id, run.id).reveal_text()


BAD = [
    *(run_whose_lease_has_ended, finished_run, cancelled_run, run_of_a_paused_agent, forged_run),
    *(no_token, empty, malformed, truncated, lengthened, one_character_off),
    *(prefix_of_an_operator, prefix_of_a_run, operators_token),
    *(rotated, paused, retired),
    *(forged, company_that_does_not_exist, agent_that_does_not_exist),
]


async def test_the_matrix_has_every_tool_that_the_server_lists(door: Served, world: World) -> None:
    for version in VERSIONS:
        listed = (await door.rpc(world.tenant.token, "tools/list", version=version)).json["result"]["tools"]
        assert {tool["name"] for tool in listed} == TOOLS.keys() == SAMPLES.keys()


@pytest.mark.parametrize("tool", TOOLS)
async def test_the_sample_does_something_with_a_good_token(door: Served, world: World, tool: str) -> None:
    answer = await door.call(world.tenant.token, tool, sample(tool, world))
    assert answer.status == 200
    assert answer.json["result"]["isError"] is False


@pytest.mark.parametrize("tool", TOOLS)
async def test_the_sample_does_something_with_the_token_of_a_run(door: Served, world: World, tool: str) -> None:
    run, token = await world.app.runs.open(world.tenant.agent)
    answer = await door.call(token.reveal_text(), tool, sample(tool, world))
    assert answer.status == 200
    assert answer.json["result"]["isError"] is False
    if tool == "whoami":
        assert answer.json["result"]["structuredContent"]["run"] == str(run.id)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
async def test_no_tool_takes_a_token_that_is_not_good_and_nothing_changes(
    door: Served, world: World, bad: Callable[[World], Awaitable[str | None]]
) -> None:
    token = await bad(world)
    before = await world.state()
    for tool in TOOLS:
        for version in VERSIONS:
            answer = await door.call(token, tool, sample(tool, world), version)
            assert answer.status == 401, (tool, version)
            assert ('error="invalid_token"' in answer.headers["www-authenticate"]) is (token is not None)
            assert answer.json.keys() == {"type", "title", "status", "detail", "code", "hint"}
            assert answer.json["code"] == "unauthenticated"
            assert not token or token not in answer.text + str(answer.headers)
    for method in ("initialize", "tools/list", "server/discover", "ping", "subscriptions/listen"):
        for version in VERSIONS:
            assert (await door.rpc(token, method, {}, version)).status == 401, (method, version)
    assert await world.state() == before


async def test_a_token_counts_again_when_its_agent_is_resumed_and_not_when_it_is_rotated(
    door: Served, world: World
) -> None:
    agent = world.tenant.agent.agent_id()
    await world.app.agents.pause(world.tenant.local, agent)
    assert (await door.call(world.tenant.token, "whoami", {})).status == 401
    await world.app.agents.resume(world.tenant.local, agent)
    assert (await door.call(world.tenant.token, "whoami", {})).status == 200
    _, token = await world.app.agents.rotate_token(world.tenant.local, agent)
    assert (await door.call(world.tenant.token, "whoami", {})).status == 401
    assert (await door.call(token.reveal_text(), "whoami", {})).status == 200


def ids_of(tool: str) -> list[str]:
    """The arguments that name a thing: those with the form of an id, and those that are called after one."""
    return [
        name
        for name, schema in TOOLS[tool].input_schema["properties"].items()
        if "uuid" in json.dumps(schema) or name in ("integration", "id") or name.endswith("_id")
    ]


async def stranger(world: World, tenant: Make) -> str:
    return (await tenant()).token


async def colleague(world: World, tenant: Make) -> str:
    _, token = await world.app.agents.create(world.tenant.local, "bob")
    return token.reveal_text()


WHO = {"stranger": stranger, "colleague": colleague}
NAMING = [
    (who, tool, name)
    for tool in TOOLS
    for name in ids_of(tool)
    for who in (WHO if tool not in SHARED_IN_A_COMPANY else ["stranger"])
]


@pytest.mark.parametrize(("who", "tool", "name"), NAMING, ids=["-".join(case) for case in NAMING])
async def test_what_is_not_the_callers_reads_like_what_is_not_there(
    door: Served,
    world: World,
    tenant: Make,
    tool: str,
    name: str,
    who: str,
) -> None:
    token = await WHO[who](world, tenant)
    given = sample(tool, world)
    assert name in given, f"the sample of {tool} leaves {name} out: nothing proves whose it may name"
    before = await world.state()
    for version in VERSIONS:
        theirs = await door.call(token, tool, await own(door, token, tool, given, name), version)
        nobodys = await door.call(
            token, tool, {**await own(door, token, tool, given, name), name: str(uuid.uuid4())}, version
        )
        assert outcome(theirs) == outcome(nobodys)
        if tool == "task_list":
            assert theirs.json["result"]["structuredContent"] == {"items": [], "next": None}
        else:
            assert outcome(theirs)["error"]["code"] == "not_found"
    assert await world.state() == before


async def own(door: Served, token: str, tool: str, given: dict[str, Any], name: str) -> dict[str, Any]:
    """The arguments with a task of the caller's own, where another argument is what is tried."""
    if name == "id" or "id" not in given:
        return given
    made = await door.call(token, "task_create", {"title": "their own"})
    return {**given, "id": made.json["result"]["structuredContent"]["id"]}


def outcome(answer: Answer) -> Any:
    assert answer.status == 200
    return json.loads(answer.json["result"]["content"][0]["text"])


async def test_colleagues_share_their_companys_tasks(door: Served, world: World, tenant: Make) -> None:
    token = await colleague(world, tenant)
    answer = await door.call(token, "task_get", {"id": world.task})
    assert answer.json["result"]["structuredContent"]["title"] == "carry out the plan"


async def test_lists_and_searches_hold_nothing_of_others(door: Served, world: World, tenant: Make) -> None:
    nothing: dict[str, Any] = {"items": [], "next": None}
    for who in WHO.values():
        token = await who(world, tenant)
        found = await door.call(token, "memory_search", {"query": ""})
        assert found.json["result"]["structuredContent"] == nothing
        found = await door.call(token, "integration_list", {})
        assert found.json["result"]["structuredContent"] == nothing
    found = await door.call(await stranger(world, tenant), "task_list", {})
    assert found.json["result"]["structuredContent"] == nothing


async def test_an_integration_is_not_there_by_its_name_either(door: Served, world: World, tenant: Make) -> None:
    for who in WHO.values():
        token = await who(world, tenant)
        call = {"method": "GET", "path": "/api/x"}
        theirs = await door.call(token, "integration_request", {"integration": "slack", **call})
        nobodys = await door.call(token, "integration_request", {"integration": "no such thing", **call})
        assert outcome(theirs) == outcome(nobodys)
        assert outcome(theirs)["error"]["code"] == "not_found"
    assert world.slack.seen == []


def test_a_tool_without_a_sample_fails_the_matrix(world: World) -> None:
    with pytest.raises(AssertionError, match="has no sample arguments"):
        sample("a_new_tool", world)
