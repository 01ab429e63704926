"""
A Postgres of one's own, by DATABASE_URL: who may sign in, what docs/database.md has an administrator do, and what
happens while the server is away. A real server on a port, with passwords that are really asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from company_agents.app import App, open_app
from company_agents.db.logins import ROLES, ROLES_HINT
from company_agents.errors import MayNotStart
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings, read_settings
from tests.cli.postgres import OwnPostgres, own_postgres
from tests.cli.processes import Answer, bearer, machine_in
from tests.cli.standin import TOKEN, StandIn, stand_in
from tests.conftest import LOCAL
from tests.database.processes import until

DOCS = Path(__file__).resolve().parents[2] / "docs" / "database.md"
PASSWORD = "a password of the tests"


# The one that is installed with us, and those of the system: on Debian there may be several.
SERVERS = [None, *sorted(Path("/usr/lib/postgresql").glob("1[5678]/bin"))]


@pytest.fixture(scope="module", params=SERVERS, ids=lambda bin: bin.parent.name if bin else "ours")
def server(request: pytest.FixtureRequest) -> Iterator[OwnPostgres]:
    with own_postgres(PASSWORD, request.param) as server:
        yield server


@pytest.fixture(scope="module")
def slack() -> Iterator[StandIn]:
    with stand_in() as slack:
        yield slack


@dataclasses.dataclass
class Place:
    """An empty database on the server, on which none of our roles are there yet."""

    server: OwnPostgres
    home: Path
    name: str
    administrator: psycopg.Connection
    users: list[str] = dataclasses.field(default_factory=list)

    def run(self, statements: str, *, inside: bool = False) -> None:
        """What an administrator runs: on the server, or in this database."""
        if not inside:
            self.administrator.execute(statements.encode())
            return
        with psycopg.connect(self.address("administrator", "administrator"), autocommit=True) as connection:
            connection.execute(statements.encode())

    def user(self, options: str = "", name: str = "") -> str:
        """Make a user that can sign in, and nothing else; its name."""
        name = name or f"user_{uuid.uuid4().hex[:8]}"
        self.run(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}' {options}")
        self.users.append(name)
        return name

    def address(self, user: str, password: str = PASSWORD) -> str:
        return self.server.address_of(user, password, self.name)

    def settings(self, user: str, direct: str | None = None) -> Settings:
        given = {"database_url": self.address(user), "database_direct_url": self.address(direct) if direct else None}
        return read_settings(home=self.home, **given)

    def own(self, user: str) -> None:
        self.run(f"ALTER DATABASE {self.name} OWNER TO {user}")

    def rows(self, query: str) -> list[Any]:
        with psycopg.connect(self.address("administrator", "administrator")) as connection:
            return connection.execute(query.encode()).fetchall()


@pytest.fixture
def place(server: OwnPostgres, tmp_path: Path) -> Iterator[Place]:
    with server.connect() as administrator:
        place = Place(server, tmp_path / "home", f"db_{uuid.uuid4().hex[:8]}", administrator)
        place.run(f"CREATE DATABASE {place.name}")
        yield place
        place.run(f"DROP DATABASE {place.name} WITH (FORCE)")
        place.run("".join(f"DROP ROLE IF EXISTS {role};" for role in (*ROLES, *place.users)))


@contextlib.asynccontextmanager
async def round_of(settings: Settings, slack: StandIn) -> AsyncIterator[App]:
    """Start on it; a company, an agent and an integration are made and used."""
    async with open_app(settings) as app:
        company = await app.companies.create(LOCAL, f"company {uuid.uuid4().hex[:8]}")
        caller = await app.identity.in_company(LOCAL, company.id)
        agent, token = await app.agents.create(caller, "ann")
        await app.integrations.connect(
            caller, "slack", Sensitive(TOKEN), base_url=slack.url, allow_private_network=True, allow=[agent.id]
        )
        ann = await app.identity.agent(token.reveal_text())
        reply = await app.requests.request(ann, "slack", "POST", "/api/chat.postMessage", body={"text": "hello"})
        assert reply.body["ok"] is True
        assert {chain.faults for chain in await app.events.verify_all()} == {()}
        yield app


def documented(heading: str = "## Your own") -> list[str]:
    """The blocks of SQL in that part of the page."""
    part = DOCS.read_text("utf-8").split(heading)[1].split("\n## ")[0]
    return re.findall(r"```sql\n(.*?)```", part, re.DOTALL)


def words(statements: str) -> list[str]:
    return statements.replace(";", " ").split()


# — who may make the roles —


async def test_a_user_who_may_make_roles_needs_nothing_but_an_empty_database(place: Place, slack: StandIn) -> None:
    user = place.user("CREATEROLE")
    place.own(user)
    async with round_of(place.settings(user), slack) as app:
        company = (await app.companies.list(LOCAL)).items[0].id
    # The same database is there for the next start; nothing was embedded.
    async with open_app(place.settings(user)) as app:
        assert [found.id for found in (await app.companies.list(LOCAL)).items] == [company]
    assert not (place.home / "db").exists()
    made = place.rows(
        "SELECT rolname, rolcanlogin, rolsuper, rolbypassrls FROM pg_roles WHERE rolname ~ '^company_agents_'"
    )
    assert sorted(made) == [(role, False, False, False) for role in sorted(ROLES)]
    owners = place.rows(
        "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relname IN ('secrets', 'audit_events')"
    )
    assert owners == [("company_agents_migrate",)]


async def test_a_user_who_may_not_make_roles_is_refused_with_what_an_administrator_is_to_run_and_that_is_enough(
    place: Place, slack: StandIn
) -> None:
    user = place.user()
    place.own(user)
    with pytest.raises(MayNotStart, match="may not make the three roles") as caught:
        async with open_app(place.settings(user)):
            pass
    assert (caught.value.exit_status, caught.value.reason) == (78, "database_roles")
    assert place.rows("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace") == []
    assert caught.value.hint == ROLES_HINT
    place.run(caught.value.hint.partition("run: ")[2].replace("<the user of DATABASE_URL>", user))
    async with round_of(place.settings(user), slack):
        pass


async def test_what_the_page_has_an_administrator_run_is_enough_for_a_user_who_owns_nothing(
    place: Place, slack: StandIn
) -> None:
    roles, schema, *_ = documented()
    user = place.user()
    place.run(re.sub(r"\bapp\b", user, roles))
    with pytest.raises(MayNotStart, match="may not make tables") as caught:
        async with open_app(place.settings(user)):
            pass
    assert (caught.value.exit_status, caught.value.reason) == (78, "database_schema")
    # The hint says the same as the page.
    assert words(caught.value.hint.partition("database: ")[2]) == words(schema)
    place.run(schema, inside=True)
    async with round_of(place.settings(user), slack):
        pass


async def test_a_user_that_inherits_no_rights_serves_as_well(place: Place, slack: StandIn) -> None:
    # It has the rights of a role only once it has taken it on.
    user = place.user("NOINHERIT")
    roles, schema, *_ = documented()
    place.run(re.sub(r"\bapp\b", user, roles))
    place.run(schema, inside=True)
    for _ in range(2):
        async with round_of(place.settings(user), slack):
            pass


async def test_two_users_one_for_requests_and_one_for_the_rest(place: Place, slack: StandIn) -> None:
    serving, direct = place.user(), place.user("CREATEROLE")
    place.own(direct)
    place.run(documented()[0].splitlines()[1])  # the serving role
    place.run(f"GRANT company_agents_serve TO {serving}; GRANT company_agents_serve TO {direct} WITH ADMIN OPTION")
    async with round_of(place.settings(serving, direct), slack):
        pass
    with psycopg.connect(place.address(serving), autocommit=True) as connection:
        for role in ("company_agents_instance", "company_agents_migrate", direct):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SET ROLE {role}".encode())
        assert connection.execute("SELECT count(*) FROM secrets").fetchall() == [(0,)]


async def test_a_user_for_requests_that_is_set_to_the_serving_role_serves(place: Place, slack: StandIn) -> None:
    # As behind a pooler in transaction mode, where what a connection was told before is gone.
    serving, direct = place.user(), place.user("CREATEROLE")
    place.own(direct)
    async with open_app(place.settings(direct)):
        pass
    place.run(f"GRANT company_agents_serve TO {serving}; ALTER ROLE {serving} SET role = company_agents_serve")
    with psycopg.connect(place.address(serving)) as connection:
        assert connection.execute("SELECT current_user").fetchall() == [("company_agents_serve",)]
    async with round_of(place.settings(serving, direct), slack):
        pass


# — who may see too much —


@pytest.mark.parametrize(
    ("options", "what"), [("SUPERUSER", "is a superuser"), ("CREATEROLE BYPASSRLS", "has BYPASSRLS")]
)
async def test_a_user_that_row_level_security_does_not_bind_is_refused(place: Place, options: str, what: str) -> None:
    user = place.user(options)
    place.own(user)
    with pytest.raises(MayNotStart, match=what) as caught:
        async with open_app(place.settings(user)):
            pass
    assert (caught.value.exit_status, caught.value.reason) == (78, "serving_role")
    assert place.rows("SELECT count(*) FROM master_keys") == [(0,)]
    # As the second user, for everything but requests, the same one will do.
    serving = place.user()
    place.run(f"GRANT company_agents_serve TO {serving}")
    async with open_app(place.settings(serving, user)):
        pass


@pytest.mark.parametrize("role", ["company_agents_migrate", "company_agents_instance"])
async def test_a_serving_role_that_was_given_more_is_refused(place: Place, role: str) -> None:
    user = place.user("CREATEROLE")
    place.own(user)
    async with open_app(place.settings(user)):
        pass
    place.run(f"GRANT {role} TO company_agents_serve")
    with pytest.raises(MayNotStart) as caught:
        async with open_app(place.settings(user)):
            pass
    assert (caught.value.exit_status, caught.value.reason) == (78, "serving_role")


# — the server is away —


def at_once(*calls: Callable[[], Answer]) -> list[Answer]:
    """What each of these is answered, all asked at the same time."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [asked.result() for asked in [pool.submit(call) for call in calls]]


