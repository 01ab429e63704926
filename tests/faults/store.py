"""
Instances to kill commands in: one small store is made once, and every case works on a copy of its database, on one
server, with the same keys in a key source of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from pydantic import AliasChoices, SecretStr

from company_agents.app import open_app
from company_agents.crypto.keyring import MasterKey
from company_agents.db.logins import external_logins
from company_agents.db.migrate import migrate
from company_agents.keysources.base import open_source
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings
from tests.cli.postgres import ADMINISTRATOR, OwnPostgres, own_postgres
from tests.cli.processes import Done, Machine
from tests.conftest import LOCAL
from tests.database.processes import until
from tests.faults.check import Expected
from tests.faults.effects import AFTER
from tests.faults.forked import Forks
from tests.keysources.place import settings_for

PASSWORD = "a password of the tests"
# Variables of this process that a service's client library reads.
SERVICES = ("NO_PROXY", "AWS_", "AZURE_", "GOOGLE_", "CLOUDSDK_", "GRPC_")
# Of whose database a copy is made, and what is there in the beginning.
NEW, SMALL, ROTATED = "agents_new", "agents", "agents_rotated"

START, INIT, TAKE_OVER = "key status", "key init", "key init --take-over-source"
ROTATE, COMPROMISED, PRUNE = "key rotate", "key rotate --compromised", "key prune"
TEMPLATES = {START: NEW, INIT: NEW, TAKE_OVER: SMALL, ROTATE: SMALL, COMPROMISED: SMALL, PRUNE: ROTATED}
COMMANDS = tuple(TEMPLATES)


@dataclass
class Template:
    """A database that is copied, and what belongs to it. `keys` are in the order in which they were active."""

    name: str
    instance: UUID | None = None
    keys: list[MasterKey] = field(default_factory=list)
    values: list[tuple[str | None, str, str]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Killed:
    """How a command ended, and its effects up to there. `killed`: by the harness, else it came to its end."""

    done: Done
    names: list[str]

    @property
    def killed(self) -> bool:
        return self.done.status == -9


@dataclass(frozen=True)
class Store:
    """The server with the databases that are copied."""

    server: OwnPostgres
    templates: dict[str, Template]

    def address(self, name: str) -> str:
        return self.server.address_of("app", PASSWORD, name)

    @contextlib.contextmanager
    def case(self, command: str, settings: Settings, folder: Path, forks: Forks) -> Iterator[Case]:
        """A copy to run a command in, with the key source of these settings, which is empty."""
        template = self.templates[TEMPLATES[command]]
        name = f"case_{uuid.uuid4().hex[:12]}"
        settings = settings.model_copy(update={"database_url": SecretStr(self.address(name)), "database_pool": 2})
        case = Case(self.server, template, name, command, settings, folder, forks)
        with self.server.connect() as administrator:
            administrator.execute(
                f"CREATE DATABASE {name} TEMPLATE {template.name} STRATEGY FILE_COPY OWNER app".encode()
            )
            try:
                case.at_home()
                yield case
            finally:
                administrator.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@dataclass(frozen=True)
class Case:
    """One copy."""

    server: OwnPostgres
    template: Template
    name: str
    command: str
    settings: Settings
    folder: Path
    forks: Forks

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a command in it."""
        given = {name: value for name, value in os.environ.items() if name.startswith(SERVICES)}
        return {**Machine(self.settings.home).environment, **given, **variables(self.settings)}

    def sql(self, query: str, *params: Any) -> list[tuple[Any, ...]]:
        """As the administrator, who is not bound by row-level security."""
        address = self.server.address_of(ADMINISTRATOR, ADMINISTRATOR, self.name)
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), params or None)
            return cursor.fetchall() if cursor.description else []

    def at_home(self) -> None:
        """It is no copy as far as it knows; the grace of its oldest archived key has ended."""
        self.sql(
            "UPDATE instance SET server = (SELECT s.system_identifier || ':' || d.oid || ':' || c.timeline_id FROM"
            " pg_control_system() s, pg_control_checkpoint() c, pg_database d WHERE d.datname = current_database())"
        )
        if self.command == PRUNE:
            self.sql(
                "UPDATE master_keys SET ends_at = now() - interval '1 day' WHERE key_id = %s",
                self.template.keys[0].key_id,
            )

    async def seed(self) -> None:
        """Put the keys of the database into the source; where it is to be taken over, it is another's."""
        source, owner = open_source(self.settings), self.template.instance
        if owner is None:
            return
        await source.claim(uuid.uuid4() if self.command == TAKE_OVER else owner, await source.read())
        for key in self.template.keys:
            await source.add(key, await source.read())
        await source.make_current(self.template.keys[-1].key_id, await source.read())

    def run(self, number: int = 0, moment: str = AFTER, command: str = "") -> Killed:
        """The command, killed at an effect; 0: not at all."""
        names = self.folder / f"names-{uuid.uuid4().hex[:8]}"
        words = [str(number), moment, str(names), str(self.settings.home), "--", *(command or self.command).split()]
        done = self.forks.run("counted", [*words, "--json"], self.variables)
        self.await_gone()
        return Killed(done, names.read_text().splitlines() if names.exists() else [])

    def await_gone(self) -> None:
        """Until the server has noticed that the process is dead: its locks go then."""
        with self.server.connect() as connection:

            def gone() -> bool | None:
                query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
                row = connection.execute(query, (self.name,)).fetchone()
                return True if row == (0,) else None

            until(gone)

    def states(self) -> dict[str, str]:
        return dict(self.sql("SELECT key_id, state FROM master_keys"))

    def expected(self) -> Expected:
        """What must be there afterwards, whatever was killed."""
        keys = [key.key_id for key in self.template.keys]
        gone = keys[:1] if self.command in (COMPROMISED, PRUNE) else []
        kept = [key for key in keys if key not in gone]
        return Expected(self.command, self.template.values, self.template.tokens, kept, gone)

    async def old_key_is_gone_only_then(self) -> list[str]:
        """A key that is to be destroyed is there, until nothing needs it and that is committed."""
        if not self.expected().gone:
            return []
        [old] = self.expected().gone
        state = self.states()[old]
        rows = self.sql("SELECT count(*) FROM secrets WHERE key_id = %s", old)[0][0]
        there = old in (await open_source(self.settings).read()).ring
        if not there and (rows or state not in ("destroying", "destroyed")):
            return [f"the old key is gone; {rows} rows are under it, and it is {state}"]
        return [f"the old key is {state}, and still there"] if there and state == "destroyed" else []

    async def check(self, starts: int = 1) -> list[str]:
        """What is wrong after a kill, looked for by a process that starts anew; see `tests.faults.check`."""
        wrong = await self.old_key_is_gone_only_then()
        words = [json.dumps(asdict(self.expected())), str(starts)]
        done = await asyncio.to_thread(self.forks.run, "check", words, self.variables)
        if done.status not in (0, 1) or not done.out:
            return [*wrong, f"the check ended {done.status}: {done.err[-2000:]}"]
        return [*wrong, *json.loads(done.out)]


