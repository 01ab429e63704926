"""
Approvals at every door: asked, decided and collected over REST, MCP and the gateway; and by an orchestrator that goes on by itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from company_agents import app as composition
from company_agents.app import App, open_app
from company_agents.identity.permissions import Role
from company_agents.integrations.rules import Rules
from company_agents.settings import Settings
from tests.approvals.conftest import REFUND, Desk
from tests.conftest import LOCAL
from tests.dashboard.people import member
from tests.gateway.conftest import serving
from tests.mcp.served import refused, served, use
from tests.outgoing.servers import reply

DONE = {"id": "re_1", "status": "succeeded"}


@pytest.fixture(scope="module")
async def url(app: App) -> AsyncIterator[str]:
    async with serving(app) as opened:
        yield opened


@pytest.fixture
async def http(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(60)) as session:
        yield session


async def said(http: aiohttp.ClientSession, token: str, method: str, path: str, **more: Any) -> tuple[int, Any, Any]:
    """Status, headers and body of an answer."""
    headers = {"Authorization": f"Bearer {token}", **more.pop("headers", {})}
    async with http.request(method, path, headers=headers, **more) as answer:
        text = await answer.text()
        return answer.status, answer.headers, json.loads(text) if "json" in answer.content_type else text


async def operator(here: Desk, role: Role = Role.OPERATOR) -> str:
    """The token of a person's programs."""
    person = await member(here.app, here.local, role)
    _, token = await here.app.operators.create_token(LOCAL, "tests", 1, role, person.operator.id)
    return token.reveal_text()


async def test_over_the_gateway_a_client_asks_and_gets_the_reply_when_it_asks_again(
    here: Desk, http: aiohttp.ClientSession
) -> None:
    place, token = f"/gateway/{here.integration.id}/v1/refunds?expand=charge", here.tenant.token
    status, headers, answer = await said(http, token, "POST", place, json=REFUND)
    assert (status, headers["company-agents-error"]) == (403, "approval_needed")
    assert (answer["error"]["code"], here.service.refunds) == ("approval_needed", [])
    await here.approve((await here.app.approvals.list(here.local)).items[0].id)
    assert answer["error"]["approval"] == str((await here.app.approvals.list(here.local)).items[0].id)
    status, headers, answer = await said(http, token, "POST", place, json=REFUND)
    assert (status, answer, headers["content-type"]) == (200, DONE, "application/json")
    [sent] = here.service.refunds
    assert (sent.path, "company-agents-wait" in sent.headers) == ("/v1/refunds?expand=charge", False)
    # What no rule allows, and what a WebSocket would be sent unseen, is not even asked.
    await here.app.rulebook.set(here.local, here.integration.id, Rules.read(only=["POST /v1/refunds"]))
    status, headers, _ = await said(http, token, "DELETE", place)
    assert (status, headers["company-agents-error"]) == (403, "not_allowed_here")
    async with http.get(
        f"/gateway/{here.integration.id}/v1/refunds",
        headers={
            "Authorization": f"Bearer {token}",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        },
    ) as socket:
        assert socket.status == 403
    assert len(here.service.server.requests) == 1


async def test_over_the_gateway_a_client_waits_for_the_person(here: Desk, http: aiohttp.ClientSession) -> None:
    place, token = f"/gateway/{here.integration.id}/v1/refunds", here.tenant.token

    async def waits(number: int) -> tuple[int, Any, Any]:
        more: dict[str, Any] = {"json": {"n": number}, "headers": {"Company-Agents-Wait": "30"}}
        return await said(http, token, "POST", place, **more)

    async def waiting() -> Any:
        while not (found := (await here.app.approvals.list(here.local, state="waiting")).items):
            await asyncio.sleep(0.02)
        return found[0].id

    here.service.answers.append(reply(b"made", status="201 Created", content_type="text/csv", x_kind="of a refund"))
    task = asyncio.create_task(waits(1))
    await here.approve(await waiting())
    status, headers, answer = await task
    assert (status, headers["content-type"], headers["x-kind"], answer) == (201, "text/csv", "of a refund", "made")
    task = asyncio.create_task(waits(2))
    await here.app.approvals.refuse(here.local, await waiting(), "no")
    status, headers, answer = await task
    assert (status, headers["company-agents-error"]) == (403, "approval_refused")
    assert answer["error"]["message"] == "a person refused this request: no"
    for wrong in ("-1", "301", "x"):
        status, _, _ = await said(http, token, "POST", place, json=REFUND, headers={"Company-Agents-Wait": wrong})
        assert status == 422


