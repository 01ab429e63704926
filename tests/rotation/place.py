"""
An instance on a database of its own, with everything that somebody may do to it from outside: copy the database, bring
an older one back, take the rotator's session away, and look at what is really there.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from company_agents.app import App, open_app
from company_agents.companies.scope import CompanyScope
from company_agents.errors import CompanyAgentsError, MayNotStart
from company_agents.identity.principal import Caller
from company_agents.keysources.file import FileSource
from company_agents.rotation.rotate import Rotated
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings, read_settings
from tests.cli.postgres import ADMINISTRATOR, OwnPostgres
from tests.conftest import LOCAL

PASSWORD = "a password of the tests"
ROTATOR_LOCK, WRITERS_LOCK = 7301003, 7301001

Rows = list[dict[str, Any]]
Dump = tuple[dict[str, bytes], int]


def silent(step: str, done: int, total: int) -> None:
    """Nobody wants to know how far it is."""


@dataclass(frozen=True)
class Place:
    """A database on a server, and a home with the keys."""

    server: OwnPostgres
    name: str
    home: Path
    company: UUID
    agent: UUID
    values: dict[UUID, bytes]

    def settings(self, **more: Any) -> Settings:
        """As its orchestrators have them."""
        url = self.server.address_of("app", PASSWORD, self.name)
        nothing = {"database_direct_url": None, "master_key_path": None, "master_key_source": None}
        return read_settings(**{"home": self.home, "database_url": url, "database_pool": 3, **nothing, **more})

    @property
    def variables(self) -> dict[str, str]:
        """The same for a process."""
        address = self.server.address_of("app", PASSWORD, self.name)
        return {"DATABASE_URL": address, "MASTER_KEY_PATH": str(self.home / "secrets" / "master.key")}

    def open(self, **options: Any) -> AbstractAsyncContextManager[App]:
        """As a command or (`long_lived`) a replica does."""
        return open_app(self.settings(), **options)

    async def refused(self, **options: Any) -> MayNotStart:
        """Why it does not start."""
        try:
            async with self.open(**options):
                raise AssertionError("it started")
        except MayNotStart as error:
            return error

    # — the database, past everything of ours —

    def connect(self) -> psycopg.Connection[dict[str, Any]]:
        """A connection of the administrator, who is not bound by row-level security."""
        address = self.server.address_of(ADMINISTRATOR, ADMINISTRATOR, self.name)
        return psycopg.connect(address, autocommit=True, row_factory=dict_row)

    def sql(self, query: str, **params: Any) -> Rows:
        with self.connect() as connection:
            cursor = connection.execute(query.encode(), params or None)
            return cursor.fetchall() if cursor.description else []

    def states(self) -> dict[str, str]:
        """Each registered key, and its state."""
        return {row["key_id"]: row["state"] for row in self.sql("SELECT key_id, state FROM master_keys")}

    def only(self, state: str) -> str:
        """The one key in this state."""
        [key_id] = [key_id for key_id, found in self.states().items() if found == state]
        return key_id

    def rows_by_key(self) -> dict[str, int]:
        """How many secrets are under which key."""
        return {row["k"]: row["n"] for row in self.sql("SELECT key_id k, count(*) n FROM secrets GROUP BY 1")}

    def secrets(self) -> Rows:
        """The whole table, but for when a secret was last opened."""
        return self.sql("SELECT to_jsonb(s) - 'last_used_at' AS row FROM secrets s ORDER BY id")

    def dump(self) -> Dump:
        """Every table at one moment, as a backup of the database has it."""
        with self.connect() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            tables = {}
            for table in _tables(connection):
                with connection.cursor().copy(f"COPY {table} TO STDOUT".encode()) as copy:
                    tables[table] = b"".join(bytes(part) for part in copy)
            seals = connection.execute("SELECT last_value FROM master_key_seals").fetchone()
            assert seals is not None
            return tables, int(seals["last_value"])

    def restore(self, dump: Dump) -> None:
        """The database as it was then. Nothing else goes back: not the key source, and not this server's history."""
        tables, seals = dump
        with self.connect() as connection, connection.transaction():
            connection.execute("SET LOCAL session_replication_role = replica")
            connection.execute(f"TRUNCATE {', '.join(tables)}".encode())
            for table, content in tables.items():
                with connection.cursor().copy(f"COPY {table} FROM STDIN".encode()) as copy:
                    copy.write(content)
            connection.execute("SELECT setval('master_key_seals', %s)", (seals,))

    def copied(self, home: Path | None = None, server: OwnPostgres | None = None) -> Place:
        """A copy of the database beside it (nobody may be connected), with the same key source unless said otherwise."""
        other = replace(self, server=server or self.server, name=f"db_{uuid.uuid4().hex[:12]}", home=home or self.home)
        with self.server.connect() as administrator:
            administrator.execute(f"CREATE DATABASE {other.name} TEMPLATE {self.name} OWNER app".encode())
        return other

    def drop(self) -> None:
        """Remove the database."""
        with self.server.connect() as administrator:
            administrator.execute(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)".encode())

    def take_session(self) -> int:
        """End the session that holds the rotator's lock, as a database that fails over does. How many there were."""
        ended = self.sql(
            "SELECT pg_terminate_backend(pid, 5000) AS ended FROM pg_locks l WHERE locktype = 'advisory'"
            " AND objid = %(lock)s AND granted AND database = (SELECT oid FROM pg_database WHERE datname = %(name)s)",
            lock=ROTATOR_LOCK,
            name=self.name,
        )
        return sum(row["ended"] for row in ended)

    # — the key source —

    @property
    def folder(self) -> Path:
        return self.home / "secrets"

    @property
    def source(self) -> FileSource:
        return FileSource(self.folder / "master.key")

    def files(self) -> dict[str, bytes]:
        """What is in the source, file by file."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()
        }

    def kept(self) -> set[str]:
        """The ids of the keys in it."""
        return {path.stem for path in (self.folder / "keys").glob("*.key")}

    def hint(self) -> bytes:
        return (self.folder / "master.key").read_bytes()

    def key_file(self, key_id: str) -> Path:
        return self.folder / "keys" / f"{key_id}.key"


def _tables(connection: psycopg.Connection[dict[str, Any]]) -> list[str]:
    rows = connection.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    return [row["relname"] for row in rows]


class Watched(FileSource):
    """The file source, as its transport may be: somebody comes in before or after one of its calls."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.source.path)
        self.calls: list[str] = []
        self.moments: dict[str, Callable[[], Awaitable[None]]] = {}

    async def _come(self, moment: str) -> None:
        # Once: whoever comes in may use the source too.
        if (come := self.moments.pop(moment, None)) is not None:
            await come()

    async def _around(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        self.calls.append(name)
        number = self.calls.count(name)
        await self._come(f"before {name} {number}")
        result = await call()
        await self._come(f"after {name} {number}")
        return result

    async def read(self) -> Any:
        return await self._around("read", super().read)

    async def check_writable(self, seen: Any) -> None:
        parent = super().check_writable
        await self._around("check", lambda: parent(seen))

    async def claim(self, instance: UUID, seen: Any) -> None:
        parent = super().claim
        await self._around("claim", lambda: parent(instance, seen))

    async def add(self, key: Any, seen: Any) -> None:
        parent = super().add
        await self._around("add", lambda: parent(key, seen))

    async def make_current(self, key_id: str, seen: Any) -> None:
        parent = super().make_current
        await self._around("make_current", lambda: parent(key_id, seen))

    async def destroy(self, key_id: str, seen: Any) -> None:
        parent = super().destroy
        await self._around("destroy", lambda: parent(key_id, seen))


async def rotate(app: App, *, finish: bool = False, source: Any = None, say: Any = silent, **more: Any) -> Rotated:
    """`key rotate`, with another source where one is given."""
    rotator = replace(app.rotator, source=source or app.rotator.source)
    return await rotator.rotate(finish=finish, compromised=more.get("compromised", False), who="tester", say=say)


def elsewhere(work: Callable[[], Awaitable[Any]]) -> Any:
    """What another process would do meanwhile: to its end, in a thread with a loop of its own."""

    async def run() -> Any:
        return await work()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, run()).result()


