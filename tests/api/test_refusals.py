"""
Every route × every caller that it must refuse: refused as fits, and nothing changes. Made from the door's routes.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fastapi.routing import APIRoute

from company_agents.api.application import build
from company_agents.api.callers import GuardedRoute
from company_agents.app import App
from company_agents.identity.permissions import Kind, Role, allowed
from company_agents.identity.principal import Principal, Via
from company_agents.identity.tokens import new_run_token
from tests.api.conftest import Ask, People, Person, Provider, bearer, serving
from tests.api.world import GOOD, SAMPLES, TABLES, Route, World, build_world, routes
from tests.conftest import Tenant

ROUTES = routes()
Make = Callable[[], Awaitable[Tenant]]


@pytest.fixture(scope="module")
async def provider_url() -> AsyncIterator[str]:
    async with serving(Provider(good={GOOD, GOOD + "-2"})) as url:
        yield url


@pytest.fixture
async def world(app: App, tenant: Make, provider_url: str, owner: Person) -> World:
    return await build_world(app, tenant, provider_url, str(owner.token_id))


@pytest.fixture
def stored(app: App) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Reads everything."""

    async def read() -> dict[str, Any]:
        async with await app.identity.db.logins.instance.connect() as connection:
            return {
                table: await (
                    await connection.execute(
                        f"SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) AS sum"
                        f" FROM (SELECT {columns} FROM {table}) AS t"
                    )
                ).fetchone()
                for table, columns in TABLES.items()
            }

    return read


async def execute(app: App, statement: str, *params: Any) -> None:
    async with await app.identity.db.logins.instance.connect() as connection:
        assert (await connection.execute(statement, params)).rowcount > 0


# — who is refused everywhere —


async def no_token(app: App, world: World, person: People) -> dict[str, str]:
    return {}


async def an_empty_token(app: App, world: World, person: People) -> dict[str, str]:
    return {"Authorization": "Bearer"}


async def a_malformed_token(app: App, world: World, person: People) -> dict[str, str]:
    return bearer("nothing that we ever made")


async def a_truncated_token(app: App, world: World, person: People) -> dict[str, str]:
    return bearer(world.tenant.token[:-1])


async def a_longer_token(app: App, world: World, person: People) -> dict[str, str]:
    return bearer(world.tenant.token + "A")


async def an_agents_token_with_an_operators_prefix(app: App, world: World, person: People) -> dict[str, str]:
    return bearer(world.tenant.token.replace("ca_agent_", "ca_op_"))


async def an_operators_token_with_an_agents_prefix(app: App, world: World, person: People) -> dict[str, str]:
    return bearer((await person()).token.replace("ca_op_", "ca_agent_"))


async def a_good_token_in_another_scheme(app: App, world: World, person: People) -> dict[str, str]:
    return {"Authorization": f"Basic {world.tenant.token}"}


async def a_good_token_without_a_scheme(app: App, world: World, person: People) -> dict[str, str]:
    return {"Authorization": world.tenant.token}


async def a_good_token_in_a_cookie(app: App, world: World, person: People) -> dict[str, str]:
    return {"Cookie": f"session={world.tenant.token}; token={world.tenant.token}"}


async def a_rotated_token(app: App, world: World, person: People) -> dict[str, str]:
    await app.agents.rotate_token(world.local, world.tenant.agent.agent_id())
    return bearer(world.tenant.token)


async def a_paused_agent(app: App, world: World, person: People) -> dict[str, str]:
    await app.agents.pause(world.local, world.tenant.agent.agent_id())
    return bearer(world.tenant.token)


async def a_retired_agent(app: App, world: World, person: People) -> dict[str, str]:
    await app.agents.retire(world.local, world.tenant.agent.agent_id())
    return bearer(world.tenant.token)


async def a_run_whose_lease_has_ended(app: App, world: World, person: People) -> dict[str, str]:
    await execute(app, "UPDATE runs SET lease_until = now() WHERE id = %s", world.ids["run_id"])
    return bearer(world.run_token)


async def a_run_that_has_expired(app: App, world: World, person: People) -> dict[str, str]:
    found = await a_run_whose_lease_has_ended(app, world, person)
    await app.sweeper.sweep()
    return found


async def a_finished_run(app: App, world: World, person: People) -> dict[str, str]:
    await app.runs.finish(world.tenant.agent, uuid.UUID(world.ids["run_id"]), 1)
    return bearer(world.run_token)


async def a_cancelled_run(app: App, world: World, person: People) -> dict[str, str]:
    await app.runs.cancel(world.local, uuid.UUID(world.ids["run_id"]))
    return bearer(world.run_token)


