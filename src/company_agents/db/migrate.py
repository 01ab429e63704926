"""
Brings the schema up to this program: a ledger, one migrator at a time, and bounded waits.

Our own ninety lines, because what they add over a library is what we need: a lock that dies with its
holder (a lock row stays behind after a kill), a checksum per step, and a refusal of a newer schema.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Any, NamedTuple

import psycopg

from company_agents.db.job_engine import (
    JobStep,
    apply_job_steps,
    known_job_steps,
    pending_job_steps,
    prepare_jobs,
)
from company_agents.db.logins import OLDEST_SERVER, ROLES, ROLES_HINT, SCHEMA_HINT, Logins
from company_agents.db.sql import statements
from company_agents.errors import Busy, MayNotStart

Connection = psycopg.AsyncConnection[dict[str, Any]]


class Migration(NamedTuple):
    """One step: `migrations/<version>_<name>.sql`."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def known_migrations() -> list[Migration]:
    """The steps of this program, in order."""
    files = resources.files(__package__).joinpath("migrations").iterdir()
    found = []
    for file in files:
        if file.name.endswith(".sql"):
            version, _, name = file.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(version), name, file.read_text("utf-8")))
    return sorted(found)


async def migrate(logins: Logins, known: list[Migration] | None = None, engine: list[JobStep] | None = None) -> None:
    """
    Apply what is missing, of ours and of the job engine's. Each step is one transaction with its line in a ledger.

    Raises:
        Busy: another migrator has the lock for longer than we wait.
        MayNotStart: the server is too old, the schema is newer than this program, a step that was applied
            is not the one we know, or a step does not apply.
    """
    steps = known if known is not None else known_migrations()
    if engine is None:
        engine = known_job_steps() if known is None else []
    connection = await (logins.direct or logins.migrate).connect()
    async with connection:
        await _check_server(connection)
        if await _pending(connection, steps, logins) == [] and await pending_job_steps(connection, engine) == []:
            return
        try:
            await connection.execute(statements()["migrate_settings"])
            await connection.execute(statements()["migrate_lock"])
            if logins.direct is not None:
                await logins.direct.leave_role(connection)
                await _prepare_roles(connection)
                await prepare_jobs(connection)
                await logins.migrate.take_role(connection)
            await _create_ledger(connection)
            for step in await _pending(connection, steps, logins):
                await _apply(connection, step)
            await apply_job_steps(connection, engine)
        except psycopg.errors.LockNotAvailable as error:
            raise Busy("another process is changing the schema", hint="try again in a minute") from error


async def _check_server(connection: Connection) -> None:
    row = await (await connection.execute(statements()["server_version"])).fetchone()
    assert row is not None
    if row["version"] < OLDEST_SERVER:
        raise MayNotStart(
            f"this Postgres is version {row['version'] // 10000}; 15 to 18 are served", hint="use a newer server"
        )


async def _create_ledger(connection: Connection) -> None:
    try:
        await connection.execute(statements()["ledger_create"])
    except psycopg.errors.InsufficientPrivilege:
        raise MayNotStart(
            "the role that changes the schema may not make tables in it", hint=SCHEMA_HINT, code="database_schema"
        ) from None


async def _pending(connection: Connection, steps: list[Migration], logins: Logins) -> list[Migration]:
    row = await (await connection.execute(statements()["ledger_exists"])).fetchone()
    assert row is not None
    if not row["found"]:
        return steps
    try:
        # Where there are tables there are roles, and a user may have the rights of one only after taking it on.
        await logins.migrate.take_role(connection)
        rows = await (await connection.execute(statements()["ledger_read"])).fetchall()
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidParameterValue):  # the latter: no such role
        raise MayNotStart("the tables belong to another user", hint=ROLES_HINT, code="database_refuses") from None
    applied = {row["version"]: row["checksum"] for row in rows}
    by_version = {step.version: step for step in steps}
    for version, checksum in applied.items():
        if version not in by_version:
            raise MayNotStart(
                f"the schema is at step {max(applied)}, newer than this program ({max(by_version)})",
                hint="start the version that made it, or a newer one",
                code="schema_newer",
            )
        if by_version[version].checksum != checksum:
            raise MayNotStart(
                f"step {version} of the schema is not the one that this program knows",
                hint="start the version that made it",
                code="schema_differs",
            )
    return [step for step in steps if step.version not in applied]


async def _prepare_roles(connection: Connection) -> None:
    present = {row["rolname"] for row in await (await connection.execute(statements()["roles_present"])).fetchall()}
    try:
        async with connection.transaction():
            if set(ROLES) - present:
                await connection.execute(statements()["roles_create"])
            await connection.execute(statements()["roles_grant_schema"])
    except psycopg.errors.InsufficientPrivilege:
        raise MayNotStart(
            "the user of the database may not make the three roles that it needs",
            hint=ROLES_HINT,
            code="database_roles",
        ) from None


async def _apply(connection: Connection, step: Migration) -> None:
    try:
        async with connection.transaction():
            await connection.execute(step.text, prepare=False)
            await connection.execute(
                statements()["ledger_add"],
                {"version": step.version, "name": step.name, "checksum": step.checksum},
            )
    except psycopg.errors.LockNotAvailable:
        raise
    except psycopg.errors.DiskFull as error:
        raise MayNotStart(
            "the disk that holds the database is full", hint="free some space, then try again", code="disk_full"
        ) from error
    except psycopg.Error as error:
        raise MayNotStart(
            f"step {step.version} ({step.name}) of the schema does not apply (SQLSTATE {error.sqlstate})",
            hint="nothing was changed; docs/database.md says what the user needs",
        ) from error
