"""
The steps of the schema: once each, whole or not at all, one process at a time, and never over a schema that this
program does not know. Each test has a database of its own in one embedded server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from company_agents.db.embedded import EmbeddedDatabase, join
from company_agents.db.logins import Login, Logins
from company_agents.db.migrate import Migration, known_migrations, migrate
from company_agents.db.sql import statements
from company_agents.errors import Busy, MayNotStart
from company_agents.sensitive import Sensitive
from tests.cli.processes import Machine, machine_in
from tests.database.processes import SLOWEST, wait_stopped

# The key of the lock that one migrator holds, as in queries/migrate.sql; and that of a lock which steps here wait for.
MIGRATORS, GATE = 7301000, 4711

ONE = Migration(1, "one", "CREATE TABLE one (n int)")
TWO = Migration(2, "two", "CREATE TABLE two (n int)")
GATED = Migration(
    2, "gated", f"CREATE TABLE half (n int); SELECT pg_advisory_xact_lock({GATE}); CREATE TABLE whole (n int)"
)

# A process that migrates: its steps come as words, version, name and text after one another.
MIGRATOR = """
import asyncio, sys
from company_agents.db.logins import Login, Logins
from company_agents.db.migrate import Migration, migrate
from company_agents.sensitive import Sensitive

conninfo, *words = sys.argv[1:]
login = Login(Sensitive(conninfo), None)
steps = [Migration(int(version), name, text) for version, name, text in zip(*[iter(words)] * 3)]
asyncio.run(migrate(Logins(login, login, login), steps))
"""


@dataclass(frozen=True)
class Fresh:
    """An empty database, and a look into it as a superuser."""

    cluster: EmbeddedDatabase
    name: str
    past: psycopg.AsyncConnection[dict[str, Any]]

    def conninfo(self, role: str) -> str:
        return make_conninfo(self.cluster.conninfo(role), dbname=self.name)

    async def migrate(self, *steps: Migration) -> None:
        def login(role: str) -> Login:
            return Login(Sensitive(self.conninfo(f"company_agents_{role}")), None)

        await migrate(Logins(login("serve"), login("instance"), login("migrate")), list(steps) or None)

    async def sql(self, query: str) -> list[dict[str, Any]]:
        cursor = await self.past.execute(query.encode())
        return await cursor.fetchall() if cursor.description else []

    async def ledger(self) -> list[tuple[int, str, str]]:
        rows = await self.sql("SELECT version, name, checksum FROM schema_migrations ORDER BY version")
        return [(row["version"], row["name"], row["checksum"]) for row in rows]

    async def tables(self) -> set[str]:
        return {row["name"] for row in await self.sql("SELECT relname AS name FROM pg_class WHERE relkind = 'r'"
                " AND relnamespace = 'public'::regnamespace")} - {"schema_migrations"}  # fmt: skip

    async def everything(self) -> list[dict[str, Any]]:
        """Every object of the schema and every line of the ledger, with the transaction that wrote it."""
        ours = "'public'::regnamespace"
        query = f"""
            SELECT 'table' AS what, relname::text AS name, xmin::text, relfilenode::text AS more FROM pg_class WHERE relnamespace = {ours}
            UNION ALL SELECT 'function', proname, xmin::text, prosrc FROM pg_proc WHERE pronamespace = {ours}
            UNION ALL SELECT 'policy', polname, xmin::text, '' FROM pg_policy
            UNION ALL SELECT 'role', rolname, '', rolcanlogin::text FROM pg_roles WHERE rolname LIKE 'company_agents%'
            UNION ALL SELECT 'step', version::text, xmin::text, checksum FROM schema_migrations ORDER BY 1, 2, 3
        """  # fmt: skip
        return await self.sql(query)

    @contextlib.asynccontextmanager
    async def held(self, key: int) -> AsyncIterator[None]:
        """A lock that somebody else holds."""
        async with await psycopg.AsyncConnection.connect(self.conninfo("postgres"), autocommit=True) as connection:
            await connection.execute("SELECT pg_advisory_lock(%s)", (key,))
            yield

    async def waiting(self, key: int, number: int = 1) -> None:
        """Until this many wait for a lock."""
        query = (
            f"SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = {key}"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        await until(lambda: self._count(query, number), f"{number} that wait for {key}")

    async def _count(self, query: str, number: int) -> bool:
        return bool((await self.sql(query))[0]["n"] == number)


async def until(look: Callable[[], Awaitable[bool]], what: str) -> None:
    """Until it is so."""
    try:
        async with asyncio.timeout(SLOWEST):
            while not await look():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"it did not come to pass: {what}") from None


@pytest.fixture(scope="module")
def cluster(used_home: Path) -> Iterator[EmbeddedDatabase]:
    with join(used_home) as member:
        yield member.database
    wait_stopped(used_home)


@pytest.fixture
async def fresh(cluster: EmbeddedDatabase) -> AsyncIterator[Fresh]:
    name = f"fresh_{uuid.uuid4().hex[:12]}"
    server = make_conninfo(cluster.conninfo("postgres"), dbname="postgres")
    async with await psycopg.AsyncConnection.connect(server, autocommit=True) as connection:
        await connection.execute(f"CREATE DATABASE {name} OWNER company_agents_migrate".encode())
        past = await psycopg.AsyncConnection.connect(
            make_conninfo(server, dbname=name), autocommit=True, row_factory=dict_row
        )
        async with past:
            yield Fresh(cluster, name, past)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@contextlib.contextmanager
def migrator(fresh: Fresh, *steps: Migration) -> Iterator[subprocess.Popen[bytes]]:
    """A process that migrates."""
    words = [str(word) for step in steps for word in step]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-c", MIGRATOR, fresh.conninfo("company_agents_migrate"), *words]
    child = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path})
    try:
        yield child
    finally:
        child.kill()
        child.wait()


# — the ledger —


def test_the_steps_of_this_program_are_numbered_without_a_gap_and_named() -> None:
    steps = known_migrations()
    assert [step.version for step in steps] == list(range(1, len(steps) + 1))
    assert all(step.name and step.text for step in steps)


async def test_an_empty_database_gets_every_step_and_a_line_for_each(fresh: Fresh) -> None:
    await fresh.migrate()
    assert await fresh.ledger() == [(step.version, step.name, step.checksum) for step in known_migrations()]
    assert await fresh.tables() > {"secrets", "companies", "audit_events"}


async def test_a_schema_that_is_right_is_not_touched_and_nobody_waits_for_it(fresh: Fresh) -> None:
    await fresh.migrate()
    before = await fresh.everything()
    async with fresh.held(MIGRATORS):
        await fresh.migrate()
    assert await fresh.everything() == before


async def test_only_what_is_missing_is_applied(fresh: Fresh) -> None:
    await fresh.migrate(ONE)
    before = await fresh.everything()
    await fresh.migrate(ONE, TWO)
    assert await fresh.tables() == {"one", "two"}
    after = await fresh.everything()
    assert [row for row in after if row in before] == before
    assert [line[:2] for line in await fresh.ledger()] == [(1, "one"), (2, "two")]


async def test_the_tables_belong_to_the_role_that_migrates(fresh: Fresh) -> None:
    await fresh.migrate()
    rows = await fresh.sql(
        "SELECT DISTINCT relowner::regrole::text AS owner FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    )
    assert [row["owner"] for row in rows] == ["company_agents_migrate"]


# — one at a time —


async def test_of_two_migrators_one_waits_and_each_step_runs_once(fresh: Fresh) -> None:
    await fresh.migrate(ONE)
    async with asyncio.TaskGroup() as tasks, fresh.held(GATE):
        first = tasks.create_task(fresh.migrate(ONE, GATED))
        await fresh.waiting(GATE)
        second = tasks.create_task(fresh.migrate(ONE, GATED))
        await fresh.waiting(MIGRATORS)
        assert not (first.done() or second.done())
        assert "half" not in await fresh.tables()
    assert await fresh.tables() == {"one", "half", "whole"}
    assert [line[:2] for line in await fresh.ledger()] == [(1, "one"), (2, "gated")]


async def test_many_first_starts_at_once_make_one_schema(fresh: Fresh) -> None:
    await asyncio.gather(*(fresh.migrate() for _ in range(6)))
    assert len(await fresh.ledger()) == len(known_migrations())
    assert [row["n"] for row in await fresh.sql("SELECT count(*) AS n FROM instance")] == [1]


def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ten seconds of a wait become a tenth of one; the statement stays the one that bounds it."""
    settings = statements()["migrate_settings"]
    assert "set_config('lock_timeout', '10s', false)" in settings
    monkeypatch.setitem(statements(), "migrate_settings", settings.replace("'10s'", "'100ms'"))


