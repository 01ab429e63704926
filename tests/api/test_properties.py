"""
Every route of the description, with input that fits it, input that does not, and input that means harm.

The traffic is made once: good, bad and generated calls over a real socket, each with a look at what is stored before
and after. The tests are what must be true of all of it. Nothing in it is left to chance, so a run is like the one before.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
import requests
import structlog.testing
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as some
from schemathesis import Case, GenerationMode

from company_agents.api.callers import MOST_BODY, MOST_SENT
from company_agents.app import App
from company_agents.identity.permissions import Role
from company_agents.integrations.asking import MOST_WAIT
from tests.api.conftest import Ask, People, Person, Provider, serving
from tests.api.hostile import CODE, Attempt, good, spoiled
from tests.api.strange import odd
from tests.api.traffic import Exchange, Judge, Scene, Traffic, Wire, mark_of
from tests.api.world import GOOD, Route, World, build_world, routes, with_ids
from tests.conftest import Tenant

pytestmark = [
    pytest.mark.slow,
    # All of the traffic is the first test's; a machine that is busy may take long over it.
    pytest.mark.timeout(900),
    # Schemathesis names its cases by chance; nothing of what is sent hangs on that.
    pytest.mark.filterwarnings("ignore:Do not use the `random` module"),
]

ROUTES = routes()
FITTING, OTHER, REACHING = 4, 3, 200
# The same calls every time, as many as asked for, and nothing left behind on the disk.
FIXED = settings(
    derandomize=True, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
async def scene(
    app: App, door: str, http: Any, tenant: Callable[[], Awaitable[Tenant]], person: People, owner: Person
) -> AsyncIterator[Scene]:
    # A provider that says back what it was sent with: the credential must not come through.
    echo = Provider(good={GOOD, GOOD + "-2"}, answer=json.dumps({"you sent": GOOD}).encode())
    async with serving(echo) as url:
        mine, theirs = [await build_world(app, tenant, url, str(owner.token_id)) for _ in range(2)]
        for world in (mine, theirs):
            await _leave_marks(app, world)
        tokens = {
            "an owner": owner.token,
            "a viewer": (await person(mine.local, Role.VIEWER)).token,
            "ann": mine.tenant.token,
            "their agent": theirs.tenant.token,
            "their owner": (await person(theirs.local, Role.OWNER)).token,
            "nobody": "ca_agent_" + "A" * 100,
        }
        judge = Judge(door, (await http.get("/v1/openapi.json")).json())
        found = Scene(app, asyncio.get_running_loop(), judge, Wire(door), mine, theirs, tokens)
        yield found
        await found.close()


async def _leave_marks(app: App, world: World) -> None:
    """Texts of this company in everything that can be listed, twice, so that a page of one has a next."""
    mark = mark_of(world)
    for number in range(2):
        task = await app.tasks.create(world.local, f"{mark} task {number}", mark, world.tenant.agent.agent_id())
        await app.tasks.comment(world.local, task.id, mark)
        await app.memory.write(world.tenant.agent, f"{mark} note", mark, [mark[:50]])
        await app.agents.create(world.local, f"{mark} agent {number}")


@pytest.fixture(scope="module")
async def traffic(scene: Scene) -> Traffic:
    """All that is said to every route."""
    errors = _Errors()
    with structlog.testing.capture_logs() as events, errors:
        for route in ROUTES:
            things = await scene.furnished(route)
            await asyncio.to_thread(_say_everything, scene, route, things)
        await asyncio.to_thread(_reach_across, scene)
    scene.traffic.logged += errors.found
    scene.traffic.logged += [str(event) for event in events if event["log_level"] in ("error", "critical")]
    return scene.traffic


class _Errors(logging.Handler):
    """Gathers what is logged as an error, by whomever."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []
        self._loggers = [logging.getLogger(name) for name in (None, "uvicorn", "uvicorn.error")]

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(f"{record.name}: {record.getMessage()} {record.exc_info or ''}")

    def __enter__(self) -> None:
        for logger in self._loggers:
            logger.addHandler(self)

    def __exit__(self, *_: object) -> None:
        for logger in self._loggers:
            logger.removeHandler(self)


def _say_everything(scene: Scene, route: Route, things: World) -> None:
    who = scene.who_may(route)
    for attempt in spoiled(route, things, scene.tokens[who], scene.judge.described(route)):
        scene.exchange(route, who, attempt, must_be_refused=True)
    for attempt in odd(route, things, scene.tokens[who], scene.judge.described(route)):
        scene.exchange(route, who, attempt)
    _say_generated(scene, route, things, GenerationMode.NEGATIVE, OTHER)
    _say_generated(scene, route, things, GenerationMode.POSITIVE, FITTING)
    scene.exchange(route, who, good(route, things, scene.tokens[who]))