def variables(settings: Settings) -> dict[str, str]:
    """The environment that these settings are read from."""
    found = {}
    for name, setting in Settings.model_fields.items():
        value = getattr(settings, name)
        if value is not None and value != setting.default:
            text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            alias = setting.validation_alias
            assert isinstance(alias, AliasChoices)
            found[str(alias.choices[0])] = text
    return found


@contextlib.contextmanager
def store(folder: Path) -> Iterator[Store]:
    """Make it, in a folder of its own."""
    with own_postgres(PASSWORD) as server:
        with server.connect() as administrator:
            # A password is checked thousands of times here: each time by thousands of rounds takes longer than the rest.
            administrator.execute("SET scram_iterations = 1")
            for user, password in (("app", PASSWORD), (ADMINISTRATOR, ADMINISTRATOR)):
                administrator.execute(f"ALTER ROLE {user} PASSWORD '{password}'".encode())
        found = Store(server, {name: Template(name) for name in (NEW, SMALL, ROTATED)})
        asyncio.run(_fill(found, folder))
        yield found


async def _fill(store: Store, folder: Path) -> None:
    _database(store, NEW)
    await migrate(external_logins(_settings(store, NEW, folder)))
    small, rotated = store.templates[SMALL], store.templates[ROTATED]
    async with open_app(_settings(store, SMALL, folder)) as app:
        small.instance = rotated.instance = app.instance.id
        for number in (1, 2):
            company = await app.companies.create(LOCAL, f"company {number}")
            caller = await app.identity.in_company(LOCAL, company.id)
            _, token = await app.agents.create(caller, "ann")
            small.tokens.append(token.reveal_text())
            await _put(app, small, company.id, number)
        await _put(app, small, None, 3)
    small.keys.append(_current(folder))
    _database(store, ROTATED, f"TEMPLATE {SMALL}")
    rotated.values, rotated.tokens, rotated.keys = small.values, small.tokens, [*small.keys]
    copied = folder / "rotated"
    shutil.copytree(folder / "home", copied / "home")
    for _ in (1, 2):
        async with open_app(_settings(store, ROTATED, copied)) as app:
            await app.rotator.rotate(finish=False, compromised=False, who="tester", say=lambda step, done, total: None)
        rotated.keys.append(_current(copied))


async def _put(app: Any, template: Template, company: UUID | None, number: int) -> None:
    async with app.store.db.transaction(company) as tx:
        for name, value in (
            (f"integration/{number}/token", f"xoxb-made-up-{number}"),
            (f"short {number}", ""),
            (f"long {number}", "ä" * 9000),
        ):
            await app.store.put(tx, name, Sensitive(value))
            template.values.append((str(company) if company else None, name, value))


def _database(store: Store, name: str, template: str = "") -> None:
    with store.server.connect() as administrator:
        administrator.execute(f"CREATE DATABASE {name} {template} OWNER app".encode())


def _settings(store: Store, name: str, folder: Path) -> Settings:
    settings = settings_for(folder / "home", "file://secrets/master.key")
    return settings.model_copy(update={"database_url": SecretStr(store.address(name)), "database_direct_url": None})


def _current(folder: Path) -> MasterKey:
    return MasterKey(Sensitive((folder / "home" / "secrets" / "master.key").read_bytes()))
