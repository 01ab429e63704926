"""
What is changed, given up or used up in the middle of a call, at one replica or the other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from company_agents.app import App
from company_agents.integrations.integrations import Integration
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings
from tests.conftest import Tenant
from tests.mcp.slack import TOKEN, Slack, slack_stand_in
from tests.promises.crowd import Replica, new_bearer, outcome_of, post, replica, uses_of
from tests.promises.evidence import Past, connect_past, sql

Make = Callable[[], Awaitable[Tenant]]
Connect = Callable[[Tenant], Awaitable[Integration]]

# For what is waited for: a call that hangs would go beyond it.
PATIENCE = 20


@pytest.fixture(scope="module")
async def replicas(app: App, settings: Settings) -> AsyncIterator[tuple[Replica, Replica]]:
    """Two orchestrators of one instance: they share the home and the database, and nothing else."""
    async with replica(settings) as one, replica(settings) as other:
        yield one, other


@pytest.fixture
async def slack() -> AsyncIterator[Slack]:
    async with slack_stand_in() as started:
        yield started


@pytest.fixture
def connected(app: App, slack: Slack) -> Connect:
    """Connects a tenant to the stand-in for Slack; its agent may use it."""

    async def connect(tenant: Tenant) -> Integration:
        return await app.integrations.connect(
            tenant.local,
            "slack",
            Sensitive(TOKEN),
            base_url=slack.url,
            allow_private_network=True,
            allow=[tenant.agent.agent_id()],
        )

    return connect


async def ask(at: Replica, token: str) -> str:
    """A post to Slack: how it went."""
    return outcome_of(await at.mcp.call(token, "integration_request", {"integration": "slack", **post(1)}))


async def listing(at: Replica, token: str) -> str:
    """The company's tasks: how it went."""
    return outcome_of(await at.mcp.call(token, "task_list", {}))


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(PATIENCE):
        while not await true():
            await asyncio.sleep(0.01)


async def test_what_one_replica_has_acknowledged_counts_at_the_other_with_the_next_call(
    replicas: tuple[Replica, Replica], tenant: Make, connected: Connect, slack: Slack
) -> None:
    for here, there in (replicas, replicas[::-1]):
        who = await tenant()
        integration = await connected(who)
        agents, integrations, local, agent = here.app.agents, here.app.integrations, who.local, who.agent.agent_id()
        assert await ask(there, who.token) == "ok"
        await agents.pause(local, agent)
        assert await ask(there, who.token) == "401 unauthenticated"
        await agents.resume(local, agent)
        assert await ask(there, who.token) == "ok"
        _, given = await agents.rotate_token(local, agent)
        assert await ask(there, who.token) == "401 unauthenticated"
        assert await ask(there, token := given.reveal_text()) == "ok"
        await integrations.rotate(local, integration.id, Sensitive(bearer := new_bearer(slack)))
        assert await ask(there, token) == "ok"
        assert slack.used[-1][0] == bearer
        await integrations.disallow(local, integration.id, agent)
        assert await ask(there, token) == "tool not_found"
        await integrations.allow(local, integration.id, agent)
        assert await ask(there, token) == "ok"
        await here.app.revocation.delete(local, integration.id)
        assert await ask(there, token) == "tool not_found"
        await agents.retire(local, agent)
        assert await ask(there, token) == "401 unauthenticated"


async def test_of_many_rotations_at_once_each_holds_or_says_that_another_was_first(
    replicas: tuple[Replica, Replica], tenant: Make, connected: Connect, slack: Slack
) -> None:
    who = await tenant()
    integration = await connected(who)
    bearers = [new_bearer(slack) for _ in range(12)]
    attempts = [
        replicas[number % 2].app.integrations.rotate(who.local, integration.id, Sensitive(bearer))
        for number, bearer in enumerate(bearers)
    ]
    async with asyncio.timeout(PATIENCE):
        results = await asyncio.gather(*attempts, return_exceptions=True)
    held = [number for number, result in enumerate(results) if isinstance(result, Integration)]
    others = Counter(str(result) for result in results if not isinstance(result, Integration))
    assert held
    assert set(others) <= {"somebody else rotated it just now"}
    now = await replicas[0].app.integrations.get(who.local, integration.id)
    assert (now.version, now.status) == (1 + len(held), "connected")
    assert await ask(replicas[0], who.token) == await ask(replicas[1], who.token) == "ok"
    assert {bearer for bearer, _ in slack.used} <= {bearers[number] for number in held}


async def test_what_the_provider_says_of_a_replaced_credential_is_not_said_of_the_new_one(
    replicas: tuple[Replica, Replica], tenant: Make, connected: Connect, slack: Slack
) -> None:
    one, other = replicas
    who = await tenant()
    integration = await connected(who)
    slack.held = asyncio.Event()
    on_its_way = asyncio.create_task(ask(one, who.token))
    await until(arrived(slack))
    await other.app.integrations.rotate(who.local, integration.id, Sensitive(new_bearer(slack)))
    slack.good.remove(TOKEN)
    slack.held.set()
    assert await on_its_way == "ok"
    now = await other.app.integrations.get(who.local, integration.id)
    assert (now.status, now.status_reason) == ("connected", "")
    # Said of the present one, it counts.
    slack.good.clear()
    assert await ask(one, who.token) == "ok"
    now = await other.app.integrations.get(who.local, integration.id)
    assert now.status == "needs attention"


