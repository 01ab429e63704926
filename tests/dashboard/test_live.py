"""
Pages that stay up to date: what a stream tells, whom, for how long, and what it costs the database.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from company_agents.app import App
from company_agents.asgi import Front
from company_agents.dashboard import dashboard_app, live
from company_agents.db.database import Tx
from company_agents.identity.permissions import Role
from company_agents.identity.principal import Caller
from tests.dashboard.people import Person, member, owner
from tests.dashboard.standin import served
from tests.dashboard.streams import listening
from tests.dispatch.conftest import Orchestrate, orchestrator  # noqa: F401
from tests.promises.evidence import connect_past, sql

# Seconds within which a stream ends for whoever may not have it any more.
PROMISED = 5


def _board(caller: Caller) -> str:
    return f"/companies/{caller.scope.company_id}/tasks/stream"


async def test_a_stream_tells_what_changes_and_only_what_is_new_to_the_browser(
    app: App, somebody: Person, tenant: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "EVERY", 0.2)
    here = await tenant()
    async with listening(somebody, address, _board(here.local)) as stream:
        assert stream.response.headers["Content-Type"].startswith("text/event-stream")
        assert stream.response.headers["Cache-Control"] == "no-store"
        first = [await stream.next() for _ in range(5)]
        assert [event.data["id"] for event in first if event] == [
            *("column-open", "column-in_progress", "column-blocked", "column-done", "column-cancelled")
        ]
        task = await app.tasks.create(here.local, "water the plants")
        heard = await stream.until("water the plants")
        at = heard[-1].id
        assert [event.data["id"] for event in heard if "water" in event.data["html"]] == ["column-open"]
    await app.tasks.update(here.agent, task.id, status="done")
    # As a browser comes back: with what it has heard last. What changed in between is told at once.
    async with listening(somebody, address, _board(here.local), **{"Last-Event-ID": at}) as stream:
        heard = await stream.until("water the plants")
        assert heard[-1].data["id"] == "column-done"
        at = heard[-1].id
    # Where nothing did, nothing is.
    async with listening(somebody, address, f"{_board(here.local)}?after={at}") as stream:
        await app.tasks.create(here.local, "another one")
        heard = await stream.until("another one")
    assert len(heard) == 1


async def test_a_comment_of_an_agent_appears_on_the_page_of_its_task(
    app: App, somebody: Person, tenant: Any, address: str
) -> None:
    here = await tenant()
    task = await app.tasks.create(here.local, "water the plants")
    path = f"/companies/{here.company.id}/tasks/{task.id}"
    async with somebody.client() as browser:
        page = await browser.get(path)
    assert f'data-stream="{path}/stream?after=' in page.text
    async with listening(somebody, address, f"{path}/stream") as stream:
        await app.tasks.comment(here.agent, task.id, "they were dry")
        heard = await stream.until("they were dry")
    assert heard[-1].data["id"] == "task-said"
    assert "ann" in heard[-1].data["html"]


async def _sign_out(app: App, person: Person, here: Any) -> None:
    found = await app.sessions.current(person.session.reveal_text())
    assert found is not None
    await app.sessions.end(*(found[0], found[1].id))


async def _disable(app: App, person: Person, here: Any) -> None:
    await app.operators.disable(here.local.principal, person.operator.id)


async def _remove(app: App, person: Person, here: Any) -> None:
    await app.members.remove(here.local, person.operator.id)


async def _demote(app: App, person: Person, here: Any) -> None:
    async with await connect_past(app, "postgres") as superuser:
        who = {"person": person.operator.id, "company": here.company.id}
        await sql(
            superuser,
            "UPDATE memberships SET role = 'viewer' WHERE operator_id = %(person)s AND company_id = %(company)s",
            **who,
        )


async def test_a_stream_ends_for_whoever_signs_out_is_disabled_removed_or_demoted(
    app: App, tenant: Any, address: str
) -> None:
    here = await tenant()
    ways = (_sign_out, _disable, _remove, _demote)
    people = [await member(app, here.local, Role.OPERATOR) for _ in ways]

    async def ends(person: Person, loses: Callable[[App, Person, Any], Awaitable[None]]) -> None:
        async with listening(person, address, _board(here.local)) as stream:
            await stream.until("column-cancelled")
            await loses(app, person, here)
            async with asyncio.timeout(PROMISED):
                heard = await stream.rest()
            assert [(event.name, event.data) for event in heard] == [("over", {"why": "session"})]

    await asyncio.gather(*map(ends, people, ways))


async def test_a_stream_is_no_use_of_the_session(app: App, tenant: Any, address: str) -> None:
    here = await tenant()
    person = await member(app, here.local, Role.VIEWER)
    whose = {"person": person.operator.id}
    async with await connect_past(app, "postgres") as superuser:
        ago = "UPDATE sessions SET seen_at = now() - interval '{}' WHERE operator_id = %(person)s"
        await sql(superuser, ago.format("50 minutes"), **whose)
        async with listening(person, address, _board(here.local)) as stream:
            await stream.until("column-cancelled")
            seen = "SELECT now() - seen_at > interval '49 minutes' AS long_ago FROM sessions WHERE operator_id = %(person)s"
            assert (await sql(superuser, seen, **whose))[0]["long_ago"]
            # An hour without a use: it is over, and so is the stream.
            await sql(superuser, ago.format("61 minutes"), **whose)
            async with asyncio.timeout(PROMISED):
                assert [event.data for event in await stream.rest()] == [{"why": "session"}]


async def test_streams_of_one_session_are_bounded_and_one_that_is_closed_makes_room(
    app: App, tenant: Any, address: str
) -> None:
    here = await tenant()
    person = await member(app, here.local, Role.VIEWER)
    other = await member(app, here.local, Role.VIEWER)
    async with _Several(person, address, _board(here.local), live.MOST_OF_SESSION):
        async with listening(person, address, _board(here.local)) as stream:
            assert stream.response.status_code == 429
            assert stream.response.headers["Retry-After"] == "10"
        async with listening(other, address, _board(here.local)) as stream:
            assert stream.response.status_code == 200
    # Whoever has closed theirs has their place again, once the server has noticed.
    async with asyncio.timeout(10):
        while True:
            async with listening(person, address, _board(here.local)) as stream:
                if stream.response.status_code == 200:
                    break
            await asyncio.sleep(0.05)


async def test_a_stream_asks_once_a_look_and_holds_no_connection_in_between(
    app: App, somebody: Person, tenant: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await tenant()
    asked: list[str] = []
    slept: list[int] = []
    real = Tx.all, Tx.one, asyncio.sleep

    def note(tx: Tx, query: str) -> None:
        # Other orchestrators of this process have their own to ask.
        if tx.company_id == here.company.id or query.startswith("session"):
            asked.append(query)

    async def counted_all(self: Tx, query: str, /, **params: Any) -> Any:
        note(self, query)
        return await real[0](self, query, **params)

    async def counted_one(self: Tx, query: str, /, **params: Any) -> Any:
        note(self, query)
        return await real[1](self, query, **params)

    async def counted_sleep(seconds: float) -> None:
        if seconds == live.EVERY:
            slept.append(app.store.db._pool.get_stats()["pool_size"] - app.store.db._pool.get_stats()["pool_available"])
        await real[2](seconds)

    monkeypatch.setattr(live, "EVERY", 0.0625)
    async with listening(somebody, address, _board(here.local)) as stream:
        await stream.until("column-cancelled")
        monkeypatch.setattr(Tx, "all", counted_all)
        monkeypatch.setattr(Tx, "one", counted_one)
        monkeypatch.setattr(asyncio, "sleep", counted_sleep)
        while len(slept) < 12:
            await real[2](0.02)
        monkeypatch.undo()
    assert len([query for query in asked if query in ("board_view", "session_watched")]) <= len(slept) + 1
    assert set(asked) == {"board_view", "session_watched"}
    assert set(slept) == {0}


async def test_a_stream_ends_after_a_while_and_the_browser_begins_another(
    app: App, somebody: Person, tenant: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LONGEST", 0.5)
    here = await tenant()
    async with listening(somebody, address, _board(here.local)) as stream:
        heard = await stream.rest()
    # Nothing says that it is over: a browser comes back by itself.
    assert {event.name for event in heard} == {"part"}


async def test_a_run_that_has_ended_ends_its_stream(
    app: App, somebody: Person, tenant: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "EVERY", 0.1)
    here = await tenant()
    run, _ = await app.runs.open(here.agent, "count the plants")
    path = f"/companies/{here.company.id}/runs/{run.id}"
    async with listening(somebody, address, f"{path}/stream") as stream:
        await stream.until("run-actions")
        await app.runs.finish(here.agent, run.id, run.fencing_token, outcome="failed", reason="there are none")
        heard = await stream.rest()
    assert "there are none" in json.dumps([event.data for event in heard])
    assert (heard[-1].name, heard[-1].data) == ("over", {"why": "end"})
    async with somebody.client() as browser:
        page = await browser.get(path)
    # A page of what is over has no script.
    assert "<script" not in page.text
    assert "script-src" not in page.headers["Content-Security-Policy"]


async def test_an_orchestrator_that_stops_waits_for_no_stream(
    app: App,
    somebody: Person,
    tenant: Any,
    orchestrator: Orchestrate,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "EVERY", 0.1)
    here = await tenant()
    dispatcher = (await orchestrator()).dispatcher
    async with (
        served(dashboard_app(dataclasses.replace(app, dispatcher=dispatcher))) as url,
        listening(somebody, url, _board(here.local)) as stream,
    ):
        await stream.until("column-cancelled")
        await dispatcher.close()
        # Nothing says that it is over: the browser comes back, to whoever is there then.
        assert [event for event in await stream.rest() if event.name == "over"] == []


async def test_what_is_not_there_has_no_stream_and_asking_for_the_head_of_one_begins_none(
    app: App, somebody: Person, tenant: Any
) -> None:
    here = await tenant()
    home = f"/companies/{here.company.id}"
    async with somebody.client() as browser, asyncio.timeout(10):
        for nowhere in (f"/runs/{uuid.uuid4()}/stream", f"/tasks/{uuid.uuid4()}/stream"):
            assert (await browser.get(f"{home}{nowhere}")).status_code == 404
        for path in ("/tasks/stream", "/runs/stream"):
            assert (await browser.head(f"{home}{path}")).headers["Content-Type"].startswith("text/event-stream")
        run, _ = await app.runs.open(here.agent)
        assert (await browser.get(f"{home}/runs/{run.id}/stream", params={"after": "x'"})).status_code == 422


async def test_only_a_page_that_stays_up_to_date_may_run_our_script_and_listen_to_us(
    app: App, somebody: Person, tenant: Any
) -> None:
    here = await tenant()
    home = f"/companies/{here.company.id}"
    async with somebody.client() as browser:
        for path, is_live in (("/tasks", True), ("/runs", True), ("/agents", False), ("/tasks/new", False)):
            page = await browser.get(f"{home}{path}")
            policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))
            assert policy["default-src"] == "'none'"
            assert policy.get("script-src") == ("'self'" if is_live else None), path
            assert policy.get("connect-src") == ("'self'" if is_live else None), path
            assert page.text.count("<script") == is_live


async def test_sealing_breaks_off_every_stream(both: tuple[App, App], company: Caller) -> None:
    olga = await owner(both[0])

    async def no_door(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nothing of this test is for this door")

    async with served(Front(both[0], no_door)) as url, listening(olga, url, _board(company)) as stream:
        assert stream.response.status_code == 200
        await stream.until("column-cancelled")
        try:
            await both[0].panic.seal("local:tester")
            async with asyncio.timeout(PROMISED):
                with pytest.raises(Exception, match=r"peer|incomplete|closed|chunked"):
                    await stream.rest()
            async with listening(olga, url, _board(company)) as refused:
                assert refused.response.status_code == 503
        finally:
            await both[0].panic.unseal("local:tester")
            for one in both:
                assert one.replica is not None
                await one.replica.beat()


class _Several:
    """So many streams at once."""

    def __init__(self, person: Person, address: str, path: str, count: int) -> None:
        self._open = [listening(person, address, path) for _ in range(count)]

    async def __aenter__(self) -> None:
        for each in self._open:
            stream = await each.__aenter__()
            assert stream.response.status_code == 200

    async def __aexit__(self, *found: Any) -> None:
        for each in self._open:
            await each.__aexit__(None, None, None)