def _say_generated(scene: Scene, route: Route, things: World, mode: GenerationMode, count: int) -> None:
    operation = scene.judge.schema[route.path][route.method]
    cases = operation.as_strategy(
        generation_mode=mode, path_parameters={name: things.ids[name] for name in route.params}
    )
    callers = [*[scene.who_may(route)] * 5, *scene.tokens]

    @settings(FIXED, max_examples=count)
    @given(some.data())
    def say(data: Any) -> None:
        who = data.draw(some.sampled_from(callers))
        case: Case = data.draw(cases)
        _aim(route, things, case, data.draw(some.integers(0, 3)) > 0)
        attempt = _on_the_wire(case, scene.judge.url, scene.tokens[who], f"generated, {mode.value}")
        scene.exchange(route, who, attempt)

    say()


def _aim(route: Route, things: World, case: Case, well: bool) -> None:
    """Have a generated body speak of things that there are. No provider beyond this machine is ever called."""
    for place in (case.query, case.body):
        wait = place.get("wait") if isinstance(place, dict) else None
        # Nobody decides meanwhile, so who waits does that to the end.
        if isinstance(place, dict) and isinstance(wait, int) and 0 < wait <= MOST_WAIT:
            place["wait"] = 1
    if not isinstance(case.body, dict):
        return
    if route.operation == "connectIntegration":
        case.body = (
            {**case.body, **route.body(things), "name": case.body.get("name")}
            if well
            else {**case.body, "provider": "generic"}
        )
    elif route.operation == "configureClient":
        case.body = {**case.body, "issuer": ""}
    elif route.operation == "beginConsent":
        case.body = (
            {**case.body, **route.body(things), "flow": "device"}
            if well
            else {**case.body, "issuer": "", "provider": "generic"}
        )
    elif well and route.operation == "sendRequest":
        case.body = {**case.body, "method": "POST", "path": "/things"}
    elif well:
        known: dict[str, Any] = {name: things.ids["agent_id"] for name in ("agent", "assignee") if name in case.body}
        case.body = {**case.body, **known}


def _reach_across(scene: Scene) -> None:
    """Tokens of one company, with ids of the other in every place that takes one."""
    sides = {"ann": scene.theirs, "a viewer": scene.theirs, "their agent": scene.mine, "their owner": scene.mine}
    reach_for = some.sampled_from([route for route in ROUTES if route.of_company])

    @settings(FIXED, max_examples=REACHING)
    @given(reach_for, some.sampled_from([*sides]), some.data())
    def reach(route: Route, who: str, data: Any) -> None:
        victim = sides[who]
        own = scene.mine if victim is scene.theirs else scene.theirs
        random = {name: str(data.draw(some.uuids(version=4))) for name in route.params}
        ids = {
            name: data.draw(some.sampled_from([victim.ids, victim.ids, own.ids, random]))[name] for name in route.params
        }
        attempt = good(route, with_ids(victim, **ids), scene.tokens[who])
        query = data.draw(some.sampled_from(["", f"?assignee={victim.ids['agent_id']}", f"?query={mark_of(victim)}"]))
        company = victim.ids["cid"]
        before = scene.stored_now(company)
        found = scene.exchange(route, who, replace(attempt, how="reaching across", target=attempt.target + query))
        if scene.stored_now(company) != before:
            scene.traffic.reached.append(found)

    reach()


def _on_the_wire(case: Case, url: str, token: str, how: str) -> Attempt:
    known = ("method", "url", "headers", "files", "data", "json", "params", "cookies")
    kwargs = {name: value for name, value in case.as_transport_kwargs(base_url=url).items() if name in known}
    prepared = requests.Request(**kwargs).prepare()
    headers = [
        (name, value if isinstance(value, bytes) else value.encode("latin-1"))
        for name, value in prepared.headers.items()
        if name.lower() not in ("authorization", "content-length", "transfer-encoding", "host", "connection")
    ]
    body = prepared.body.encode() if isinstance(prepared.body, str) else prepared.body
    assert body is None or isinstance(body, bytes)
    return Attempt(
        how,
        str(prepared.method),
        prepared.path_url,
        (*headers, ("Authorization", f"Bearer {token}".encode())),
        body,
    )


def _first(found: Iterator[Exchange]) -> str:
    shown = [str(exchange) for exchange in found]
    return f"{len(shown)}:\n" + "\n".join(shown[:40])


# — all of it —


def test_every_route_of_the_description_was_driven_to_success_and_to_refusal(scene: Scene, traffic: Traffic) -> None:
    described = {
        (path, method.upper()) for path, methods in scene.judge.document["paths"].items() for method in methods
    }
    assert described == {(route.path, route.method) for route in ROUTES}
    said: dict[str, set[bool]] = defaultdict(set)
    for exchange in traffic.exchanges:
        said[exchange.route.operation].add(exchange.answer.status < 400)
    assert {operation for operation, both in said.items() if both == {True, False}} == {r.operation for r in ROUTES}


