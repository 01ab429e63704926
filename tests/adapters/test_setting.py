"""
How an agent gets its adapter: who may say so, and what nobody may write there.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from company_agents.app import App
from company_agents.errors import Conflict, Refused, WrongUsage
from company_agents.identity.permissions import Kind, Role
from company_agents.identity.principal import Caller, Principal, Via
from company_agents.identity.tokens import new_agent_token, new_run_token
from company_agents.runs.no_secrets import check_no_secrets
from tests.adapters.llm_server import ANTHROPIC_KEY
from tests.conftest import Tenant
from tests.mcp.slack import TOKEN
from tests.promises.evidence import recorded

MakeTenant = Callable[[], Awaitable[Tenant]]

COMMAND = {"command": ["agent", "--quick"]}
OPENING = [
    (COMMAND, True),
    ({**COMMAND, "network": "open"}, False),
    ({**COMMAND, "readable": ["/srv/data/of-the-company"]}, False),
    ({"preset": "claude-code", "integration": "model", "program": "/opt/elsewhere/claude"}, False),
]


def somebody(tenant: Tenant, role: Role, *, of_instance: bool) -> Caller:
    """Somebody with a role in the company; an owner of the instance, or not."""
    here = Role.OWNER if of_instance else Role.VIEWER
    principal = Principal(Kind.OPERATOR, "ola", Via.SESSION, uuid.uuid4(), None, here, Role.OWNER)
    return Caller(principal, tenant.local.scope, role)


async def test_a_viewer_and_an_agent_set_nothing(app: App, tenant: MakeTenant) -> None:
    here = await tenant()
    _, token = await app.runs.open(here.agent)
    callers = [somebody(here, Role.VIEWER, of_instance=False), here.agent, await app.identity.run(token.reveal_text())]
    for caller in callers:
        with pytest.raises(Refused):
            await app.adapters.set(caller, here.agent.agent_id(), "process", COMMAND)
        with pytest.raises(Refused):
            await app.adapters.remove(caller, here.agent.agent_id())
    assert (await app.agents.get(here.local, here.agent.agent_id())).adapter is None


@pytest.mark.parametrize(("config", "unsandboxed"), OPENING)
async def test_only_an_owner_of_the_instance_opens_a_sandbox(
    app: App, tenant: MakeTenant, config: dict[str, Any], unsandboxed: bool
) -> None:
    here = await tenant()
    agent_id = here.agent.agent_id()
    # Who owns one company would get at what all the others have.
    for role in (Role.OPERATOR, Role.OWNER):
        caller = somebody(here, role, of_instance=False)
        await app.adapters.set(caller, agent_id, "process", COMMAND)
        with pytest.raises(Refused, match="instance:agent:unsandbox"):
            await app.adapters.set(caller, agent_id, "process", config, unsandboxed=unsandboxed)
    assert (await app.agents.get(here.local, agent_id)).adapter_config["command"] == COMMAND["command"]
    owner = somebody(here, Role.OWNER, of_instance=True)
    agent, _ = await app.adapters.set(owner, agent_id, "process", config, unsandboxed=unsandboxed)
    assert agent.unsandboxed is unsandboxed
    action = "agent.unsandboxed" if unsandboxed else "agent.adapter_set"
    assert (await recorded(app, here.company.id, action, actor=owner.label))[-1]["opens"]


async def test_whoever_changes_the_command_of_an_agent_that_left_the_sandbox_brings_it_back(
    app: App, tenant: MakeTenant
) -> None:
    here = await tenant()
    agent_id = here.agent.agent_id()
    await app.adapters.set(here.local, agent_id, "process", COMMAND, unsandboxed=True)
    [listed] = (await app.agents.list(here.local)).items
    assert listed.unsandboxed and (await app.agents.get(here.local, agent_id)).unsandboxed
    operator = somebody(here, Role.OPERATOR, of_instance=False)
    agent, _ = await app.adapters.set(operator, agent_id, "process", {"command": ["cat", "/etc/passwd"]})
    assert not agent.unsandboxed


def of_environment(value: str) -> dict[str, Any]:
    return {"environment": {"MODE": value}}


SECRET = [
    {"command": ["agent", "--key", ANTHROPIC_KEY]},
    {"command": ["sh", "-c", f"curl -H 'Authorization: Bearer {TOKEN}' https://slack.com"]},
    {"command": ["agent", f"--token={new_agent_token(uuid.uuid4(), uuid.uuid4()).reveal_text()}"]},
    {"system": f"Your key is {new_run_token(uuid.uuid4(), uuid.uuid4()).reveal_text()}."},
    {"system": "-----BEGIN RSA PRIVATE KEY-----\nMIIE"},
    {"arguments": ["AKIA" + "IOSFODNN7EXAMPLE"]},
    {"arguments": ["https://user:hunter2@git.example.com/repo"]},
    {"environment": {"GITHUB_TOKEN": "x"}},
    {"environment": {"database-password": "x"}},
    of_environment(hashlib.sha256(b"another").hexdigest()),
    of_environment(base64.b64encode(hashlib.sha256(b"a secret").digest()).decode()),
    of_environment("ghp_" + "a1B2" * 9),
    of_environment(f"https://api.example.com/?key={'k3J9fQ2mZx81LpWv7RtY'}"),
    of_environment("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc"),
]
PLAIN = [
    {"command": ["/usr/bin/env", "python3", "-m", "agent", "--model", "claude-sonnet-4-5-20250929"]},
    {"command": ["sh", "-c", "exec agent --id 0b0bb7e2-7e63-4a4b-8b0a-6f2d7f0f9f5e < input.txt"]},
    {"system": "Answer in English. Never ask for a password, a key or a token: there are none."},
    {"environment": {"MAX_TOKENS": "200000", "KEYBOARD": "us", "LANG": "en_US.UTF-8", "RUST_LOG": "info,agent=debug"}},
    of_environment("us.anthropic.claude-3-5-sonnet-20241022-v2:0"),
    of_environment("/usr/lib/python3.11/site-packages:/opt/Tools/NodeJs/v20.11.1/lib/node_modules"),
    of_environment("https://api.example.com/v1/projects/12345/items?since=2026-01-01T00:00:00Z"),
    of_environment("0b0bb7e2-7e63-4a4b-8b0a-6f2d7f0f9f5e"),
    of_environment("-Xmx4096m -XX:+UseG1GC -Dfile.encoding=UTF-8"),
]


@pytest.mark.parametrize("config", SECRET)
def test_what_looks_like_a_credential_is_refused_and_not_repeated(app: App, config: dict[str, Any]) -> None:
    with pytest.raises(WrongUsage, match="looks like a credential") as refused:
        check_no_secrets(config, app.providers.list())
    assert "integration" in refused.value.hint
    said = refused.value.sentence + refused.value.hint
    assert not [value for value in texts(config) if len(value) > 12 and value in said]


@pytest.mark.parametrize("config", PLAIN)
def test_what_is_none_is_taken(app: App, config: dict[str, Any]) -> None:
    check_no_secrets(config, app.providers.list())


def texts(value: Any) -> list[str]:
    """The values that stand in it."""
    if isinstance(value, dict):
        return [text for entry in value.values() for text in texts(entry)]
    return [text for entry in value for text in texts(entry)] if isinstance(value, list) else [value]


async def test_a_secret_is_refused_through_each_kind_of_adapter(app: App, tenant: MakeTenant) -> None:
    here = await tenant()
    agent_id = here.agent.agent_id()
    for kind, config in (
        ("process", {"command": ["agent", TOKEN]}),
        ("llm", {"integration": "model", "model": ANTHROPIC_KEY}),
        ("http", {"url": f"https://agents.example.com/{ANTHROPIC_KEY}"}),
    ):
        with pytest.raises(WrongUsage, match="looks like a credential"):
            await app.adapters.set(here.local, agent_id, kind, config)


async def test_the_query_of_an_address_is_kept_sealed_and_shown_nowhere(app: App, tenant: MakeTenant) -> None:
    here = await tenant()
    config = {"url": "https://agents.example.com/runs?key=of-the-receiver"}
    agent, secret = await app.adapters.set(here.local, here.agent.agent_id(), "http", config)
    assert secret is not None
    assert agent.adapter_config == {"url": "https://agents.example.com/runs", "allow_private_network": False}
    told = repr(agent) + repr(await recorded(app, here.company.id, "agent.adapter_set"))
    assert "of-the-receiver" not in told and secret.reveal_text() not in told


@pytest.mark.parametrize(
    ("kind", "config", "said"),
    [
        ("llm", {"model": "m"}, "integration is missing"),
        ("llm", {"integration": "model", "model": "m", "max_tokens": True}, "max_tokens is a whole number"),
        ("llm", {"integration": "model", "model": "m", "temperature": 1}, "there is no field temperature"),
        ("llm", {"integration": "model", "model": "m", "api": "soap"}, "api is anthropic or openai"),
        ("llm", {"integration": "model", "model": ["m"]}, "model is a text"),
        ("llm", {"integration": "model", "model": "m", "path": "//elsewhere?x"}, "path begins with /"),
        ("http", {"url": "https://agents.example.com", "allow_private_network": "no"}, "true or false"),
        ("http", {"url": "file:///etc/passwd"}, "this is not the address of an agent"),
        ("http", {"url": "https://a:b@agents.example.com"}, "a user name or a password"),
        ("soap", {}, "there is no such adapter"),
    ],
)
async def test_a_configuration_that_will_not_do_changes_nothing(
    app: App, tenant: MakeTenant, kind: str, config: dict[str, Any], said: str
) -> None:
    here = await tenant()
    with pytest.raises(WrongUsage, match=said):
        await app.adapters.set(here.local, here.agent.agent_id(), kind, config)
    assert (await app.agents.get(here.local, here.agent.agent_id())).adapter is None


async def test_a_retired_agent_gets_none(app: App, tenant: MakeTenant) -> None:
    here = await tenant()
    await app.agents.retire(here.local, here.agent.agent_id())
    with pytest.raises(Conflict):
        await app.adapters.set(here.local, here.agent.agent_id(), "process", COMMAND)
