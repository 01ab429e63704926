"""
How events are appended: by several at once, with refusals counted, and nothing left behind at a clean stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from company_agents.app import App, open_app
from company_agents.audit import log as audit_log
from company_agents.audit.log import AuditLog
from company_agents.db.database import Database
from company_agents.errors import NotFound, Unavailable
from company_agents.sensitive import Sensitive
from tests.conftest import Tenant
from tests.outgoing.servers import Server
from tests.promises.evidence import Past, connect_integration, recorded, sql

MakeTenant = Callable[[], Awaitable[Tenant]]

# A process of its own on the same instance. It appends when it is told to, all at once.
APPENDER = """
import asyncio, pathlib, sys
from uuid import UUID
from company_agents.app import open_app
from company_agents.settings import read_settings

async def main(home, company, name, number):
    async with open_app(read_settings(home=pathlib.Path(home))) as app:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        for _ in range(0, int(number), 10):
            await asyncio.gather(*(app.audit.append(UUID(company), "test.many", by=name) for _ in range(10)))

asyncio.run(main(*sys.argv[1:]))
"""


@contextlib.asynccontextmanager
async def another_log(app: App) -> AsyncIterator[AuditLog]:
    """The log of another replica, with connections of its own."""
    db = Database(app.store.db.logins, pool_size=2)
    await db.open()
    log = AuditLog(db, app.audit.key, app.instance.id)
    log.start()
    try:
        yield log
    finally:
        await log.close()
        await db.close()


async def many(app: App, company: UUID | None) -> list[str]:
    """By whom the events of the many were appended, in the order of the chain, which is whole."""
    found = await recorded(app, company, "test.many")
    verified = await app.events.verify(company)
    assert verified.faults == ()
    assert [event["seq"] for event in await app.events.after(company, 0)] == list(range(1, verified.events + 1))
    return [event["by"] for event in found]


async def test_two_logs_that_append_to_one_chain_at_once_leave_a_whole_chain(app: App, tenant: MakeTenant) -> None:
    company = (await tenant()).company.id
    async with another_log(app) as first, another_log(app) as second:

        async def append(log: AuditLog, name: str) -> None:
            for _ in range(40):
                await asyncio.gather(*(log.append(company, "test.many", by=name) for _ in range(3)))

        await asyncio.gather(append(first, "first"), append(second, "second"), append(app.audit, "app"))
    found = await many(app, company)
    assert {name: found.count(name) for name in found} == {"first": 120, "second": 120, "app": 120}


async def test_two_logs_that_append_to_many_chains_at_once_leave_whole_chains(app: App, tenant: MakeTenant) -> None:
    companies = [(await tenant()).company.id for _ in range(4)]
    async with another_log(app) as first, another_log(app) as second:
        logs = {"first": first, "second": second}
        await asyncio.gather(
            *(
                log.append(company, "test.many", by=name)
                for _ in range(20)
                for company in companies
                for name, log in logs.items()
            )
        )
    for company in companies:
        found = await many(app, company)
        assert (found.count("first"), found.count("second"), len(found)) == (20, 20, 40)


async def test_of_many_logs_that_append_to_one_chain_none_is_refused_for_being_slower(
    app: App, tenant: MakeTenant
) -> None:
    company = (await tenant()).company.id
    async with contextlib.AsyncExitStack() as stack:
        logs = [await stack.enter_async_context(another_log(app)) for _ in range(8)]

        async def append(log: AuditLog, name: str) -> None:
            for _ in range(30):
                await log.append(company, "test.many", by=name)

        await asyncio.gather(*(append(log, str(n)) for n, log in enumerate(logs)))
    found = await many(app, company)
    assert {name: found.count(name) for name in found} == {str(n): 30 for n in range(8)}


async def test_logs_that_hold_several_chains_at_once_do_not_wait_for_each_other_forever(
    app: App, tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "FREE_ATTEMPTS", 1)
    companies = [(await tenant()).company.id for _ in range(3)]
    async with another_log(app) as first, another_log(app) as second, another_log(app) as third:
        for _ in range(30):
            waiting = [log.append(it, "test.many", by="x") for log in (first, second, third) for it in companies]
            await asyncio.wait_for(asyncio.gather(*waiting), 30)
    for company in companies:
        assert len(await many(app, company)) == 90


async def test_processes_that_append_to_one_chain_at_once_leave_a_whole_chain(app: App, tenant: MakeTenant) -> None:
    company = (await tenant()).company.id
    path = os.pathsep.join(entry for entry in sys.path if entry)
    words = [sys.executable, "-c", APPENDER, str(app.settings.home), str(company)]
    children = [
        await asyncio.create_subprocess_exec(
            *words, name, "100", stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}
        )
        for name in ("first", "second")
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert await asyncio.wait_for(child.stdout.readline(), 60) == b"ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write(b"\n")
            await child.stdin.drain()
        for n in range(50):
            await app.audit.append(company, "test.many", by="app", n=n)
        for child in children:
            assert await asyncio.wait_for(child.wait(), 60) == 0
    finally:
        for child in children:
            if child.returncode is None:
                child.kill()
                await child.wait()
    found = await many(app, company)
    assert {name: found.count(name) for name in found} == {"first": 100, "second": 100, "app": 50}


async def test_a_chain_is_whole_to_whoever_proves_it_while_it_grows(app: App, tenant: MakeTenant) -> None:
    company = (await tenant()).company.id
    growing = asyncio.create_task(_grow(app, company))
    proved: set[int] = set()
    while len(proved) < 5 and not growing.done():
        verified = await app.events.verify(company)
        assert verified.faults == ()
        proved.add(verified.events)
    await growing
    assert len(proved) > 1, "it did not grow meanwhile"


async def _grow(app: App, company: UUID) -> None:
    for _ in range(100):
        await asyncio.gather(*(app.audit.append(company, "test.many", by="app") for _ in range(5)))


async def test_many_who_have_a_chain_proved_take_no_connections_from_who_works(
    app: App, tenant: MakeTenant, superuser: Past
) -> None:
    here = await tenant()
    waiting = "SELECT count(*) AS n FROM pg_locks WHERE relation = 'audit_events'::regclass AND NOT granted"
    await superuser.execute("BEGIN; LOCK TABLE audit_events IN ACCESS EXCLUSIVE MODE")
    many = 2 * app.settings.database_pool
    proving = [asyncio.create_task(app.events.verify(here.company.id)) for _ in range(many)]
    try:
        for _ in range(1000):
            # Work, with the others given their turns meanwhile.
            await asyncio.wait_for(app.tasks.list(here.agent), 20)
            if await sql(superuser, waiting) == [{"n": 1}]:
                break
        for _ in range(50):
            await asyncio.wait_for(app.tasks.list(here.agent), 20)
        assert await sql(superuser, waiting) == [{"n": 1}]
    finally:
        await superuser.execute("ROLLBACK")
    assert {found.faults for found in await asyncio.gather(*proving)} == {()}


async def test_a_chain_that_has_lost_its_end_does_not_stop_the_others(
    app: App, tenant: MakeTenant, superuser: Past
) -> None:
    broken, *others = [(await tenant()).company.id for _ in range(3)]
    [end] = await sql(superuser, "DELETE FROM audit_heads WHERE chain = %(c)s RETURNING *", c=broken)
    try:
        async with another_log(app) as fresh:
            for log in (app.audit, fresh):
                for company in (broken, *others):
                    log.note(company, "test.noted")
                waiting = [log.append(company, "test.many", by="x") for company in (broken, *others)]
                refused, *written = await asyncio.gather(*waiting, return_exceptions=True)
                assert isinstance(refused, Unavailable)
                assert written == [None, None]
            await sql(superuser, "INSERT INTO audit_heads VALUES (%(chain)s, %(seq)s, %(mac)s)", **end)
    finally:
        await sql(
            superuser, "INSERT INTO audit_heads VALUES (%(chain)s, %(seq)s, %(mac)s) ON CONFLICT DO NOTHING", **end
        )
    # Once each: what was written is not written again with what was not, and what was only noted has waited.
    for company, appended in ((broken, 0), *((company, 2) for company in others)):
        assert len(await many(app, company)) == appended
        assert len(await recorded(app, company, "test.noted")) == 2


async def test_a_secret_that_goes_while_its_use_waits_to_be_recorded_is_not_handed_over(
    app: App, tenant: MakeTenant, provider: Server, superuser: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await tenant()
    made = await connect_integration(app, here, provider)
    company = here.company.id
    secret = (await sql(superuser, f"SELECT secret_id FROM credential_versions WHERE integration_id = '{made.id}'"))[0]
    async with another_log(app) as log:
        commit, seen = log.db.commit_events, []

        async def at_first_too_slow(params: Any) -> Any:
            # It does not know the end of this chain yet, so nothing is written by this; but the secret is read.
            found = await commit(params)
            seen.append([row["name"] for row in found if row["n"]])
            if len(seen) == 1:
                await app.revocation.delete(here.local, made.id, keep_consent=True)
            return found

        monkeypatch.setattr(log.db, "commit_events", at_first_too_slow)
        assert await log.append_and_read(company, secret["secret_id"], "test.used") is None
    assert seen[0] == [f"integration/{made.id}/1"]
    assert not any(seen[1:])


# — refusals —


async def test_refusals_that_are_alike_become_one_event_and_a_count(app: App, tenant: MakeTenant) -> None:
    company = (await tenant()).company.id
    async with another_log(app) as log:
        for _ in range(1000):
            log.refusal(company, "test.refused", reason="this")
        log.refusal(company, "test.refused", reason="that")
        log.refusal(None, "test.refused", reason="this", of=company)
    this = await recorded(app, company, "test.refused", reason="this")
    assert [event.get("repeated") for event in this] == [None, 999]
    assert {event["decision"] for event in this} == {"refused"}
    assert [event.get("repeated") for event in await recorded(app, company, "test.refused", reason="that")] == [None]
    assert len(await recorded(app, None, "test.refused", of=company)) == 1


async def test_the_count_is_written_once_the_time_of_gathering_is_over(
    app: App, tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "FOLD_WINDOW", 0.05)
    company = (await tenant()).company.id
    async with another_log(app) as log:
        for _ in range(5):
            log.refusal(company, "test.refused")
        found: list[dict[str, Any]] = []
        async with asyncio.timeout(30):
            while len(found) < 2:
                await asyncio.sleep(0.01)
                found = await recorded(app, company, "test.refused")
        assert [event.get("repeated") for event in found] == [None, 4]
        # The next one begins anew.
        log.refusal(company, "test.refused")
    assert [event.get("repeated") for event in await recorded(app, company, "test.refused")] == [None, 4, None]


async def test_a_thousand_bad_tokens_are_counted_and_not_a_thousand_events(app: App) -> None:
    async with open_app(app.settings) as other:
        before = len(await recorded(app, None, "token.refused", reason="malformed"))
        for n in range(1000):
            with contextlib.suppress(Exception):
                await other.identity.agent(f"ca_agent_{n}")
    after = (await recorded(app, None, "token.refused", reason="malformed"))[before:]
    assert [event.get("repeated") for event in after] == [None, 999]


# — a clean stop —


async def test_an_agent_that_asks_for_anything_makes_one_event_and_names_what_there_is(
    app: App, tenant: MakeTenant, provider: Server
) -> None:
    here = await tenant()
    closed = await connect_integration(app, here, provider)
    await app.integrations.disallow(here.local, closed.id, here.agent.agent_id())
    for name in (
        *(f"none {number}" for number in range(20)),
        *(str(uuid4()) for _ in range(20)),
        closed.name,
        str(closed.id),
    ):
        with pytest.raises(NotFound):
            await app.requests.request(here.agent, name, "GET", "/")
    found = await recorded(app, here.company.id, "integration.refused", actor=here.agent.label)
    assert [(event["reason"], event.get("integration")) for event in found] == [
        ("unknown", None),
        ("not allowed", str(closed.id)),
    ]


async def test_what_waits_to_be_written_is_written_at_a_clean_stop(app: App, tenant: MakeTenant) -> None:
    company = (await tenant()).company.id
    async with another_log(app) as log:
        for n in range(700):
            log.note(company, "test.noted", n=n)
    assert [event["n"] for event in await app.events.after(company, 0) if event["action"] == "test.noted"] == list(
        range(700)
    )
    assert (await app.events.verify(company)).faults == ()


async def test_a_log_that_is_closed_takes_no_event_that_something_hangs_on(app: App, tenant: MakeTenant) -> None:
    company = (await tenant()).company.id
    async with another_log(app) as log:
        pass
    with pytest.raises(Unavailable, match="closed"):
        await log.append(company, "test.late")
    assert await recorded(app, company, "test.late") == []


async def test_an_instance_that_stops_writes_down_the_end_of_every_use_and_when_tokens_were_used(
    app: App, tenant: MakeTenant
) -> None:
    here = await tenant()
    [agent] = (await app.agents.list(here.local)).items
    async with open_app(app.settings) as other:
        caller = await other.identity.agent(here.token)
        async with caller.scope.transaction() as tx:
            secret = await other.store.put(tx, "a secret", Sensitive("its value"))
        async with other.store.use(caller.scope, secret, actor=caller.label) as use:
            use.ended("opened")
    events = await app.events.after(here.company.id, 0)
    assert [event["action"] for event in events[-2:]] == ["credential.begun", "credential.ended"]
    [after] = (await app.agents.list(here.local)).items
    assert after.token_last_used_at is not None
    assert after.token_last_used_at > agent.created_at