async def a_run_of_a_paused_agent(app: App, world: World, person: People) -> dict[str, str]:
    await app.agents.pause(world.local, world.tenant.agent.agent_id())
    return bearer(world.run_token)


async def a_forged_run_token(app: App, world: World, person: People) -> dict[str, str]:
    return bearer(new_run_token(world.tenant.company.id, uuid.UUID(world.ids["run_id"])).reveal_text())


async def a_run_token_of_another_company(app: App, world: World, person: People) -> dict[str, str]:
    return bearer(new_run_token(uuid.uuid4(), uuid.UUID(world.ids["run_id"])).reveal_text())


async def an_agents_token_with_the_prefix_of_a_run(app: App, world: World, person: People) -> dict[str, str]:
    return bearer(world.tenant.token.replace("ca_agent_", "ca_run_"))


async def a_runs_token_with_the_prefix_of_an_agent(app: App, world: World, person: People) -> dict[str, str]:
    return bearer(world.run_token.replace("ca_run_", "ca_agent_"))


async def a_revoked_operator_token(app: App, world: World, person: People) -> dict[str, str]:
    found = await person()
    await app.operators.revoke_token(Principal(Kind.OPERATOR, "x", Via.TOKEN, found.id), found.token_id)
    return bearer(found.token)


async def an_expired_operator_token(app: App, world: World, person: People) -> dict[str, str]:
    found = await person()
    await execute(app, "UPDATE operator_tokens SET ends_at = now() WHERE id = %s", found.token_id)
    return bearer(found.token)


async def a_disabled_operator(app: App, world: World, person: People) -> dict[str, str]:
    found = await person()
    await execute(app, "UPDATE operators SET disabled_at = now() WHERE id = %s", found.id)
    return bearer(found.token)


STRANGERS = [
    no_token,
    an_empty_token,
    a_malformed_token,
    a_truncated_token,
    a_longer_token,
    an_agents_token_with_an_operators_prefix,
    an_operators_token_with_an_agents_prefix,
    a_good_token_in_another_scheme,
    a_good_token_without_a_scheme,
    a_good_token_in_a_cookie,
    a_rotated_token,
    a_paused_agent,
    a_retired_agent,
    a_run_whose_lease_has_ended,
    a_run_that_has_expired,
    a_finished_run,
    a_cancelled_run,
    a_run_of_a_paused_agent,
    a_forged_run_token,
    a_run_token_of_another_company,
    an_agents_token_with_the_prefix_of_a_run,
    a_runs_token_with_the_prefix_of_an_agent,
    a_revoked_operator_token,
    an_expired_operator_token,
    a_disabled_operator,
]


def test_every_route_has_a_sample_and_every_sample_a_route() -> None:
    assert {route.operation for route in ROUTES} == SAMPLES.keys()
    assert len(ROUTES) == len(SAMPLES)


def test_the_door_has_no_route_that_does_not_ask_who_calls(app: App) -> None:
    found = build(app).routes
    assert {getattr(route, "path", "") for route in found if not isinstance(route, GuardedRoute)} == {
        "/v1/openapi.json"
    }
    assert len([route for route in found if isinstance(route, APIRoute)]) == len(ROUTES)


async def works(world: World, route: Route, ask: Ask, person: People, owner: Person) -> None:
    token = owner.token if allowed_for_owner(route) else world.tenant.token
    if route.operation == "revokeOperatorToken":
        found = await person()
        world.ids["token_id"], token = str(found.token_id), found.token
    if route.operation == "claimRun":
        world.ids["run_id"] = world.ids["queued_id"]
    answer = await ask(token, route.method, route.url(world), route.body(world))
    assert answer.is_success, f"{route.operation}: {answer.text}"


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.method != "GET"], ids=lambda route: route.operation
)
async def test_every_sample_works_for_who_may(
    world: World, route: Route, ask: Ask, person: People, owner: Person
) -> None:
    await works(world, route, ask, person, owner)


async def test_every_sample_that_changes_nothing_works_for_who_may(
    world: World, ask: Ask, person: People, owner: Person
) -> None:
    for route in ROUTES:
        if route.method == "GET":
            await works(world, route, ask, person, owner)


