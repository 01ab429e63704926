"""
What is not recorded does not happen. *begun* is committed before a secret is opened: where it cannot be, the secret stays
closed and nothing reaches the provider; where it was, *ended* follows, however the call went.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
import pytest

from company_agents.api import api_app
from company_agents.app import App, open_app
from company_agents.crypto.cipher import unseal
from company_agents.errors import CompanyAgentsError, Unavailable
from company_agents.integrations.integrations import Integration
from company_agents.secret_store import store
from company_agents.sensitive import Sensitive
from tests.api.conftest import serving as serving_rest
from tests.conftest import LOCAL, Tenant
from tests.mcp.served import refused, served
from tests.outgoing.servers import Recorded, Server, reply, serve
from tests.promises.evidence import (
    PROVIDER_TOKEN,
    Past,
    address,
    connect_integration,
    no_right_to_insert,
    recorded,
    sql,
)

MakeTenant = Callable[[], Awaitable[Tenant]]

FINE = reply(b'{"fine": true}', content_type="application/json")


def committed(app: App, company: UUID) -> list[dict[str, Any]]:
    """The uses of credentials that the chain has this very moment, seen from a connection of its own."""
    with psycopg.connect(address(app, "postgres")) as connection:
        rows = connection.execute(
            "SELECT record FROM audit_events WHERE chain = %s ORDER BY seq", (company,)
        ).fetchall()
    events = [json.loads(row[0]) for row in rows]
    return [event for event in events if event["action"].startswith("credential.")]


@dataclass
class Opened:
    """Which credentials were opened, and what the chain had by then."""

    events: list[list[str]] = field(default_factory=list)


@pytest.fixture
def opened(app: App, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Watches the one place where secrets are opened."""
    seen = Opened()

    def watched(key: Any, place: Any, sealed: Any) -> Sensitive:
        if place.name.startswith("integration/"):
            seen.events.append([event["action"] for event in committed(app, place.company_id)])
        return unseal(key, place, sealed)

    monkeypatch.setattr(store, "unseal", watched)
    return seen


# — how it can come that nothing can be recorded —


@contextlib.asynccontextmanager
async def trigger(superuser: Past, when: str, does: str) -> AsyncIterator[None]:
    await sql(superuser, f"CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {does}; END $$")
    await sql(superuser, f"CREATE {when} EXECUTE FUNCTION broken()")
    try:
        yield
    finally:
        await sql(superuser, "DROP FUNCTION broken CASCADE")


FULL = "RAISE EXCEPTION 'the disk says no' USING ERRCODE = 'io_error'"
BEFORE = "TRIGGER broken BEFORE INSERT ON audit_events"
AT_COMMIT = "CONSTRAINT TRIGGER broken AFTER INSERT ON audit_events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"


def statement_that_fails(superuser: Past) -> contextlib.AbstractAsyncContextManager[None]:
    return trigger(superuser, BEFORE, FULL)


def commit_that_fails(superuser: Past) -> contextlib.AbstractAsyncContextManager[None]:
    # By then the statement has given its rows, the sealed secret among them.
    return trigger(superuser, AT_COMMIT, FULL)


def connection_that_is_cut(superuser: Past) -> contextlib.AbstractAsyncContextManager[None]:
    return trigger(superuser, BEFORE, "PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(60)")


def connection_that_is_cut_at_commit(superuser: Past) -> contextlib.AbstractAsyncContextManager[None]:
    return trigger(superuser, AT_COMMIT, "PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(60)")


