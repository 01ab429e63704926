"""
The tables of the job engine (`procrastinate`), in a schema of their own: made by the library's own statements, and changed by
its own steps, in the order in which it publishes them.

A ledger says which of its steps are in. A schema that a newer version of the library has changed is served by an older one
for as long as both run: what it cannot tell, the sweep of runs finds.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg

from company_agents.db.logins import SCHEMA_HINT, Login
from company_agents.db.sql import statements
from company_agents.errors import MayNotStart

if TYPE_CHECKING:
    from procrastinate import PsycopgConnector

# Seconds, as of the other pools (database.py).
POOL_WAIT = 10.0
RECONNECT_TIME = 3.0

Connection = psycopg.AsyncConnection[dict[str, Any]]


class JobStep(NamedTuple):
    """One step of the library's, by the name of its file."""

    name: str
    text: str


def known_job_steps() -> list[JobStep]:
    """The steps of the library that is installed, in order."""
    files = sorted(_folder().joinpath("migrations").glob("*.sql"))
    return [JobStep(file.stem, file.read_text("utf-8")) for file in files]


async def prepare_jobs(connection: Connection) -> None:
    """Make the schema, as the user who signs in; where that one may not, the migrating role may, or is told so."""
    try:
        async with connection.transaction():
            await connection.execute(statements()["jobs_schema_create"])
    except psycopg.errors.InsufficientPrivilege:
        return


async def pending_job_steps(connection: Connection, steps: list[JobStep]) -> list[JobStep]:
    """Those that are not in yet."""
    if not steps:
        return []
    row = await (await connection.execute(statements()["jobs_ledger_exists"])).fetchone()
    assert row is not None
    if not row["found"]:
        return steps
    rows = await (await connection.execute(statements()["jobs_ledger_read"])).fetchall()
    applied = {row["name"] for row in rows}
    return [step for step in steps if step.name not in applied]


async def apply_job_steps(connection: Connection, steps: list[JobStep]) -> None:
    """
    Apply what is missing, as the migrating role: all at once where there is nothing yet, else step by step.

    Raises:
        MayNotStart: the schema may not be made, or a step does not apply.
    """
    pending = await pending_job_steps(connection, steps)
    if not pending:
        return
    try:
        await connection.execute(statements()["jobs_schema_create"])
    except psycopg.errors.InsufficientPrivilege:
        raise MayNotStart(
            "the role that changes the schema may not make the one of the job engine",
            hint=SCHEMA_HINT,
            code="database_schema",
        ) from None
    row = await (await connection.execute(statements()["jobs_ledger_exists"])).fetchone()
    assert row is not None
    if not row["found"]:
        # The whole schema is what all steps together make.
        whole = _folder().joinpath("schema.sql").read_text("utf-8")
        await _apply(connection, "schema", whole, [step.name for step in steps], first=True)
        return
    for step in pending:
        await _apply(connection, step.name, step.text, [step.name])


async def _apply(connection: Connection, name: str, text: str, done: list[str], *, first: bool = False) -> None:
    try:
        async with connection.transaction():
            await connection.execute(statements()["jobs_path"])
            await connection.execute(text.encode(), prepare=False)
            if first:
                await connection.execute(statements()["jobs_ledger_create"])
            for entry in done:
                await connection.execute(statements()["jobs_ledger_add"], {"name": entry})
            await connection.execute(statements()["jobs_grant"])
    except psycopg.errors.LockNotAvailable:
        raise
    except psycopg.errors.DiskFull as error:
        raise MayNotStart(
            "the disk that holds the database is full", hint="free some space, then try again", code="disk_full"
        ) from error
    except psycopg.Error as error:
        raise MayNotStart(
            f"step {name} of the job engine's schema does not apply (SQLSTATE {error.sqlstate})",
            hint="nothing of it was changed; docs/database.md says what the user needs",
        ) from error


def connector(login: Login) -> PsycopgConnector:
    """How the library connects: as a role that serves requests, with its own schema in reach and no other."""
    from procrastinate import PsycopgConnector

    async def configure(connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.set_autocommit(True)
        await login.take_role(connection)
        await connection.execute(statements()["jobs_session"])

    return PsycopgConnector(
        conninfo=login.conninfo.reveal_text(),
        kwargs={"application_name": "company-agents jobs"},
        configure=configure,
        min_size=1,
        max_size=4,
        timeout=POOL_WAIT,
        reconnect_timeout=RECONNECT_TIME,
    )


def _folder() -> Path:
    # Looked up, not imported: no command needs the library to know that there is nothing to do.
    spec = importlib.util.find_spec("procrastinate")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "sql"