@pytest.mark.parametrize("stranger", STRANGERS, ids=lambda stranger: stranger.__name__)
async def test_a_stranger_is_refused_everywhere_and_changes_nothing(
    app: App,
    world: World,
    http: Any,
    person: People,
    stored: Callable[[], Awaitable[dict[str, Any]]],
    stranger: Callable[..., Awaitable[dict[str, str]]],
) -> None:
    headers = await stranger(app, world, person)
    before = await stored()
    for route in ROUTES:
        answer = await http.request(
            route.method,
            route.url(world),
            json=route.body(world),
            headers={**headers, "Idempotency-Key": uuid.uuid4().hex},
        )
        assert answer.status_code == 401, f"{route.operation}: {answer.text}"
        assert answer.json()["code"] == "unauthenticated"
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert await stored() == before


async def test_two_tokens_at_once_are_refused(world: World, http: Any, owner: Person) -> None:
    both = [("Authorization", f"Bearer {world.tenant.token}"), ("Authorization", f"Bearer {owner.token}")]
    assert (await http.get("/v1/me", headers=both)).status_code == 401


@pytest.mark.parametrize("name", ["token", "access_token", "authorization"])
async def test_a_token_in_the_address_is_refused(world: World, http: Any, name: str) -> None:
    answer = await http.get("/v1/me", params={name: world.tenant.token})
    assert answer.status_code == 401
    assert "rotated" in answer.json()["hint"]
    assert world.tenant.token not in answer.text


# — who is refused somewhere —


async def stranger_of(app: App, other: Tenant, person: People, who: str) -> str:
    """The token of an operator, an agent or a run of another company."""
    if who == "a run":
        return (await app.runs.open(other.agent))[1].reveal_text()
    return other.token if who == "an agent" else (await person(other.local, Role.OWNER)).token


@pytest.mark.parametrize("who", ["an operator", "an agent", "a run"])
async def test_another_companys_things_do_not_exist(
    world: World,
    app: App,
    tenant: Make,
    ask: Ask,
    person: People,
    stored: Callable[[], Awaitable[dict[str, Any]]],
    who: str,
) -> None:
    other = await tenant()
    token = await stranger_of(app, other, person, who)
    before = await stored()
    for route in ROUTES:
        if not route.of_company:
            continue
        answer = await ask(token, route.method, route.url(world), route.body(world), key=uuid.uuid4().hex)
        missing = await ask(
            token, route.method, route.url(world, cid=str(uuid.uuid4())), route.body(world), key=uuid.uuid4().hex
        )
        assert answer.status_code == 404, f"{route.operation}: {answer.text}"
        assert answer.content == missing.content, "it can be told from one that does not exist"
    assert await stored() == before


@pytest.mark.parametrize("who", ["an operator", "an agent", "a run"])
async def test_another_companys_things_do_not_exist_under_ones_own_company_either(
    world: World,
    app: App,
    tenant: Make,
    ask: Ask,
    person: People,
    stored: Callable[[], Awaitable[dict[str, Any]]],
    who: str,
) -> None:
    other = await tenant()
    token = await stranger_of(app, other, person, who)
    before = await stored()
    for route in ROUTES:
        # A provider's name is the same for everybody: there is nothing of another's behind it.
        if not set(route.params) - {"cid", "name"} or not route.of_company:
            continue
        url = route.url(world, cid=str(other.company.id))
        answer = await ask(token, route.method, url, route.body(world), key=uuid.uuid4().hex)
        assert answer.status_code in (403, 404), f"{route.operation}: {answer.text}"
        assert "a note" not in answer.text and "a task" not in answer.text
    assert await stored() == before


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
@pytest.mark.parametrize("through", ["membership", "the token's own role"])
async def test_a_role_may_what_the_table_says_and_no_more(
    world: World,
    ask: Ask,
    person: People,
    stored: Callable[[], Awaitable[dict[str, Any]]],
    role: Role,
    through: str,
) -> None:
    given = await (person(world.local, role) if through == "membership" else person(world.local, Role.OWNER, role))
    before = await stored()
    for route in ROUTES:
        permission = route.sample.permission
        # An owner of one company is no owner of the instance.
        in_instance = permission is not None and permission.startswith("instance:")
        may = permission is None or allowed(permission, Kind.OPERATOR, Role.VIEWER if in_instance else role)
        if may and route.method != "GET":
            continue
        answer = await ask(given.token, route.method, route.url(world), route.body(world), key=uuid.uuid4().hex)
        assert answer.status_code == (200 if may else 403), f"{route.operation}: {answer.text}"
    assert await stored() == before