@dataclasses.dataclass(frozen=True)
class Hired:
    """An agent that may use an integration."""

    company: uuid.UUID
    token: str
    path: str


async def hire(settings: Settings, slack: StandIn) -> Hired:
    async with round_of(settings, slack) as app:
        company = (await app.companies.list(LOCAL)).items[0].id
        caller = await app.identity.in_company(LOCAL, company)
        [agent], [integration] = (await app.agents.list(caller)).items, (await app.integrations.list(caller)).items
        _, token = await app.agents.rotate_token(caller, agent.id)
    return Hired(company, token.reveal_text(), f"/v1/companies/{company}/integrations/{integration.id}/request")


async def test_while_the_server_is_away_every_door_says_503_and_afterwards_all_is_well_by_itself(
    slack: StandIn, tmp_path: Path
) -> None:
    call = {"method": "POST", "path": "/api/chat.postMessage", "body": {"text": "hello"}}
    rpc = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    with own_postgres(PASSWORD) as server, machine_in(tmp_path, DATABASE_URL=server.address) as machine:
        settings = read_settings(home=machine.home, database_url=server.address)
        hired = await hire(settings, slack)
        with machine.up() as up:
            assert up.post(hired.path, call, hired.token).status == 200
            arrived = len(slack.seen)
            server.stop()
            ready, healthy, *refused = at_once(
                lambda: up.get("/readyz"),
                lambda: up.get("/healthz"),
                lambda: up.post(hired.path, call, hired.token),
                lambda: up.get("/v1/me", **bearer(hired.token)),
                lambda: up.post("/mcp", rpc, hired.token),
            )
            assert (ready.status, healthy.status) == (503, 200)
            assert [(answer.status, answer.json["code"]) for answer in refused] == [(503, "unavailable")] * 3
            said = {"the database does not answer", "no connection to the database could be had in time"}
            assert {answer.json["detail"] for answer in refused} <= said
            with pytest.raises(MayNotStart, match="cannot be reached") as caught:
                async with open_app(settings):
                    pass
            assert (caught.value.exit_status, caught.value.reason) == (78, "database_unreachable")
            assert len(slack.seen) == arrived
            server.start()
            until(lambda: up.get("/readyz").status == 200 or None)
            until(lambda: up.post(hired.path, call, hired.token).status == 200 or None)
            assert len(slack.seen) == arrived + 1
            assert up.stop() == 0
            assert PASSWORD not in up.errors
        async with open_app(settings) as app:
            events = await app.events.after(hired.company, 0)
            uses = [event["action"] for event in events if event["action"].startswith("credential.")]
            assert uses.count("credential.begun") == uses.count("credential.ended") == 3
            assert {chain.faults for chain in await app.events.verify_all()} == {()}