async def finish(place: Place) -> Rotated:
    """`key rotate --finish`, as a command of its own."""
    async with place.open() as app:
        return await rotate(app, finish=True)


async def outcome(work: Awaitable[Any]) -> CompanyAgentsError | None:
    """How it failed, or None."""
    try:
        await work
    except CompanyAgentsError as error:
        return error
    return None


async def caller(app: App, place: Place) -> Caller:
    """The operator, in the company of the place."""
    return await app.identity.in_company(LOCAL, place.company)


@contextlib.asynccontextmanager
async def _used(app: App, scope: CompanyScope, secret: UUID) -> AsyncIterator[bytes]:
    async with app.store.use(scope, secret, actor="tester") as use:
        use.ended("opened")
        yield use.secret.reveal()


async def opened(app: App, place: Place, secret: UUID) -> bytes:
    """A secret, by the way that every call goes."""
    scope = (await caller(app, place)).scope
    async with _used(app, scope, secret) as value:
        return value


async def write(app: App, place: Place, name: str, value: bytes) -> UUID:
    """A new secret, or a new value for one."""
    scope = (await caller(app, place)).scope
    async with scope.transaction() as tx:
        there = await tx.one("secret_by_name", company_id=place.company, name=name)
        change = app.store.replace if there else app.store.put
        return await change(tx, name, Sensitive(value))


async def nothing_is_lost(place: Place, app: App) -> None:
    """Every row opens with the value that was put there, under a key that is registered; one key is active."""
    assert (await app.keys.verify()).bad == []
    states = place.states()
    assert list(states.values()).count("active") == 1
    assert set(place.rows_by_key()) <= set(states)
    for secret in list(place.values)[::10]:
        assert await opened(app, place, secret) == place.values[secret]


async def whole(place: Place) -> None:
    """What must be true of an instance after whatever happened: it starts, nothing is lost, all is under one key."""
    async with place.open() as app:
        await nothing_is_lost(place, app)
        await rotate(app, finish=True)
        await nothing_is_lost(place, app)
    active = place.only("active")
    assert set(place.rows_by_key()) == {active}
    assert not {"staged", "retiring"} & set(place.states().values())
    assert place.hint() == place.key_file(active).read_bytes()
    assert place.kept() == {key for key, state in place.states().items() if state not in ("destroyed", "destroying")}