@pytest.mark.parametrize("kind", [Kind.AGENT, Kind.RUN])
async def test_an_agent_and_its_run_may_what_the_table_says_and_no_more(
    world: World, ask: Ask, stored: Callable[[], Awaitable[dict[str, Any]]], kind: Kind
) -> None:
    token = world.tenant.token if kind is Kind.AGENT else world.run_token
    before = await stored()
    for route in ROUTES:
        permission = route.sample.permission
        may = not route.sample.persons_only and (permission is None or allowed(permission, kind, None))
        if may and route.method != "GET":
            continue
        answer = await ask(token, route.method, route.url(world), route.body(world), key=uuid.uuid4().hex)
        assert answer.status_code == (200 if may else 403), f"{route.operation}: {answer.text}"
    assert await stored() == before


async def test_another_agents_notes_do_not_exist(
    app: App, world: World, ask: Ask, stored: Callable[[], Awaitable[dict[str, Any]]]
) -> None:
    _, token = await app.agents.create(world.local, "bob")
    before = await stored()
    for route in ROUTES:
        if "memory_id" in route.params:
            answer = await ask(token.reveal_text(), route.method, route.url(world), route.body(world))
            assert answer.status_code == 404, f"{route.operation}: {answer.text}"
    found = await ask(token.reveal_text(), "GET", f"/v1/companies/{world.ids['cid']}/memory")
    assert found.json()["items"] == []
    assert await stored() == before


@pytest.mark.parametrize("who", ["another agent", "another run of the agent"])
async def test_another_run_does_not_exist(
    app: App, world: World, ask: Ask, stored: Callable[[], Awaitable[dict[str, Any]]], who: str
) -> None:
    if who == "another agent":
        _, token = await app.agents.create(world.local, "bob")
    else:
        _, token = await app.runs.open(world.tenant.agent)
    before = await stored()
    for route in ROUTES:
        permission, kind = route.sample.permission, Kind.AGENT if who == "another agent" else Kind.RUN
        if "run_id" in route.params and permission is not None and allowed(permission, kind, None):
            answer = await ask(token.reveal_text(), route.method, route.url(world), route.body(world))
            assert answer.status_code == 404, f"{route.operation}: {answer.text}"
    found = (await ask(token.reveal_text(), "GET", f"/v1/companies/{world.ids['cid']}/runs")).json()["items"]
    assert world.ids["run_id"] not in [entry["id"] for entry in found]
    assert len(found) == (0 if who == "another agent" else 1)
    assert await stored() == before


async def test_an_integration_that_an_agent_may_not_use_does_not_exist_for_it(app: App, world: World, ask: Ask) -> None:
    _, token = await app.agents.create(world.local, "bob")
    for route in ROUTES:
        if route.operation in ("getIntegration", "sendRequest"):
            answer = await ask(token.reveal_text(), route.method, route.url(world), route.body(world))
            assert answer.status_code == 404, f"{route.operation}: {answer.text}"


async def test_somebody_elses_operator_token_does_not_exist(
    app: App, ask: Ask, person: People, stored: Callable[[], Awaitable[dict[str, Any]]]
) -> None:
    mine, theirs = await person(), await person()
    before = await stored()
    answer = await ask(mine.token, "DELETE", f"/v1/operator-tokens/{theirs.token_id}")
    assert answer.status_code == 404
    listed = (await ask(mine.token, "GET", "/v1/operator-tokens")).json()["items"]
    assert [entry["id"] for entry in listed] == [str(mine.token_id)]
    assert await stored() == before


# — ids —

WITH_IDS = [(route, param) for route in ROUTES for param in route.params if param != "name"]


async def test_a_malformed_id_is_wrong_usage(world: World, ask: Ask, owner: Person) -> None:
    bad = itertools.cycle(["x", "1", "{01234567-89ab-cdef-0123-456789abcdef}", "0123456789abcdef0123456789abcdef"])
    for route, param in WITH_IDS:
        token = owner.token if route.of_company or route.sample.persons_only else world.tenant.token
        answer = await ask(token, route.method, route.url(world, **{param: next(bad)}), route.body(world))
        assert (answer.status_code, answer.json()["code"]) == (422, "wrong_usage"), f"{route.operation}: {answer.text}"


async def test_an_unknown_id_is_not_found(world: World, ask: Ask, owner: Person) -> None:
    for route, param in WITH_IDS:
        token = owner.token if allowed_for_owner(route) else world.tenant.token
        answer = await ask(token, route.method, route.url(world, **{param: str(uuid.uuid4())}), route.body(world))
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), f"{route.operation}: {answer.text}"


def allowed_for_owner(route: Route) -> bool:
    permission = route.sample.permission
    return permission is None or allowed(permission, Kind.OPERATOR, Role.OWNER)