def test_no_input_gets_a_500_or_leaves_an_exception_in_the_log(traffic: Traffic) -> None:
    bad = [exchange for exchange in traffic.exchanges if exchange.answer.status >= 500]
    assert not bad, _first(iter(bad))
    assert traffic.logged == []


def test_every_answer_is_as_the_description_says(traffic: Traffic) -> None:
    bad = [exchange for exchange in traffic.exchanges if exchange.faults]
    assert not bad, _first(iter(bad))


def test_hostile_input_is_refused(traffic: Traffic) -> None:
    bad = [e for e in traffic.exchanges if e.must_be_refused and not 400 <= e.answer.status < 500]
    assert not bad, _first(iter(bad))


def test_a_refused_call_changes_nothing(traffic: Traffic) -> None:
    bad = [exchange for exchange in traffic.exchanges if exchange.answer.status >= 400 and exchange.changed]
    assert not bad, _first(iter(bad))


def test_no_answer_holds_a_credential_or_a_token_that_is_stored(scene: Scene, traffic: Traffic) -> None:
    values = [GOOD.encode(), *(token.encode() for token in scene.tokens.values())]
    bad = [e for e in traffic.exchanges if any(value in _all_of(e) for value in values)]
    assert not bad, _first(iter(bad))


def _all_of(exchange: Exchange) -> bytes:
    return json.dumps(exchange.answer.headers).encode() + exchange.answer.content


def test_a_token_of_one_company_is_shown_nothing_of_another(scene: Scene, traffic: Traffic) -> None:
    mine, theirs = scene.marks(scene.mine), scene.marks(scene.theirs)
    not_for = {"ann": theirs, "a viewer": theirs, "their agent": mine, "their owner": mine, "nobody": mine | theirs}
    bad = []
    for exchange in traffic.exchanges:
        said, sent = _all_of(exchange), f"{exchange.sent.target} {exchange.sent.body!r}"
        shown = {mark for mark in not_for.get(exchange.who, ()) if mark.encode() in said and mark not in sent}
        bad += [exchange] if shown else []
    assert not bad, _first(iter(bad))
    reached = [exchange for exchange in traffic.exchanges if exchange.sent.how == "reaching across"]
    assert len(reached) >= REACHING * 0.9 and {e.answer.status < 400 for e in reached} == {True, False}


def test_a_token_of_one_company_changes_nothing_in_another(traffic: Traffic) -> None:
    assert not traffic.reached, _first(iter(traffic.reached))


# — text that looks like code —


async def test_text_that_looks_like_code_is_kept_as_it_was_written(scene: Scene, ask: Ask) -> None:
    root, token = f"/v1/companies/{scene.mine.ids['cid']}", scene.tokens["ann"]
    for text in CODE:
        task = (await ask(token, "POST", f"{root}/tasks", {"title": f"a{text}z"[:200], "description": text})).json()
        await ask(token, "POST", f"{root}/tasks/{task['id']}/comments", {"text": text})
        note = (
            await ask(token, "POST", f"{root}/memory", {"title": text, "content": text, "tags": [text[:50]]})
        ).json()
        found = (await ask(token, "GET", f"{root}/tasks/{task['id']}")).json()
        assert (found["title"], found["description"], found["comments"][0]["text"]) == (f"a{text}z"[:200], text, text)
        found = (await ask(token, "GET", f"{root}/memory/{note['id']}")).json()
        assert (found["title"], found["content"], found["tags"]) == (text, text, [text[:50]])


async def test_a_key_that_looks_like_code_creates_once_like_any_other(scene: Scene, ask: Ask) -> None:
    path, token = f"/v1/companies/{scene.mine.ids['cid']}/tasks", scene.tokens["ann"]
    for key in {"".join(letter for letter in text if "!" <= letter <= "~") for text in CODE} | {
        "~" * 255,
        ",",
        "\\",
        '"',
    }:
        first, second = [await ask(token, "POST", path, {"title": "a task"}, key=key) for _ in range(2)]
        assert (first.status_code, second.status_code) == (201, 201), f"{key}: {first.text}"
        assert first.json()["id"] == second.json()["id"] and second.headers["idempotency-replayed"] == "true"


# — what is taken away —