async def test_over_rest_it_is_asked_shown_decided_and_collected(here: Desk, http: aiohttp.ClientSession) -> None:
    root, agent = f"/v1/companies/{here.tenant.company.id}", here.tenant.token
    person, viewer = await operator(here), await operator(here, Role.VIEWER)
    call = {"method": "POST", "path": "/v1/refunds", "body": REFUND}
    place = f"{root}/integrations/{here.integration.id}/request"
    status, headers, problem = await said(http, agent, "POST", place, json=call)
    assert (status, headers["content-type"], problem["code"]) == (403, "application/problem+json", "approval_needed")
    one = f"{root}/approvals/{problem['facts']['approval']}"
    for token, shown in ((person, True), (viewer, False), (agent, False)):
        status, _, found = await said(http, token, "GET", one)
        assert (status, found["state"], found["reply"], found["request"] is not None) == (200, "waiting", None, shown)
    _, _, found = await said(http, person, "GET", one)
    assert found["request"] == {
        "method": "POST",
        "url": f"{here.service.server.url}/v1/refunds",
        "headers": [{"name": "Content-Type", "value": "application/json"}],
        "body": '{"charge":"ch_17","amount":500}',
        "base64": None,
        "size": 31,
        "sha256": found["request"]["sha256"],
    }
    for token in (agent, viewer):
        status, _, _ = await said(http, token, "POST", f"{one}/approve", json={})
        assert status == 403
    status, _, found = await said(http, person, "POST", f"{one}/approve", json={"note": "yes"})
    assert (status, found["state"], found["note"]) == (200, "approved", "yes")
    status, _, found = await said(http, person, "POST", f"{one}/refuse", json={})
    assert (status, found["code"]) == (409, "approval_over")
    status, _, found = await said(http, agent, "GET", f"{one}?wait=30")
    assert (found["state"], found["reply"]["status"], found["reply"]["body"], found["reply"]["cut"]) == (
        "done",
        200,
        DONE,
        False,
    )
    status, _, listed = await said(http, person, "GET", f"{root}/approvals?state=done")
    assert [each["id"] for each in listed["items"]] == [found["id"]]
    # It was told: the same request is a new one, and waits.
    status, _, problem = await said(http, agent, "POST", place, json={**call, "wait": 1})
    assert (status, problem["code"]) == (403, "approval_needed")


async def test_over_rest_rules_are_said_and_shown(here: Desk, http: aiohttp.ClientSession) -> None:
    one = f"/v1/companies/{here.tenant.company.id}/integrations/{here.integration.id}"
    person, agent_id = await operator(here), str(here.agent.agent_id())
    status, _, found = await said(http, person, "PUT", f"{one}/rules", json={"only": ["get /a"], "per_minute": 5})
    assert (status, found["only"], found["ask"], found["per_minute"]) == (200, ["GET /a"], ["POST /v1/refunds"], 5)
    body = {"agent": agent_id, "ask": []}
    assert (await said(http, person, "POST", f"{one}/allow", json=body))[0] == 200
    _, _, found = await said(http, here.tenant.token, "GET", f"{one}/rules")
    assert found["agents"] == [{"agent": agent_id, "only": None, "ask": [], "per_minute": None}]
    status, _, problem = await said(http, person, "PUT", f"{one}/rules", json={"ask": ["GET a"]})
    assert (status, problem["code"]) == (422, "wrong_usage")


async def test_over_mcp_a_model_is_told_what_to_do_next(here: Desk) -> None:
    call = {"integration": "generic", "method": "POST", "path": "/v1/refunds", "body": REFUND}
    async with served(here.app) as door, door.client(here.tenant.token) as client:
        [listed] = (await use(client, "integration_list"))["items"]
        assert (listed["only"], listed["ask"], listed["per_minute"]) == ([], ["POST /v1/refunds"], None)
        result = await client.call_tool("integration_request", call)
        assert result.is_error
        error = json.loads(result.content[0].text)["error"]  # type: ignore[union-attr]
        assert (error["code"], "approval_get" in error["hint"]) == ("approval_needed", True)
        approval = error["facts"]["approval"]
        found = await use(client, "approval_get", id=approval)
        assert (found["state"], found["reply"], "ask again later" in found["next_step"]) == ("waiting", None, True)
        await here.app.approvals.approve(here.local, (await here.app.approvals.list(here.local)).items[0].id)
        found = await use(client, "approval_get", id=approval, wait_seconds=30)
        assert (found["state"], found["reply"]["status"], found["reply"]["body"]) == ("done", 200, DONE)
        missing = await refused(client, "approval_get", id=str(here.agent.agent_id()))
        assert missing["code"] == "not_found"
        too_long = await refused(client, "approval_get", id=approval, wait_seconds=61)
        assert too_long["code"] == "wrong_usage"


async def test_an_orchestrator_goes_on_by_itself_with_what_another_left(
    here: Desk, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, late = await here.ask(), await here.ask(body={"n": 1})
    here.app.approvals.approved, before = lambda scope, approval: None, here.app.approvals.approved
    await here.app.approvals.approve(here.local, left)
    here.app.approvals.approved = before
    await here.change(left, "tried_at = now() - interval '1 hour'")
    await here.change(late, "expires_at = now()")
    monkeypatch.setattr(composition, "APPROVALS_EVERY", 0.1)
    async with open_app(settings, long_lived=True), asyncio.timeout(30):
        while {(await here.row(left))["state"], (await here.row(late))["state"]} != {"done", "expired"}:
            await asyncio.sleep(0.05)
    assert len(here.service.refunds) == 1