async def test_a_migrator_that_waits_too_long_for_another_says_so_and_changes_nothing(
    fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    short(monkeypatch)
    await fresh.migrate(ONE)
    before = await fresh.everything()
    async with fresh.held(MIGRATORS):
        with pytest.raises(Busy, match="another process is changing the schema"):
            await fresh.migrate(ONE, TWO)
    assert await fresh.everything() == before
    await fresh.migrate(ONE, TWO)
    assert await fresh.tables() == {"one", "two"}


async def test_a_step_that_waits_too_long_for_a_table_gives_up_as_a_whole(
    fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    short(monkeypatch)
    await fresh.migrate(ONE)
    before = await fresh.everything()
    altering = Migration(2, "altering", "CREATE TABLE half (n int); ALTER TABLE one ADD COLUMN more int")
    reading = await psycopg.AsyncConnection.connect(fresh.conninfo("postgres"))
    async with reading:
        await reading.execute("SELECT * FROM one")
        with pytest.raises(Busy):
            await fresh.migrate(ONE, altering)
        assert await fresh.everything() == before
        await reading.commit()
        await fresh.migrate(ONE, altering)
    assert await fresh.tables() == {"one", "half"}


# — whole or not at all —


async def test_a_step_that_does_not_apply_leaves_nothing_of_itself(fresh: Fresh) -> None:
    broken = Migration(2, "broken", "CREATE TABLE half (n int); INSERT INTO one VALUES (1); SELECT 1 / 0")
    with pytest.raises(MayNotStart, match=r"step 2 \(broken\) .* \(SQLSTATE 22012\)") as caught:
        await fresh.migrate(ONE, broken, Migration(3, "three", "CREATE TABLE three (n int)"))
    assert caught.value.exit_status == 78
    assert await fresh.tables() == {"one"}
    assert [line[:2] for line in await fresh.ledger()] == [(1, "one")]
    assert await fresh.sql("SELECT * FROM one") == []
    # Mended, it applies; and nobody holds the lock.
    await fresh.migrate(ONE, TWO)
    assert await fresh.tables() == {"one", "two"}


async def test_a_migrator_that_is_killed_in_the_middle_of_a_step_leaves_nothing_half_made(fresh: Fresh) -> None:
    async with fresh.held(GATE):
        with migrator(fresh, ONE, GATED) as child:
            await fresh.waiting(GATE)
            child.kill()
            child.wait()
        # Its server process still waits, and has the lock: the next one comes after it.
        next_one = asyncio.create_task(fresh.migrate(ONE, TWO))
        await fresh.waiting(MIGRATORS)
        assert await fresh.tables() == {"one"}
    await next_one
    assert await fresh.tables() == {"one", "two"}
    assert [line[:2] for line in await fresh.ledger()] == [(1, "one"), (2, "two")]


async def test_a_migrator_that_is_killed_is_followed_by_one_that_does_the_same_step(fresh: Fresh) -> None:
    async with fresh.held(GATE):
        with migrator(fresh, ONE, GATED) as child:
            await fresh.waiting(GATE)
            child.kill()
            child.wait()
    await fresh.migrate(ONE, GATED)
    assert await fresh.tables() == {"one", "half", "whole"}
    assert [line[:2] for line in await fresh.ledger()] == [(1, "one"), (2, "gated")]


# — what this program does not know —


async def test_a_step_that_is_not_the_one_that_was_applied_is_refused(fresh: Fresh) -> None:
    await fresh.migrate(ONE, TWO)
    before = await fresh.everything()
    other = Migration(1, "one", "CREATE TABLE one (n bigint)")
    three = Migration(3, "three", "CREATE TABLE three (n int)")
    with pytest.raises(MayNotStart, match="step 1 of the schema is not the one") as caught:
        await fresh.migrate(other, TWO, three)
    assert (caught.value.exit_status, caught.value.reason) == (78, "schema_differs")
    assert await fresh.everything() == before


async def test_a_schema_that_is_newer_is_refused_and_nothing_is_changed(fresh: Fresh) -> None:
    await fresh.migrate(ONE, TWO)
    before = await fresh.everything()
    with pytest.raises(MayNotStart, match=r"at step 2, newer than this program \(1\)") as caught:
        await fresh.migrate(ONE)
    assert (caught.value.exit_status, caught.value.reason) == (78, "schema_newer")
    assert await fresh.everything() == before


async def test_a_step_in_between_that_this_program_does_not_know_is_refused(fresh: Fresh) -> None:
    await fresh.migrate(ONE, TWO)
    with pytest.raises(MayNotStart):
        await fresh.migrate(ONE, Migration(3, "three", "CREATE TABLE three (n int)"))
    assert await fresh.tables() == {"one", "two"}


async def test_a_server_that_is_too_old_is_refused(fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(statements(), "server_version", "SELECT 140011 AS version")
    with pytest.raises(MayNotStart, match="version 14; 15 to 18 are served") as caught:
        await fresh.migrate()
    assert caught.value.exit_status == 78
    assert await fresh.tables() == set()


# — the same at a real start —


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine_in(tmp_path_factory.mktemp("machine")) as machine:
        machine.json("company", "create", "Acme")
        yield machine


NEWER = "INSERT INTO schema_migrations (version, name, checksum) VALUES (999, 'later', 'x')"
DIFFERS = "UPDATE schema_migrations SET checksum = repeat('0', 64) WHERE version = 1"
AS_IT_WAS = (
    "DELETE FROM schema_migrations WHERE version = 999; UPDATE schema_migrations SET checksum = '{}' WHERE version = 1"
)


def rows(past: psycopg.Connection) -> dict[str, list[Any]]:
    """Every row of every table, with the transaction that wrote it."""
    names = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
    tables = [name for [name] in past.execute(names.encode()).fetchall()]
    return {table: past.execute(f"SELECT t::text, xmin::text FROM {table} t".encode()).fetchall() for table in tables}


@pytest.mark.parametrize(
    ("change", "code", "commands"),
    [
        (NEWER, "schema_newer", [["up", "--port", "0"], ["company", "create", "Other"]]),
        (DIFFERS, "schema_differs", [["company", "create", "Other"]]),
    ],
    ids=["newer", "another"],
)
def test_a_start_on_a_schema_that_this_program_does_not_know_ends_with_78_and_changes_nothing(
    machine: Machine, change: str, code: str, commands: list[list[str]]
) -> None:
    with (
        join(machine.home) as member,
        psycopg.connect(member.database.conninfo("postgres"), autocommit=True) as past,
    ):
        past.execute(change.encode())
        before = rows(past)
        for words in commands:
            done = machine.run(*words, "--json")
            assert (done.status, done.json["error"]["code"]) == (78, code)
        assert rows(past) == before
        past.execute(AS_IT_WAS.format(known_migrations()[0].checksum).encode())
    assert machine.run("audit", "verify").status == 0
