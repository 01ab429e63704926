"""
Everything that can be read of an instance from outside of it: the database by SQL and as files, the home, processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from company_agents.app import App, open_app
from company_agents.crypto.cipher import Sealed, unseal
from company_agents.crypto.keyring import key_id_of
from company_agents.crypto.place import Place as SealedPlace
from company_agents.db.embedded import join
from company_agents.settings import read_settings
from tests.database.processes import postmaster, the_supervisor
from tests.promises.canary.search import Place

_TABLES = """
    SELECT n.nspname, c.relname, n.nspname LIKE 'pg\\_%' OR n.nspname = 'information_schema' AS of_system
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm', 'p') AND n.nspname <> 'pg_toast' ORDER BY 1, 2
"""
# What runs, or ran last, on each connection; and what is known of each column's values.
_VIEWS = [("pg_catalog", "pg_stat_activity", True), ("pg_catalog", "pg_stats", True)]


def database(home: Path) -> Iterator[Place]:
    """Every table, as the superuser sees it."""
    with join(home) as member, psycopg.connect(member.database.conninfo("postgres"), autocommit=True) as connection:
        for schema, table, of_system in [*connection.execute(_TABLES).fetchall(), *_VIEWS]:
            # Text as well as bytes: neither is escaped in the second, and not every type has it.
            for how in ("text",) if of_system else ("text", "binary"):
                query = sql.SQL("COPY (SELECT * FROM {}) TO STDOUT (FORMAT {})").format(
                    sql.Identifier(schema, table), sql.SQL(how)
                )
                with connection.cursor().copy(query) as copy:
                    yield Place(f"table {schema}.{table}", b"".join(bytes(part) for part in copy))


def opened(home: Path) -> dict[str, bytes]:
    """Every sealed secret by its name, opened as only a process with the master key can."""

    async def look() -> dict[str, bytes]:
        async with open_app(read_settings(home=home)) as app, app.keys.db.instance_transaction() as tx:
            return {row["name"]: _opened(app, row) async for row in tx.stream("secrets_all")}

    # In a thread: this one has a loop of its own, which is not running now and is not to be replaced.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, look()).result()


def _opened(app: App, row: dict[str, Any]) -> bytes:
    where = SealedPlace(row["company_id"], row["id"], row["name"], row["key_id"])
    return unseal(app.keys.held.ring.get(row["key_id"]), where, Sealed(row["nonce"], row["value"])).reveal()


def database_files(home: Path) -> Iterator[Place]:
    """The data folder with its write-ahead log, wherever it lies."""
    yield from _files(Path(os.path.realpath(home / "db")), "database file")


def master_key(key_id: str) -> str:
    """What the canary of a key is called."""
    return f"the master key {key_id}"


def home_files(home: Path, living: Iterable[str]) -> Iterator[Place]:
    """
    The home and what lies around it, without the database. A key of these ids is shown where it lives, and nowhere else:
    in the file that is called after it, and in `master.key` where that holds nothing but it.
    """
    folders = {"db"} if not (home / "db").is_symlink() else set()
    secrets = f"file {home.name}/secrets"
    own = {f"{secrets}/keys/{key_id}.key": key_id for key_id in living}
    for place in _files(home.parent, "file", without=folders):
        if place.name == f"{secrets}/master.key":
            key_id = key_id_of((home / "secrets" / "master.key").read_bytes())
            shown = {master_key(key_id)} if key_id in own.values() else set()
        else:
            shown = {master_key(own[place.name])} if place.name in own else set()
        yield Place(place.name, place.data, frozenset(shown))


def _files(folder: Path, what: str, without: set[str] | None = None) -> Iterator[Place]:
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in (without or ())]
        for name in names:
            file = Path(path) / name
            # A server that runs deletes files; a socket cannot be read.
            with contextlib.suppress(FileNotFoundError):
                if file.is_file() and not file.is_symlink():
                    yield Place(f"{what} {file.relative_to(folder)}", os.fsencode(file) + file.read_bytes())


def processes(home: Path, orchestrator: int, **others: int) -> Iterator[Place]:
    """What the kernel tells of the orchestrator, the database's supervisor, and the server with all its children."""
    server = postmaster(home)
    named = {**others, "orchestrator": orchestrator, "supervisor": the_supervisor(home), "postgres": server}
    named |= {f"postgres child {pid}": pid for pid in children(server)}
    for name, pid in named.items():
        for file in ("cmdline", "environ", "comm", "status"):
            # Not dumpable, and we are not root; or a child that has just ended.
            with contextlib.suppress(PermissionError, FileNotFoundError, ProcessLookupError):
                yield Place(f"{file} of {name}", Path(f"/proc/{pid}/{file}").read_bytes())


def children(parent: int) -> Iterator[int]:
    """The processes that one has started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(parent):
                yield int(stat.parent.name)
