"""
A stream ends when whoever opened it is no longer allowed to: before whoever took that away is answered, on every
orchestrator, and never as if it were whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from company_agents.app import App
from company_agents.errors import Refused, Unavailable
from company_agents.integrations import streams
from company_agents.integrations.relayed import Relayed
from company_agents.integrations.rules import NOTHING_SAID, Rules
from company_agents.integrations.streams import Streams
from company_agents.outgoing.client import OutgoingRequest
from company_agents.sensitive import Sensitive
from tests.gateway.wire import PATIENCE
from tests.promises.evidence import Past, recorded, sql
from tests.streams.conftest import World, streaming

GET = OutgoingRequest("GET", "/ticks")


async def cut_of(app: App, world: World) -> list[dict[str, object]]:
    """The uses that are on record as cut off."""
    company = world.tenant.company.id
    async with asyncio.timeout(PATIENCE):
        while not (found := await recorded(app, company, "credential.ended", result="cut")):
            await asyncio.sleep(0.02)
    return found


# — each way to lose it —


async def paused(world: World) -> None:
    await world.app.agents.pause(world.tenant.local, world.tenant.agent.agent_id())


async def retired(world: World) -> None:
    await world.app.agents.retire(world.tenant.local, world.tenant.agent.agent_id())


async def token_replaced(world: World) -> None:
    await world.app.agents.rotate_token(world.tenant.local, world.tenant.agent.agent_id())


async def disallowed(world: World) -> None:
    await world.app.integrations.disallow(world.tenant.local, world.here.integration.id, world.tenant.agent.agent_id())


async def deleted(world: World) -> None:
    await world.app.revocation.delete(world.tenant.local, world.here.integration.id)


async def not_for_all(world: World) -> None:
    await world.app.integrations.allow_all(world.tenant.local, world.here.integration.id, False)


OF_AN_AGENT = [paused, retired, token_replaced, disallowed, deleted]


@pytest.mark.parametrize("lose", OF_AN_AGENT, ids=lambda lose: lose.__name__)
async def test_an_agents_stream_has_ended_when_its_access_is_taken_away(
    replica: App, world: World, lose: Callable[[World], Awaitable[None]]
) -> None:
    async with streaming(world.here) as stream:
        await lose(world)
        sent = world.ticking.sent
        await stream.breaks()
    assert stream.last <= sent
    await world.ticking.hung_up()
    [use] = await cut_of(replica, world)
    assert (use["error"], use["status"]) == ("stream_cut", 200)


async def test_a_stream_has_ended_when_the_integration_is_for_all_no_more(world: World) -> None:
    integration, agent = world.here.integration.id, world.tenant.agent.agent_id()
    await world.app.integrations.allow_all(world.tenant.local, integration, True)
    async with world.tenant.local.scope.transaction() as tx:
        await tx.run("integration_disallow", integration_id=integration, agent_id=agent)
    async with streaming(world.here) as stream:
        await not_for_all(world)
        sent = world.ticking.sent
        await stream.breaks()
    assert stream.last <= sent


async def test_the_streams_of_a_run_have_ended_when_it_is_cancelled(replica: App, world: World) -> None:
    run, token = await world.run()
    async with streaming(world.here, token) as one, streaming(world.here, token) as two, streaming(world.here) as other:
        await world.app.runs.cancel(world.tenant.local, run.id)
        sent = world.ticking.sent
        await asyncio.gather(one.breaks(), two.breaks())
        await other.beyond(sent)
    assert max(one.last, two.last) <= sent
    assert len(await cut_of(replica, world)) == 2


async def test_the_streams_of_runs_have_ended_when_they_are_cut_off(world: World) -> None:
    _, old = await world.run()
    await world.app.integrations.rotate(
        world.tenant.local, world.here.integration.id, Sensitive("a-credential-that-stays-here-1")
    )
    _, new = await world.run()
    async with streaming(world.here, old) as cut, streaming(world.here, new) as kept:
        # Those that hold a version that drains.
        await world.app.runs.cut(world.tenant.local, world.here.integration.id)
        sent = world.ticking.sent
        await cut.breaks()
        await kept.beyond(sent)
        await world.app.runs.cut(world.tenant.local, world.here.integration.id, every=True)
        sent_then = world.ticking.sent
        await kept.breaks()
    assert cut.last <= sent
    assert kept.last <= sent_then


async def test_a_stream_ends_with_the_lease_of_its_run_and_with_its_version(world: World, superuser: Past) -> None:
    run, token = await world.run()
    async with streaming(world.here, token) as of_run, streaming(world.here) as of_agent:
        await sql(superuser, "UPDATE runs SET lease_until = clock_timestamp() WHERE id = %(id)s", id=run.id)
        await of_run.breaks()
        await of_agent.beyond(world.ticking.sent)
        await world.app.runs.cancel(world.tenant.local, run.id)
        await world.app.integrations.rotate(
            world.tenant.local, world.here.integration.id, Sensitive("a-credential-that-stays-here-1")
        )
        await of_agent.breaks()


async def test_a_new_token_for_an_agent_leaves_the_streams_of_its_runs_alone(world: World) -> None:
    _, token = await world.run()
    async with streaming(world.here, token) as of_run, streaming(world.here) as of_agent:
        await token_replaced(world)
        await of_agent.breaks()
        await of_run.beyond(world.ticking.sent)


async def test_what_is_lost_in_one_company_ends_nothing_in_another(world: World, door: str, connect: object) -> None:
    assert callable(connect)
    other = await connect(world.here.service, door=door)
    async with streaming(world.here) as one, streaming(other) as two:
        await paused(world)
        await one.breaks()
        await two.beyond(world.ticking.sent)


async def test_a_call_that_waits_for_its_answer_is_cut_off_too(replica: App, world: World) -> None:
    asked = asyncio.Event()

    async def silent(request: object) -> dict[str, str]:
        asked.set()
        await asyncio.sleep(PATIENCE)
        return {}

    world.here.service.on("GET", "/silent", silent)

    async def call() -> None:
        async with replica.relay.open(
            world.tenant.agent, str(world.here.integration.id), OutgoingRequest("GET", "/silent"), whole=True
        ):
            raise AssertionError("it was answered")

    calling = asyncio.create_task(call())
    await asyncio.wait_for(asked.wait(), PATIENCE)
    await disallowed(world)
    with pytest.raises(Refused, match="cut off"):
        await calling
    assert [use["result"] for use in await cut_of(replica, world)] == ["cut"]


# — rules that are changed —


async def said_of_all(world: World, **rules: Any) -> None:
    await world.app.rulebook.set(world.tenant.local, world.here.integration.id, Rules.read(**rules))


async def said_of_one(world: World, agent: UUID | None = None, **rules: Any) -> None:
    which = (world.here.integration.id, agent or world.tenant.agent.agent_id())
    await world.app.integrations.allow(world.tenant.local, *which, Rules.read(**rules))


async def as_everybody(world: World) -> None:
    which = (world.here.integration.id, world.tenant.agent.agent_id())
    await world.app.rulebook.replace(world.tenant.local, *which, NOTHING_SAID)


async def said_of_another(world: World) -> None:
    other, _ = await world.app.agents.create(world.tenant.local, "bob")
    await said_of_one(world, other.id, only=["GET /elsewhere"])


Change = Callable[[World], Awaitable[None]]
TICKS = ["GET /ticks"]
CHANGED: dict[str, tuple[Change, Change]] = {
    "of-all": (lambda world: said_of_all(world), lambda world: said_of_all(world, only=["GET /elsewhere"])),
    "asked-of-all": (lambda world: said_of_all(world), lambda world: said_of_all(world, ask=TICKS)),
    "taken-from-all": (lambda world: said_of_all(world, only=TICKS), lambda world: said_of_all(world, only=[])),
    "of-one": (lambda world: said_of_all(world), lambda world: said_of_one(world, only=["GET /elsewhere"])),
    "asked-of-one": (lambda world: said_of_one(world, ask=[]), lambda world: said_of_one(world, ask=TICKS)),
    "taken-from-one": (lambda world: said_of_one(world, only=TICKS), as_everybody),
}
UNCHANGED: dict[str, tuple[Change, Change]] = {
    "the-same": (lambda world: said_of_all(world, only=TICKS), lambda world: said_of_all(world, only=TICKS)),
    "how-often": (lambda world: said_of_all(world), lambda world: said_of_all(world, per_minute=60)),
    "of-another": (lambda world: said_of_all(world), said_of_another),
    "of-all-but-it": (
        lambda world: said_of_one(world, only=TICKS, ask=[]),
        lambda world: said_of_all(world, only=["GET /elsewhere"], ask=TICKS),
    ),
}


@pytest.mark.parametrize("by", ["its token", "a run"])
@pytest.mark.parametrize("rules", CHANGED)
async def test_a_stream_has_ended_when_the_rules_that_allowed_it_were_changed(
    replica: App, world: World, rules: str, by: str
) -> None:
    before, change = CHANGED[rules]
    await before(world)
    token = (await world.run())[1] if by == "a run" else None
    async with streaming(world.here, token) as stream:
        await change(world)
        sent = world.ticking.sent
        await stream.breaks()
    assert stream.last <= sent
    [use] = await cut_of(replica, world)
    assert use["error"] == "stream_cut"


@pytest.mark.parametrize("rules", UNCHANGED)
async def test_a_stream_goes_on_while_what_it_was_judged_by_stays_the_same(world: World, rules: str) -> None:
    before, change = UNCHANGED[rules]
    await before(world)
    async with streaming(world.here) as stream:
        await change(world)
        await world.app.agents.closed()
        await stream.beyond(world.ticking.sent)


# — who cannot ask —


@pytest.mark.parametrize("most", [1, 1_000_000_000], ids=["silent", "talking"])
async def test_a_replica_that_cannot_check_ends_its_streams(
    world: World, superuser: Past, monkeypatch: pytest.MonkeyPatch, replica: App, most: int
) -> None:
    world.ticking.most = most
    monkeypatch.setattr(streams, "PATIENCE", 0.5)
    async with streaming(world.here) as stream:
        await sql(superuser, "REVOKE SELECT ON run_pins FROM company_agents_serve")
        try:
            await stream.breaks()
        finally:
            await sql(superuser, "GRANT SELECT ON run_pins TO company_agents_serve")
    [use] = await cut_of(replica, world)
    assert use["error"] == "unavailable"
    world.ticking.most += 2
    async with streaming(world.here) as again:
        await again.goes_on()


@contextlib.asynccontextmanager
async def relayed(app: App, world: World) -> AsyncIterator[AsyncGenerator[bytes, None]]:
    """A stream of a process that is not checked by anybody but itself."""
    opened = app.relay.open(world.tenant.agent, str(world.here.integration.id), GET)
    async with opened as reply, contextlib.aclosing(_pieces(reply)) as body:
        yield body


async def _pieces(reply: Relayed) -> AsyncGenerator[bytes, None]:
    async for piece in reply.body():
        yield piece


async def test_a_process_that_was_stopped_relays_nothing_more_before_it_has_checked(
    app: App, replica: App, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    integration, agent = world.here.integration.id, world.tenant.agent.agent_id()
    real = streams.now
    async with relayed(app, world) as body:
        await anext(body)
        # Time has gone by, and nothing else has happened in this process.
        monkeypatch.setattr(streams, "now", lambda: real() + streams.PATIENCE + 1)
        await anext(body)
        await replica.integrations.disallow(world.tenant.local, integration, agent)
        await anext(body)
        monkeypatch.setattr(streams, "now", lambda: real() + 2 * streams.PATIENCE + 2)
        with pytest.raises(Refused, match="cut off") as caught:
            await anext(body)
    assert caught.value.reason == "stream_cut"


async def test_where_that_cannot_be_found_out_it_relays_nothing_either(
    app: App, world: World, superuser: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = streams.now
    async with relayed(app, world) as body:
        await anext(body)
        await sql(superuser, "REVOKE SELECT ON run_pins FROM company_agents_serve")
        try:
            monkeypatch.setattr(streams, "now", lambda: real() + 10 * streams.PATIENCE)
            with pytest.raises(Unavailable, match="could not be checked"):
                await anext(body)
        finally:
            await sql(superuser, "GRANT SELECT ON run_pins TO company_agents_serve")


# — nothing slips through between a look and a check —


async def test_what_was_found_before_a_check_is_checked_again_before_it_is_opened(app: App, world: World) -> None:
    mine = Streams(app.store)
    caller, integration = world.tenant.agent, world.here.integration.id
    found = mine.mark()
    async with mine.held(caller, integration, 1, found):
        # Found, and not yet open, when access is taken away and all that is open was checked.
        late = mine.mark()
        await disallowed(world)
        await mine.check()
        with pytest.raises(Refused, match="cut off"):
            async with mine.held(caller, integration, 1, late):
                raise AssertionError("it was opened")


async def test_a_stream_is_not_opened_by_rules_that_were_changed_since_they_were_read(app: App, world: World) -> None:
    mine = Streams(app.store)
    finder = dataclasses.replace(app.relay.finder, open_streams=mine)
    caller, integration = world.tenant.agent, world.here.integration.id
    async with mine.held(caller, integration, 1, mine.mark()):
        late = await finder.find(caller, str(integration), GET)
        await said_of_all(world, only=["GET /elsewhere"])
        await mine.check()
        with pytest.raises(Refused, match="cut off"):
            async with mine.held(caller, integration, 1, late["mark"], late["rules"]):
                raise AssertionError("it was opened")


async def test_the_first_stream_of_a_replica_is_announced_before_it_is_opened(
    app: App, world: World, superuser: Past
) -> None:
    mine = Streams(app.store)
    mine.replica = await a_replica(superuser)
    caller, integration = world.tenant.agent, world.here.integration.id
    found = mine.mark()
    async with mine.held(caller, integration, 1, found):
        [row] = await sql(superuser, "SELECT streams FROM replicas WHERE id = %(id)s", id=mine.replica)
        assert row["streams"] == 1
    mine.close()
    await sql(superuser, "DELETE FROM replicas WHERE host = 'of a test'")
    # One that nobody knew of when access was taken away.
    mine = Streams(app.store)
    mine.replica = await a_replica(superuser)
    found = mine.mark()
    await disallowed(world)
    with pytest.raises(Refused, match="cut off"):
        async with mine.held(caller, integration, 1, found):
            raise AssertionError("it was opened")
    mine.close()
    await sql(superuser, "DELETE FROM replicas WHERE host = 'of a test'")


async def test_a_replica_that_the_others_do_not_know_opens_nothing(app: App, world: World) -> None:
    mine = Streams(app.store)
    mine.replica = uuid4()
    with pytest.raises(Unavailable, match="not known"):
        async with mine.held(world.tenant.agent, world.here.integration.id, 1, mine.mark()):
            raise AssertionError("it was opened")
    mine.close()


# — who is waited for —


async def a_replica(superuser: Past, checked: str = "clock_timestamp()", amount: int = 0) -> UUID:
    """One that says nothing by itself."""
    rows = await sql(
        superuser,
        "INSERT INTO replicas (id, host, process, version, key_ids, streams, checked_at) "
        f"VALUES (gen_random_uuid(), 'of a test', 1, '0', '{{}}', {amount}, {checked}) RETURNING id",
    )
    known: UUID = rows[0]["id"]
    return known


@pytest.mark.parametrize(
    ("checked", "amount"), [("NULL", 0), ("clock_timestamp()", 0), ("clock_timestamp() - interval '5 seconds'", 1)]
)
async def test_nobody_is_waited_for_who_has_no_streams_or_has_closed_them_long_ago(
    app: App, replica: App, superuser: Past, monkeypatch: pytest.MonkeyPatch, checked: str, amount: int
) -> None:
    monkeypatch.setattr(streams, "QUIET", -1)
    await replica.relay.open_streams.check()
    await a_replica(superuser, checked, amount)

    # Whoever waited would do so for longer than this test.
    monkeypatch.setattr(streams, "ASK_EVERY", 3600)
    monkeypatch.setattr(streams, "MOST_WAIT", 3600)
    async with asyncio.timeout(PATIENCE):
        await app.agents.closed()
    await sql(superuser, "DELETE FROM replicas WHERE host = 'of a test'")


async def test_a_replica_is_waited_for_until_it_has_checked(app: App, superuser: Past) -> None:
    id = await a_replica(superuser, "clock_timestamp()", 1)
    waiting = asyncio.ensure_future(app.agents.closed())
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await sql(superuser, "UPDATE replicas SET checked_at = clock_timestamp() WHERE id = %(id)s", id=id)
    async with asyncio.timeout(PATIENCE):
        await waiting
    await sql(superuser, "DELETE FROM replicas WHERE host = 'of a test'")