async def test_null_takes_a_task_from_its_agent_and_what_is_not_said_leaves_it(scene: Scene, ask: Ask) -> None:
    root, token = f"/v1/companies/{scene.mine.ids['cid']}/tasks", scene.tokens["ann"]
    ann = scene.mine.ids["agent_id"]
    task = (await ask(token, "POST", root, {"title": "a task", "assignee": ann})).json()
    for change, assignee in (({"status": "done"}, ann), ({"assignee": None}, None), ({"assignee": ann}, ann)):
        answer = await ask(token, "PATCH", f"{root}/{task['id']}", change)
        assert (answer.status_code, answer.json()["assignee"]) == (200, assignee)
    for name in ("title", "description", "status"):
        assert (await ask(token, "PATCH", f"{root}/{task['id']}", {name: None})).status_code == 422


# — bodies and pages, as docs/api.md has them —


@pytest.mark.parametrize(("operation", "most"), [("createTask", MOST_BODY), ("sendRequest", MOST_SENT)])
async def test_a_body_is_taken_up_to_its_limit_however_it_is_sent(
    scene: Scene, http: Any, operation: str, most: int
) -> None:
    route = next(route for route in ROUTES if route.operation == operation)
    call = good(route, scene.mine, scene.tokens["ann"])
    headers = {name: value.decode() for name, value in call.headers}

    async def pieces(body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    for size, fits in ((most, True), (most + 1, False)):
        body = (call.body or b"").ljust(size)
        # As one that says its length, and in chunks that do not.
        for content in (body, pieces(body)):
            answer = await http.request(call.method, call.target, headers=headers, content=content)
            assert answer.is_success if fits else answer.status_code == 413, answer.text
    assert str(most) in scene.judge.document["components"]["responses"]["TooLarge"]["description"]


async def test_following_next_shows_every_entry_once_whatever_the_size_of_a_page(scene: Scene, ask: Ask) -> None:
    root, token = f"/v1/companies/{scene.mine.ids['cid']}", scene.tokens["an owner"]
    for _ in range(3):
        await scene.furnished(ROUTES[0])
    # Only an event may come on the way, ahead of all others.
    for path, name in (("tasks", "after"), ("agents", "after"), ("integrations", "after"), ("audit", "before")):
        whole = await _pages(ask, token, f"{root}/{path}", name, 200)
        assert len(set(whole)) == len(whole) > 2
        small = await _pages(ask, token, f"{root}/{path}", name, min(97, len(whole) // 3))
        assert small[-len(whole) :] == whole and (name == "before" or len(small) == len(whole))


async def _pages(ask: Ask, token: str, path: str, name: str, limit: int) -> list[str]:
    found: list[str] = []
    query = f"?limit={limit}"
    while True:
        page = (await ask(token, "GET", path + query)).json()
        assert len(page["items"]) <= limit
        found += [str(entry.get("id") or entry["seq"]) for entry in page["items"]]
        if page["next"] is None:
            return found
        query = f"?limit={limit}&{name}={quote(str(page['next']))}"


# — paths and methods —

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "PURGE")


async def test_a_method_that_a_path_does_not_have_is_405_and_changes_nothing(scene: Scene) -> None:
    paths = {path: {method.upper() for method in methods} for path, methods in scene.judge.document["paths"].items()}
    token = ("Authorization", f"Bearer {scene.tokens['an owner']}".encode())
    body = (("Content-Type", b"application/json"), ("X-HTTP-Method-Override", b"DELETE"), token)
    before = await scene.stored()
    for path, known in {**paths, "/v1/openapi.json": {"GET", "HEAD"}}.items():
        for method in (method for method in METHODS if method not in known):
            call = Attempt("another method", method, path.format_map(scene.mine.ids), body, b"{}")
            answer = await asyncio.to_thread(scene.wire.send, call)
            assert answer.status == 405, f"{method} {path}: {answer}"
            assert set(answer.header("allow").split(", ")) == known
            if method != "HEAD":
                assert answer.header("content-type") == "application/problem+json"
                assert json.loads(answer.content)["code"] == "method_not_allowed"
    assert await scene.stored() == before


async def test_a_path_that_there_is_not_is_404(scene: Scene) -> None:
    strange = some.text(some.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).map(
        lambda text: quote(text, safe="")
    )
    around = some.sampled_from(
        ["/v1/{}", "/v1/me/{}", "/v1/{}/me", "/v1//{}", "/v1/me%20{}", "/v1/x/../{}", "/{}/v1/me", "/V1/{}"]
    )

    @settings(FIXED, max_examples=150)
    @given(around, strange, some.sampled_from(METHODS))
    def send(path: str, segment: str, method: str) -> None:
        call = Attempt("an unknown path", method, path.format(f"zz{segment}"), (), None)
        answer = scene.wire.send(call)
        assert answer.status == 404, f"{call}: {answer}"
        assert answer.header("content-type") == "application/problem+json"
        assert method == "HEAD" or json.loads(answer.content)["code"] == "not_found"

    await asyncio.to_thread(send)
