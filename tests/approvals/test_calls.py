"""
Rules on real calls: per agent and for all, counted over all orchestrators, on every way to a provider.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from company_agents.app import App
from company_agents.errors import NotFound, Refused, TooMany
from company_agents.identity.principal import Caller
from company_agents.integrations.rulebook import RulesOfAgent, RulesOfIntegration
from company_agents.integrations.rules import NOTHING_SAID, Rules
from company_agents.outgoing.client import OutgoingRequest
from tests.approvals.conftest import Desk, MakeDesk
from tests.outgoing.servers import reply
from tests.promises.evidence import recorded, sql


async def status(here: Desk, method: str, path: str, caller: Caller | None = None, app: App | None = None) -> Any:
    """The status of a call, or the code of what it is refused for."""
    try:
        return (await here.request(app, caller, method=method, path=path, body=None)).status
    except Refused as error:
        return error.reason


async def counted(here: Desk, what: str) -> list[dict[str, Any]]:
    """Something with what was counted in this company, past us."""
    return await sql(here.superuser, f"{what} WHERE company_id = %(c)s", c=here.tenant.company.id)


async def one_minute(here: Desk, *others: Caller) -> None:
    """From now on all calls are in one minute, however long that takes."""
    for caller in (here.agent, *others):
        await sql(
            here.superuser,
            "INSERT INTO call_counts VALUES (%(c)s, %(i)s, %(a)s, now() + interval '1 hour', 0)",
            c=here.tenant.company.id,
            i=here.integration.id,
            a=caller.agent_id(),
        )


@pytest.fixture
def hire(app: App) -> Callable[[Desk], Awaitable[Caller]]:
    async def make(here: Desk) -> Caller:
        _, token = await app.agents.create(here.local, "bob")
        return await app.identity.agent(token.reveal_text())

    return make


async def test_what_is_said_of_an_agent_counts_and_the_rest_is_as_for_all(
    desk: MakeDesk, hire: Callable[[Desk], Awaitable[Caller]]
) -> None:
    here = await desk(Rules.read(only=["GET /a/**"], ask=["GET /a/secret"]))
    bob, known = await hire(here), here.app.integrations
    await known.allow(here.local, here.integration.id, bob.agent_id(), Rules.read(only=["GET,POST /b"]))
    assert [await status(here, "GET", path) for path in ("/a/x", "/a/secret", "/b")] == [
        200,
        "approval_needed",
        "not_allowed_here",
    ]
    assert [await status(here, *call, bob) for call in (("GET", "/a/x"), ("POST", "/b"), ("GET", "/b"))] == [
        "not_allowed_here",
        200,
        200,
    ]
    # Said again, what is not said stays; to a list that is empty everything, and nothing, stands.
    await known.allow(here.local, here.integration.id, bob.agent_id(), Rules.read(ask=["POST /b"]))
    assert [await status(here, *call, bob) for call in (("GET", "/a/x"), ("POST", "/b"))] == [
        "not_allowed_here",
        "approval_needed",
    ]
    await known.allow(here.local, here.integration.id, bob.agent_id())
    assert await status(here, "POST", "/b", bob) == "approval_needed"
    await known.allow(here.local, here.integration.id, bob.agent_id(), Rules.read(only=[], ask=[]))
    assert [await status(here, *call, bob) for call in (("GET", "/a/secret"), ("POST", "/b"))] == [200, 200]
    # Who is allowed anew begins as everybody.
    await known.disallow(here.local, here.integration.id, bob.agent_id())
    await known.allow(here.local, here.integration.id, bob.agent_id())
    assert await status(here, "POST", "/b", bob) == "not_allowed_here"


async def test_the_rules_for_all_count_for_who_is_allowed_with_everybody(
    desk: MakeDesk, hire: Callable[[Desk], Awaitable[Caller]]
) -> None:
    here = await desk(NOTHING_SAID)
    bob = await hire(here)
    await here.app.integrations.allow_all(here.local, here.integration.id, True)
    assert await status(here, "POST", "/v1/refunds", bob) == 200
    await here.app.rulebook.set(here.local, here.integration.id, Rules.read(only=["GET /**"], per_minute=2))
    await one_minute(here, bob)
    assert await status(here, "POST", "/v1/refunds", bob) == "not_allowed_here"
    assert [await status(here, "GET", "/x", bob) for _ in range(3)] == [200, 200, "too_many"]
    assert [await status(here, "GET", "/x") for _ in range(3)] == [200, 200, "too_many"]


async def test_a_run_has_the_rules_of_its_agent(desk: MakeDesk) -> None:
    here = await desk(Rules.read(only=["GET /a"], per_minute=2))
    _, token = await here.app.runs.open(here.agent)
    run = await here.app.identity.worker(token.reveal_text())
    await one_minute(here)
    assert await status(here, "GET", "/b", run) == "not_allowed_here"
    assert [await status(here, "GET", "/a", caller) for caller in (run, None, run)] == [200, 200, "too_many"]


async def test_rules_count_from_the_next_call_on_every_orchestrator(desk: MakeDesk, other: App) -> None:
    here = await desk(NOTHING_SAID)
    assert await status(here, "DELETE", "/a", app=other) == 200
    await here.app.rulebook.set(here.local, here.integration.id, Rules.read(only=["GET /a"]))
    for app in (here.app, other):
        assert await status(here, "DELETE", "/a", app=app) == "not_allowed_here"


async def test_a_refusal_is_on_record_once_for_many_alike(desk: MakeDesk) -> None:
    here = await desk(Rules.read(only=["GET /a"]))
    for number in range(20):
        assert await status(here, "GET", f"/b/{number}x") == "not_allowed_here"
    events = await recorded(here.app, here.tenant.company.id, "integration.refused", reason="not_allowed_here")
    assert [(event["actor"], event["integration"]) for event in events] == [
        (here.agent.label, str(here.integration.id))
    ]
    assert here.service.server.requests == []
    # Nothing was opened for them.
    assert await recorded(here.app, here.tenant.company.id, "credential.begun", path="/b/{id}") == []


async def test_calls_are_counted_over_all_orchestrators_and_those_that_are_refused_are_not(
    desk: MakeDesk, other: App
) -> None:
    here = await desk(Rules.read(per_minute=10))

    async def one(app: App) -> Any:
        return await status(here, "GET", "/a", app=app)

    await one_minute(here)
    found = await asyncio.gather(*(one(app) for app in (here.app, other) * 10))
    assert (found.count(200), found.count("too_many")) == (10, 10)
    [row] = await counted(here, "SELECT calls FROM call_counts")
    assert row["calls"] == 10
    with pytest.raises(TooMany) as error:
        await here.request(method="GET", path="/a", body=None)
    # That minute is one that a clock which went back has still before it.
    assert (error.value.http_status, error.value.retry_after) == (429, 60)
    assert "10 times a minute" in error.value.sentence
    assert await one(other) == "too_many"
    # Each orchestrator says it once, and writes it within a moment.
    await other.audit.append(here.tenant.company.id, "test.looked")
    events = await recorded(here.app, here.tenant.company.id, "integration.refused", reason="too_many")
    assert len(events) == 2
    await counted(here, "UPDATE call_counts SET minute = now() - interval '1 minute'")
    assert await one(other) == 200
    [row] = await counted(here, "SELECT calls FROM call_counts")
    assert row["calls"] == 1


async def test_without_a_limit_nothing_is_counted(desk: MakeDesk) -> None:
    here = await desk(NOTHING_SAID)
    assert await status(here, "GET", "/a") == 200
    assert await counted(here, "SELECT FROM call_counts") == []


async def test_a_redirect_goes_no_further_than_the_rules(desk: MakeDesk) -> None:
    here = await desk(Rules.read(only=["GET /a/**"], ask=["GET /a/secret"]))
    for place, followed in (("/a/b", True), ("/b", False), ("/a/secret", False), ("/a/%62?_method=put", False)):
        here.service.server.requests.clear()
        here.service.answers.append(reply(status="302 Found", location=place))
        assert (await status(here, "GET", "/a/x") == 200) is followed
        assert len(here.service.server.requests) == 1 + followed
    # POST becomes GET on the way: what is judged is what would be sent.
    await here.app.rulebook.set(here.local, here.integration.id, Rules.read(only=["POST /c", "POST /d"], ask=[]))
    here.service.answers.append(reply(status="303 See Other", location="/d"))
    assert await status(here, "POST", "/c") == 303


async def test_a_body_that_streams_is_looked_at_where_methods_are_restricted(desk: MakeDesk) -> None:
    here = await desk(Rules.read(only=["POST /a"]))

    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"text": "fine", "_met'
        yield b'hod": "DELETE"}'

    request = OutgoingRequest("POST", "/a", "", {"content-type": "application/json"}, pieces())
    with pytest.raises(Refused) as refused:
        async with here.app.relay.open(here.agent, str(here.integration.id), request) as relayed:
            await relayed.whole()
    assert refused.value.reason == "not_allowed_here"
    # The request never came to its end.
    assert here.service.server.requests == []


async def test_rules_are_shown_to_people_and_an_agent_sees_its_own(
    desk: MakeDesk, hire: Callable[[Desk], Awaitable[Caller]]
) -> None:
    here = await desk(Rules.read(only=["GET /a/**"]))
    bob, ann = await hire(here), here.agent
    first = Rules.read(ask=["post /b"], per_minute=5)
    await here.app.integrations.allow(here.local, here.integration.id, ann.agent_id(), first)
    await here.app.integrations.allow(here.local, here.integration.id, bob.agent_id(), Rules.read(only=["* /c"]))
    said = await here.app.rulebook.get(here.local, here.integration.id)
    assert said == RulesOfIntegration(
        here.integration.id,
        ["GET /a/**"],
        [],
        0,
        [
            RulesOfAgent(ann.agent_id(), None, ["POST /b"], 5),
            RulesOfAgent(bob.agent_id(), ["* /c"], None, None),
        ],
    )
    assert [each.agent for each in (await here.app.rulebook.get(bob, here.integration.id)).agents] == [bob.agent_id()]
    assert await here.app.rulebook.for_agent(ann, [here.integration.id]) == {
        here.integration.id: Rules(only=("GET /a/**",), ask=("POST /b",), per_minute=5)
    }
    [event] = await recorded(here.app, here.tenant.company.id, "integration.allowed", agent=ann.agent_id())
    assert (event["ask"], event["per_minute"]) == (["POST /b"], 5)
    await here.app.rulebook.set(here.local, here.integration.id, Rules.read(only=[]))
    [event] = await recorded(here.app, here.tenant.company.id, "integration.rules_set")
    assert (event["only"], "ask" in event) == ("nothing", False)


async def test_agents_say_no_rules_and_strangers_see_none(desk: MakeDesk) -> None:
    here, elsewhere = await desk(), await desk()
    with pytest.raises(Refused, match="integration:allow"):
        await here.app.rulebook.set(here.agent, here.integration.id, Rules.read(only=[]))
    for caller in (elsewhere.local, elsewhere.agent):
        with pytest.raises(NotFound):
            await here.app.rulebook.get(caller, here.integration.id)
    with pytest.raises(NotFound):
        await here.app.rulebook.set(elsewhere.local, here.integration.id, Rules.read(only=[]))
