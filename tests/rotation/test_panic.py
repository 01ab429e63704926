"""
The panic: sealed, no orchestrator has a key or answers anything, until somebody unseals.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.server
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from company_agents.app import App
from company_agents.errors import Sealed, Unavailable
from company_agents.rotation.replica import BEAT
from company_agents.sensitive import Sensitive
from tests.cli.processes import Machine, Up, bearer
from tests.cli.standin import TOKEN, StandIn, stand_in
from tests.cli.warm import warm
from tests.database.processes import until
from tests.rotation.place import Place, caller, nothing_is_lost, opened, outcome, write

DOORS = ["/v1/me", "/v1/companies", "/v1/openapi.json", "/sign-in", "/", "/join?token=x", "/mcp", "/readyz"]
SEALED = (503, "the instance is sealed; an owner unseals it\n")
PROMISED = 5.0


def holds(app: App) -> bool:
    """Whether it has any key."""
    return len(app.held.ring.keys) > 0


@dataclasses.dataclass(frozen=True)
class Hired:
    token: str
    path: str


async def hire(place: Place, slack: StandIn) -> Hired:
    async with place.open() as app:
        here = await caller(app, place)
        integration = await app.integrations.connect(
            here, "slack", Sensitive(TOKEN), base_url=slack.url, allow_private_network=True, allow=[place.agent]
        )
        _, token = await app.agents.rotate_token(here, place.agent)
    path = f"/v1/companies/{place.company}/integrations/{integration.id}/request"
    return Hired(token.reveal_text(), path)


CALL = {"method": "POST", "path": "/api/chat.postMessage", "body": {"text": "hello"}}


def all_closed(up: Up, hired: Hired) -> bool:
    answers = [up.get(path, **bearer(hired.token)) for path in DOORS[:-1]]
    answers += [up.post(hired.path, CALL, hired.token), up.post("/mcp", {}, hired.token)]
    return {(answer.status, answer.body) for answer in answers} == {SEALED} and up.get("/readyz").status == 503


async def test_two_orchestrators_that_are_sealed_answer_nothing_and_come_back_when_they_are_unsealed(
    place: Place, tmp_path: Path
) -> None:
    with stand_in() as slack, contextlib.ExitStack() as stack:
        hired = await hire(place, slack)
        machines = [Machine(tmp_path / name / "home", more=place.variables) for name in ("one", "two", "three")]
        run = stack.enter_context(warm(machines[2]))
        ups = [stack.enter_context(machine.up()) for machine in machines[:2]]
        assert [up.post(hired.path, CALL, hired.token).status for up in ups] == [200, 200]
        held, let_go = threading.Event(), threading.Event()

        def hold(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> bool:
            held.set()
            let_go.wait(60)
            return False

        slack.answer = hold
        pool = stack.enter_context(ThreadPoolExecutor(1))
        try:
            open_call = pool.submit(ups[1].post, hired.path, CALL, hired.token)
            assert held.wait(30)
            assert run("seal", "--json").json == {"sealed": True}
            # A call that was under way is broken off, although its provider has not answered yet.
            broken = open_call.result(timeout=PROMISED)
            assert (broken.status, broken.body) == SEALED
            for up in ups:
                until(lambda up=up: all_closed(up, hired) or None)  # type: ignore[misc]
        finally:
            let_go.set()
        slack.answer = None
        arrived = len(slack.seen)
        # Only what is needed for unsealing is there.
        assert [up.get("/healthz").status for up in ups] == [200, 200]
        assert {up.get("/unseal").status for up in ups} == {200}
        # One that starts now waits, sealed as well.
        with machines[2].up() as third:
            assert all_closed(third, hired)
            for words in (("key", "status"), ("key", "rotate"), ("company", "list"), ("key", "prune")):
                done = run(*words, "--json")
                assert (done.status, done.json["error"]["code"]) == (69, "sealed")
            assert run("unseal", "--json").json == {"sealed": False}
            for up in (*ups, third):
                until(lambda up=up: up.get("/readyz").status == 200 or None)  # type: ignore[misc]
                assert up.post(hired.path, CALL, hired.token).status == 200
        assert len(slack.seen) == arrived + 3


async def test_a_sealed_orchestrator_holds_no_key_and_reads_none(place: Place) -> None:
    some = next(iter(place.values))
    async with place.open(long_lived=True) as one, place.open(long_lived=True) as other:
        await opened(other, place, some)
        assert await one.panic.seal("tester")
        assert not await one.panic.seal("tester")
        assert not holds(one)
        async with asyncio.timeout(PROMISED):
            while holds(other):
                await asyncio.sleep(BEAT / 20)
        for app in (one, other):
            assert isinstance(await outcome(app.held.get(place.only("active"))), Sealed)
            for work in (opened(app, place, some), write(app, place, "new", b"a value")):
                assert isinstance(await outcome(work), Unavailable)
            await app.held.refresh()
            assert not holds(app)
        with pytest.raises(Sealed):
            async with place.open():
                pass
        async with place.open(unseal=True) as third:
            assert await third.panic.unseal("tester")
        async with asyncio.timeout(30):
            while not (holds(one) and holds(other)):
                await asyncio.sleep(BEAT / 20)
        for app in (one, other):
            await nothing_is_lost(place, app)


async def test_one_that_cannot_have_its_keys_stays_sealed_until_it_can(place: Place) -> None:
    async with place.open(long_lived=True) as app:
        await app.panic.seal("tester")
        aside = place.folder.rename(place.home / "aside")
        place.sql("UPDATE instance SET sealed_at = NULL, sealed_by = NULL")
        assert app.replica is not None
        await outcome(app.replica.beat())
        assert (app.held.sealed, holds(app)) == (True, False)
        # Nor was another key made in its place.
        assert place.kept() == set()
        shutil.rmtree(place.folder, ignore_errors=True)
        aside.rename(place.folder)
        await app.replica.beat()
        assert (app.held.sealed, holds(app)) == (False, True)
        await nothing_is_lost(place, app)