def arrived(slack: Slack) -> Callable[[], Awaitable[bool]]:
    async def has() -> bool:
        return bool(slack.used)

    return has


@contextlib.asynccontextmanager
async def nothing_recorded(app: App, company: Any) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
    """Hold the end of a company's chain, as another replica does for a moment; gives whether somebody waits for it."""
    async with (
        await connect_past(app, "postgres") as looking,
        await connect_past(app, "postgres") as holding,
        holding.transaction(),
    ):
        await sql(holding, "SELECT FROM audit_heads WHERE chain = %(chain)s FOR UPDATE", chain=company)
        yield partial(_waits, looking)


async def _waits(looking: Past) -> bool:
    query = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'audit_append'"
    return bool(await sql(looking, query))


async def test_a_call_whose_caller_hangs_up_goes_on_to_its_end_and_is_on_record(
    replicas: tuple[Replica, Replica], tenant: Make, connected: Connect, slack: Slack
) -> None:
    at, who = replicas[0], await tenant()
    await connected(who)
    async with nothing_recorded(at.app, who.company.id) as somebody_waits:
        call = asyncio.create_task(ask(at, who.token))
        await until(somebody_waits)
        assert slack.used == []
        call.cancel()
        await asyncio.wait([call])
        # By the time that these are answered, its hanging up has been noticed.
        for _ in range(5):
            assert outcome_of(await at.mcp.call(who.token, "whoami", {})) == "ok"
    await until(arrived(slack))
    begun, ended = await uses_of(at.app, who.company.id)
    assert begun == ended
    assert begun.total() == len(slack.used) == 1


async def test_a_call_that_is_cut_off_while_its_use_is_recorded_has_its_end_on_record_too(
    replicas: tuple[Replica, Replica], tenant: Make, connected: Connect, slack: Slack
) -> None:
    # As a server does that has waited long enough with its stop.
    at, who = replicas[0], await tenant()
    await connected(who)
    async with nothing_recorded(at.app, who.company.id) as somebody_waits:
        call = asyncio.create_task(at.app.requests.request(who.agent, "slack", "POST", "/api/chat.postMessage"))
        await until(somebody_waits)
        call.cancel()
        await asyncio.wait([call])
    # What was waiting to be recorded before is recorded by then.
    await at.app.audit.append(who.company.id, "test.looked")
    begun, ended = await uses_of(at.app, who.company.id)
    assert begun == ended
    assert begun.total() == 1
    assert slack.used == []


async def test_calls_that_find_every_connection_taken_wait_and_are_all_answered(
    replicas: tuple[Replica, Replica], tenant: Make, connected: Connect
) -> None:
    at, who = replicas[0], await tenant()
    await connected(who)
    async with every_connection(at.app):
        calls = [asyncio.create_task(listing(at, who.token)) for _ in range(200)]
        # What is recorded goes another way: no caller waits for a connection that waits for its record.
        await at.app.audit.append(None, "test.recorded")
        # So does what stands before a call to a provider.
        assert await ask(at, who.token) == "ok"
        assert not any(call.done() for call in calls)
    async with asyncio.timeout(PATIENCE):
        assert Counter(await asyncio.gather(*calls)) == {"ok": 200}


async def test_calls_that_get_no_connection_in_time_are_told_so_and_the_next_are_answered(
    settings: Settings, tenant: Make, connected: Connect, slack: Slack, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = await tenant()
    await connected(who)
    monkeypatch.setattr("company_agents.db.database.POOL_WAIT", 2.0)
    async with replica(settings.model_copy(update={"database_pool": 2})) as at:
        path = f"/v1/companies/{who.company.id}/tasks"
        async with every_connection(at.app):
            answers = await asyncio.gather(*(at.rest(who.token, "GET", path) for _ in range(50)))
            tools = await asyncio.gather(*(listing(at, who.token) for _ in range(50)))
        assert Counter(map(outcome_of, answers)) == {"503 unavailable": 50}
        assert Counter(tools) == {"tool unavailable": 50}
        for _ in range(3):
            assert outcome_of(await at.rest(who.token, "GET", path)) == "ok"
            assert await listing(at, who.token) == "ok"
            assert await ask(at, who.token) == "ok"
        begun, ended = await uses_of(at.app, who.company.id)
        assert begun == ended


@contextlib.asynccontextmanager
async def every_connection(app: App) -> AsyncIterator[None]:
    """Take all the connections that serve requests."""
    async with contextlib.AsyncExitStack() as taken:
        for _ in range(app.settings.database_pool):
            await taken.enter_async_context(app.store.db.transaction(None))
        yield
