"""
With which roles we connect, and what the serving one must not be able to do.

| role | for | rights |
|---|---|---|
| `company_agents_migrate` | migrations | owns the tables; row-level security is forced on it too |
| `company_agents_serve` | requests | rows of one company at a time; never `ALTER`, no change to an audit event |
| `company_agents_instance` | master key, backup, the command line | rows of all companies; never on the path of a request |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from company_agents.db.sql import statements
from company_agents.errors import MayNotStart
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings

MIGRATE = "company_agents_migrate"
SERVE = "company_agents_serve"
INSTANCE = "company_agents_instance"
ROLES = (MIGRATE, SERVE, INSTANCE)

OLDEST_SERVER = 150000

ROLES_HINT = (
    "have an administrator run: CREATE ROLE company_agents_migrate; CREATE ROLE company_agents_serve; "
    "CREATE ROLE company_agents_instance; GRANT company_agents_migrate, company_agents_serve, company_agents_instance "
    "TO <the user of DATABASE_URL>"
)
SCHEMA_HINT = (
    "have an administrator run, in this database: GRANT CREATE, USAGE ON SCHEMA public TO company_agents_migrate; "
    "GRANT USAGE ON SCHEMA public TO company_agents_serve, company_agents_instance; "
    "CREATE SCHEMA company_agents_jobs AUTHORIZATION company_agents_migrate"
)


@dataclass(frozen=True, slots=True)
class Login:
    """How to connect, and the role to take on then (None: the login is that role)."""

    conninfo: Sensitive
    role: str | None

    async def connect(self) -> psycopg.AsyncConnection[dict[str, Any]]:
        """
        A connection outside of any pool, in autocommit mode.

        Raises:
            MayNotStart: the server cannot be reached, or does not let us in.
        """
        try:
            connection = await psycopg.AsyncConnection.connect(
                self.conninfo.reveal_text(), autocommit=True, row_factory=dict_row, application_name="company-agents"
            )
        except psycopg.Error as error:
            raise _not_reached(error) from None
        try:
            await self.take_role(connection)
        except psycopg.Error as error:
            await connection.close()
            raise _not_reached(error) from None
        return connection

    def connect_blocking(self) -> psycopg.Connection[dict[str, Any]]:
        """
        The same, for a thread.

        Raises:
            MayNotStart: as `connect`.
        """
        try:
            connection = psycopg.connect(
                self.conninfo.reveal_text(), autocommit=True, row_factory=dict_row, application_name="company-agents"
            )
        except psycopg.Error as error:
            raise _not_reached(error) from None
        try:
            if self.role is not None:
                connection.execute(statements()["role_take"], {"role": self.role})
        except psycopg.Error as error:
            connection.close()
            raise _not_reached(error) from None
        return connection

    async def take_role(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Become the role that this login stands for."""
        if self.role is not None:
            await connection.execute(statements()["role_take"], {"role": self.role})

    async def leave_role(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Be the user again who signed in."""
        await connection.execute(statements()["role_take"], {"role": "none"})


@dataclass(frozen=True, slots=True)
class Logins:
    """
    One login per role; `direct` is the login itself, for preparing roles on one's own server. `jobs` is the serving role
    without a pooler between, for what listens; None: `serve` is that.
    """

    serve: Login
    instance: Login
    migrate: Login
    direct: Login | None = None
    jobs: Login | None = None


def external_logins(settings: Settings) -> Logins:
    """
    The logins of `DATABASE_URL`: one user that may take on the three roles, or one for requests and a
    second one in `DATABASE_DIRECT_URL` for everything else.

    Raises:
        MayNotStart: an address that does not parse.
    """
    assert settings.database_url is not None
    serve = _conninfo(settings.database_url.get_secret_value(), "DATABASE_URL")
    direct = serve
    if settings.database_direct_url is not None:
        direct = _conninfo(settings.database_direct_url.get_secret_value(), "DATABASE_DIRECT_URL")
    return Logins(
        Login(serve, SERVE), Login(direct, INSTANCE), Login(direct, MIGRATE), Login(direct, None), Login(direct, SERVE)
    )


def _conninfo(address: str, variable: str) -> Sensitive:
    try:
        conninfo_to_dict(address)
    except psycopg.ProgrammingError:
        # The message of libpq quotes the address, which has a password in it.
        raise MayNotStart(
            f"{variable} is no address of a Postgres database", hint="postgresql://user:password@host:5432/database"
        ) from None
    return Sensitive(address)


async def check_serving_role(login: Login) -> None:
    """
    Raises:
        MayNotStart: the role that serves requests could see more than one company.
    """
    connection = await login.connect()
    async with connection:
        row = await (await connection.execute(statements()["role_powers"])).fetchone()
    assert row is not None
    powers = [name for name in ("superuser", "bypassrls", "owner", "instance") if row[name]]
    if powers:
        said = {
            "superuser": "is a superuser",
            "bypassrls": "has BYPASSRLS",
            "owner": "owns the tables",
            "instance": "has the rights of company_agents_instance",
        }[powers[0]]
        raise MayNotStart(
            f"the database user that serves requests {said}, so one company could see another's rows",
            hint="give DATABASE_URL a plain user; docs/database.md shows how to make one",
            code="serving_role",
        )


def _not_reached(error: psycopg.Error) -> MayNotStart:
    # Only the class and the SQLSTATE of the failure: libpq's text has the host and the user in it.
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        return MayNotStart(
            "the database cannot be reached", hint="is it up, and is its address right?", code="database_unreachable"
        )
    return MayNotStart(
        f"the database does not let us in (SQLSTATE {error.sqlstate})", hint=ROLES_HINT, code="database_refuses"
    )