FAILURES = {
    "a right is missing": no_right_to_insert,
    "the statement fails": statement_that_fails,
    "its commit fails": commit_that_fails,
    "the connection is cut": connection_that_is_cut,
    "the connection is cut at its commit": connection_that_is_cut_at_commit,
}
USES: dict[str, Callable[[App, Tenant, Integration], Awaitable[Any]]] = {
    "a request": lambda app, tenant, it: app.requests.request(tenant.agent, str(it.id), "GET", "/things"),
    "a check": lambda app, tenant, it: app.integrations.check(tenant.local, it.id),
    "a rotation": lambda app, tenant, it: app.integrations.rotate(
        tenant.local, it.id, Sensitive(PROVIDER_TOKEN + "-2")
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("use", USES)
async def test_where_begun_cannot_be_committed_nothing_is_opened_and_nothing_reaches_the_provider(
    app: App, tenant: MakeTenant, superuser: Past, provider: Server, opened: Opened, use: str, failure: str
) -> None:
    here = await tenant()
    integration = await connect_integration(app, here, provider)
    async with FAILURES[failure](superuser):
        with pytest.raises(Unavailable, match="the audit log cannot be written"):
            await USES[use](app, here, integration)
    assert (opened.events, provider.connections) == ([], 0)
    assert await recorded(app, here.company.id, "credential.begun") == []
    assert await recorded(app, here.company.id, "credential.ended") == []
    # With the cause gone, it works as if nothing had been.
    await USES[use](app, here, integration)
    assert opened.events == [["credential.begun"]]


async def test_a_chain_whose_end_was_deleted_takes_no_event_so_that_nothing_is_opened_unrecorded(
    app: App, tenant: MakeTenant, superuser: Past, provider: Server, opened: Opened
) -> None:
    here = await tenant()
    await connect_integration(app, here, provider)
    [end] = await sql(superuser, "DELETE FROM audit_heads WHERE chain = %(c)s RETURNING *", c=here.company.id)
    async with open_app(app.settings) as later:
        # One that knows the end, and one that has only just started.
        for instance in (app, later):
            with pytest.raises(Unavailable, match="the end of a chain is not where it was left"):
                await instance.requests.request(here.agent, "generic", "GET", "/things")
            with pytest.raises(Unavailable):
                await instance.audit.append(here.company.id, "test.lost")
    assert (opened.events, provider.connections) == ([], 0)
    await sql(superuser, "INSERT INTO audit_heads VALUES (%(chain)s, %(seq)s, %(mac)s)", **end)
    assert (await app.requests.request(here.agent, "generic", "GET", "/things")).status == 200
    assert (await app.events.verify(here.company.id)).faults == ()


async def test_each_door_says_clearly_that_nothing_can_be_recorded(
    app: App, tenant: MakeTenant, superuser: Past, provider: Server
) -> None:
    here = await tenant()
    integration = await connect_integration(app, here, provider)
    path = f"/v1/companies/{here.company.id}/integrations/{integration.id}/request"
    call = {"method": "GET", "path": "/things"}
    async with served(app) as mcp, serving_rest(api_app(app)) as rest, no_right_to_insert(superuser):
        headers = {"Authorization": f"Bearer {here.token}"}
        async with mcp.http.post(rest + path, json=call, headers=headers) as answer:
            said = json.loads(await answer.text())
        async with mcp.client(here.token) as client:
            told = await refused(client, "integration_request", integration=str(integration.id), **call)
    assert (answer.status, said["code"], told["code"]) == (503, "unavailable", "unavailable")
    assert said["detail"] == told["message"]
    assert said["detail"].startswith("the audit log cannot be written")
    assert provider.connections == 0


async def test_a_connection_is_not_tried_at_the_provider_where_that_cannot_be_recorded(
    app: App, tenant: MakeTenant, superuser: Past
) -> None:
    here = await tenant()
    async with serve(FINE) as slack:
        async with no_right_to_insert(superuser):
            with pytest.raises(Unavailable, match="the audit log cannot be written"):
                await app.integrations.connect(
                    here.local, "slack", Sensitive(PROVIDER_TOKEN), base_url=slack.url, allow_private_network=True
                )
        assert slack.connections == 0
    assert (await app.integrations.list(here.local)).items == []


CHANGES: dict[str, Callable[[App, Tenant], Awaitable[Any]]] = {
    "a company is founded": lambda app, tenant: app.companies.create(LOCAL, f"not {tenant.company.id}"),
    "an agent is hired": lambda app, tenant: app.agents.create(tenant.local, "bob"),
    "an agent is paused": lambda app, tenant: app.agents.pause(tenant.local, tenant.agent.agent_id()),
    "an agent is retired": lambda app, tenant: app.agents.retire(tenant.local, tenant.agent.agent_id()),
    "a token is rotated": lambda app, tenant: app.agents.rotate_token(tenant.local, tenant.agent.agent_id()),
    "an owner is invited": lambda app, tenant: app.operators.link(LOCAL),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_that_cannot_be_recorded_does_not_happen(
    app: App, tenant: MakeTenant, superuser: Past, change: str
) -> None:
    here = await tenant()
    tables = ("companies", "agents", "secrets", "sign_in_links")

    async def everything() -> list[list[dict[str, Any]]]:
        await app.store.flush_used()
        return [await sql(superuser, f"SELECT t::text AS row FROM {table} t ORDER BY 1") for table in tables]

    before = await everything()
    async with no_right_to_insert(superuser):
        with pytest.raises(Unavailable):
            await CHANGES[change](app, here)
    assert await everything() == before
    assert (await app.identity.agent(here.token)).agent_id() == here.agent.agent_id()


# — the order —


async def test_begun_is_committed_by_the_time_that_the_secret_is_opened_and_the_provider_is_called(
    app: App, tenant: MakeTenant, opened: Opened
) -> None:
    here = await tenant()
    called: list[list[dict[str, Any]]] = []

    def look(_: Any) -> bytes:
        called.append(committed(app, here.company.id))
        return FINE

    async with serve(look) as provider:
        integration = await connect_integration(app, here, provider)
        await app.requests.request(here.agent, "generic", "POST", "/things/12345", body={"a": 1})
    assert opened.events == [["credential.begun"]]
    [[begun]] = called
    told = {"actor": here.agent.label, "integration": str(integration.id), "version": 1, "host": provider.url}
    assert {name: begun[name] for name in told} == told
    assert (begun["method"], begun["path"], begun["decision"]) == ("POST", "/things/{id}", "allowed")
    [ended] = await recorded(app, here.company.id, "credential.ended")
    assert (ended["use"], ended["result"], ended["status"]) == (begun["use"], "replied", 200)
    assert ended["seq"] > (await recorded(app, here.company.id, "credential.begun"))[0]["seq"]


async def test_of_many_calls_at_once_none_arrives_before_it_is_on_record(app: App, tenant: MakeTenant) -> None:
    here = await tenant()
    found: list[tuple[int, int]] = []

    def look(_: Any) -> bytes:
        begun = sum(event["action"] == "credential.begun" for event in committed(app, here.company.id))
        found.append((len(found) + 1, begun))
        return FINE

    async with serve(look) as provider:
        await connect_integration(app, here, provider)
        calls = [app.requests.request(here.agent, "generic", "GET", f"/{n}") for n in range(30)]
        assert {answer.status for answer in await asyncio.gather(*calls)} == {200}
    assert len(found) == 30
    assert all(arrived <= begun for arrived, begun in found)
    begun_uses = [event["use"] for event in await recorded(app, here.company.id, "credential.begun")]
    ended_uses = [event["use"] for event in await recorded(app, here.company.id, "credential.ended")]
    assert sorted(begun_uses) == sorted(ended_uses)
    assert len(set(begun_uses)) == 30


# — the end —


async def test_a_call_that_the_provider_breaks_off_has_an_end(app: App, tenant: MakeTenant) -> None:
    here = await tenant()
    async with serve(b"") as provider:
        await connect_integration(app, here, provider)
        with pytest.raises(CompanyAgentsError) as caught:
            await app.requests.request(here.agent, "generic", "POST", "/things", body="x")
    [ended] = await recorded(app, here.company.id, "credential.ended")
    assert (ended["result"], ended["error"]) == ("failed", caught.value.reason)


async def test_a_call_to_a_provider_that_is_not_there_has_an_end(
    app: App, tenant: MakeTenant, provider: Server
) -> None:
    here = await tenant()
    async with serve(FINE) as gone:
        await connect_integration(app, here, gone)
    with pytest.raises(Unavailable):
        await app.requests.request(here.agent, "generic", "GET", "/things")
    [ended] = await recorded(app, here.company.id, "credential.ended")
    assert (ended["result"], ended["error"]) == ("failed", "unavailable")


async def test_a_call_that_is_cancelled_while_the_provider_thinks_has_an_end(app: App, tenant: MakeTenant) -> None:
    here = await tenant()
    arrived, hung_up = asyncio.Event(), asyncio.Event()

    async def think(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        await reader.read()
        hung_up.set()
        writer.close()

    server = await asyncio.start_server(think, "127.0.0.1", 0)
    try:
        await connect_integration(app, here, Server(server.sockets[0].getsockname()[1]))
        call = asyncio.create_task(app.requests.request(here.agent, "generic", "GET", "/things"))
        await asyncio.wait_for(arrived.wait(), 30)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(hung_up.wait(), 30)
    finally:
        server.close()
    [begun] = await recorded(app, here.company.id, "credential.begun")
    [ended] = await recorded(app, here.company.id, "credential.ended")
    assert (ended["use"], ended["result"]) == (begun["use"], "failed")


async def test_a_use_whose_row_cannot_be_read_does_not_begin(
    app: App, tenant: MakeTenant, superuser: Past, provider: Server, opened: Opened
) -> None:
    here = await tenant()
    await connect_integration(app, here, provider)
    await sql(
        superuser,
        "CREATE POLICY broken ON secrets AS RESTRICTIVE USING "
        "(CASE WHEN name LIKE 'integration/%' THEN 1 / (length(name) * 0) = 1 ELSE true END)",
    )
    try:
        with pytest.raises(Unavailable, match="the audit log cannot be written"):
            await app.requests.request(here.agent, "generic", "GET", "/things")
    finally:
        await sql(superuser, "DROP POLICY broken ON secrets")
    assert (opened.events, provider.connections) == ([], 0)
    for action in ("credential.begun", "credential.ended"):
        assert await recorded(app, here.company.id, action) == []


async def test_a_check_says_where_it_goes_before_it_goes_there_and_how_it_went_after(
    app: App, tenant: MakeTenant
) -> None:
    here = await tenant()
    then: list[list[str]] = []
    bodies = [b'{"ok": true}', b'{"ok": true}', b'{"ok": false, "error": "token_revoked"}']

    def answer(_: Recorded) -> bytes:
        then.append([event["action"] for event in committed(app, here.company.id)])
        return reply(bodies.pop(0), content_type="application/json")

    async with serve(answer) as server:
        token = Sensitive("xoxb-of-a-stand-in-for-slack")
        made = await app.integrations.connect(
            here.local, "slack", token, base_url=server.url, allow_private_network=True
        )
        assert (await app.integrations.check(here.local, made.id)).status == "connected"
        assert (await app.integrations.check(here.local, made.id)).status == "needs attention"
        url = server.url
    # The first call is that of connecting. Each check has begun by the time that the provider hears of it, and not ended.
    assert [len(events) for events in then] == [0, 1, 3]
    assert [events[-1] for events in then[1:]] == ["credential.begun"] * 2
    for event in await recorded(app, here.company.id, "credential.begun", purpose="check"):
        assert (event["host"], event["method"], event["path"]) == (url, "POST", "/api/auth.test")
    ended = await recorded(app, here.company.id, "credential.ended")
    assert [(event["result"], event["host"]) for event in ended] == [("accepted", url), ("refused", url)]
