"""
An agent that sends a token where none belongs finds it neither in the answer nor on record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from company_agents.app import App
from company_agents.integrations.integrations import Integration
from tests.conftest import Tenant
from tests.mcp.served import Served

TOKEN = "xoxb-17-a-made-up-token"
CALL = {"integration": "slack", "method": "GET", "path": "/api/fine"}


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("whoami", {TOKEN: 1}),
        ("integration_request", {**CALL, TOKEN: 1}),
        ("integration_request", {**CALL, "integration": TOKEN}),
        ("integration_request", {**CALL, "method": f"{TOKEN}!\n"}),
        ("integration_request", {**CALL, "path": f"/api/{TOKEN}:{TOKEN}/a"}),
        ("integration_request", {**CALL, "path": f"/api/{TOKEN}.{TOKEN}"}),
        ("integration_request", {**CALL, "headers": {TOKEN: "\0"}}),
        ("integration_request", {**CALL, "query": {TOKEN: {}}}),
    ],
)
async def test_it_is_repeated_nowhere(
    app: App,
    door: Served,
    tenant: Callable[[], Awaitable[Tenant]],
    connected: Callable[[Tenant], Awaitable[Integration]],
    tool: str,
    arguments: dict[str, Any],
) -> None:
    here = await tenant()
    await connected(here)
    answer = await door.call(here.token, tool, arguments)
    assert answer.status == 200
    assert TOKEN not in answer.text.lower()
    # Refusals are written a moment later; the next event comes after them.
    await app.agents.create(here.local, "ben")
    events = await app.events.newest(here.company.id)
    assert "agent.created" in str(events)
    assert TOKEN not in str(events).lower()


async def test_a_method_of_the_protocol_that_there_is_not_is_repeated_where_it_is_a_word(
    door: Served, tenant: Callable[[], Awaitable[Tenant]]
) -> None:
    token = (await tenant()).token
    assert (await door.rpc(token, "resources/lost")).json["error"]["data"] == "resources/lost"
    answer = await door.rpc(token, TOKEN)
    assert answer.json["error"]["message"] == "Method not found"
    assert TOKEN not in answer.text
