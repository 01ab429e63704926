"""
The pool, and transactions that see one scope.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import psycopg
from psycopg.rows import dict_row, tuple_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from company_agents.db.gathered import Gathered
from company_agents.db.logins import Logins
from company_agents.db.sql import statements
from company_agents.errors import Busy, CompanyAgentsError, Conflict, Tampered, Unavailable, WrongUsage

Row = dict[str, Any]
Connection = psycopg.AsyncConnection[Row]
CommitEvents = Callable[[Sequence[Any]], Awaitable[list[Row]]]

# What a waiting caller is told after: longer than any of our transactions, shorter than a client's patience.
POOL_WAIT = 10.0
# How long a lost connection is tried for by itself, at growing distances; then the next caller begins anew. The pool's
# own five minutes would keep callers waiting for about as long as the database was away, after it is back.
RECONNECT_TIME = 3.0


class Tx:
    """
    A transaction whose rows are those of one scope. `company_id` is None in the scope of the instance.
    """

    def __init__(self, connection: Connection, company_id: UUID | None) -> None:
        self._connection = connection
        self.company_id = company_id

    @contextlib.asynccontextmanager
    async def aside(self) -> AsyncIterator[Connection]:
        """The connection, for a library's own statements: where they fail, they alone are undone."""
        async with self._connection.transaction():
            yield self._connection

    async def all(self, query: str, /, **params: Any) -> list[Row]:
        """The rows of a named statement."""
        with translated():
            return await (await self._connection.execute(statements()[query], params)).fetchall()

    async def one(self, query: str, /, **params: Any) -> Row | None:
        """The first row of a named statement, or None."""
        with translated():
            return await (await self._connection.execute(statements()[query], params)).fetchone()

    async def run(self, query: str, /, **params: Any) -> int:
        """How many rows a named statement touched."""
        with translated():
            return (await self._connection.execute(statements()[query], params)).rowcount

    async def stream(self, query: str, /, batch: int = 500, **params: Any) -> AsyncIterator[Row]:
        """The rows of a named statement through a cursor on the server: memory does not grow with them."""
        with translated():
            async with self._connection.cursor("stream") as cursor:
                await cursor.execute(statements()[query], params)
                while rows := await cursor.fetchmany(batch):
                    for row in rows:
                        yield row


class InstanceSession:
    """
    One connection of the instance role that is kept: the locks of its session live as long as it does. Never on the
    path of a request.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        """A transaction that sees every company."""
        with translated():
            async with _scoped(self._connection, None):
                yield Tx(self._connection, None)

    async def ask(self, query: str, *params: Any) -> list[tuple[Any, ...]]:
        """The rows of a named statement with numbered parameters, as tuples: one round trip, its own transaction."""
        with translated():
            async with self._connection.cursor(binary=True, row_factory=tuple_row) as cursor:
                return await (await cursor.execute(statements()[query], params)).fetchall()


class Database:
    """
    The connections of one process.

    Raises of everything here:
        Unavailable: the database does not answer.
    """

    def __init__(self, logins: Logins, *, pool_size: int, long_lived: bool = True) -> None:
        self.logins = logins
        # Who lives for one command has the connections that it comes to need, and no others.
        self._least = 1 if long_lived else 0
        self._pool = self._make_pool(pool_size)
        # The audit committer has a connection of its own: callers that wait for it may hold all the others. So have
        # the look-ups that stand before every call.
        self._committer = self._make_pool(1)
        self._look_ups = self._make_pool(1)
        self._gathered: dict[str, Gathered] = {}
        # One of the instance role, kept from one transaction to the next: a start takes half a dozen.
        self._spare: Connection | None = None
        self._closed = False

    def _make_pool(self, size: int) -> AsyncConnectionPool[Connection]:
        return AsyncConnectionPool(
            self.logins.serve.conninfo.reveal_text(),
            connection_class=cast(type[Connection], psycopg.AsyncConnection),
            kwargs={"autocommit": True, "row_factory": dict_row, "application_name": "company-agents"},
            configure=self._configure,
            min_size=self._least,
            max_size=size,
            timeout=POOL_WAIT,
            reconnect_timeout=RECONNECT_TIME,
            open=False,
        )

    async def open(self) -> None:
        """Open the pools; their first connections are there when this returns."""
        with translated():
            for pool in (self._pool, self._committer, self._look_ups):
                await pool.open(wait=True, timeout=POOL_WAIT)

    async def close(self) -> None:
        """Close the pools."""
        self._closed = True
        if self._spare is not None:
            await self._spare.close()
            self._spare = None
        for pool in (self._pool, self._committer, self._look_ups):
            await pool.close()

    async def _configure(self, connection: Connection) -> None:
        await self.logins.serve.take_role(connection)
        # Somebody else's lock, or a plan gone wrong, keeps a caller waiting for so long and no longer.
        await connection.execute(statements()["serve_settings"])

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A serving connection in autocommit mode: it sees no company's rows."""
        with translated():
            connection = await _take(self._pool)
            try:
                yield connection
            finally:
                await self._pool.putconn(connection)

    async def call(self, query: str, params: Sequence[Any]) -> list[Row]:
        """
        One named statement, one round trip, its own transaction. For the functions of the schema that set
        their scope themselves.
        """
        return await self._ask(self._pool, query, params)

    async def call_ahead(self, query: str, params: Sequence[Any]) -> list[Row]:
        """The same, over the connection of the look-ups: callers may hold all the others."""
        return await self._ask(self._look_ups, query, params)

    async def look_up(self, query: str, company_id: UUID, *key: UUID | int | str | datetime | None) -> Row | None:
        """
        A row by its company and the rest of its key, through a named statement that takes many of each and sets the scope of
        each; see `Gathered`. What stands before every call comes this way.
        """
        if not all(_is_storable(part) for part in key if isinstance(part, str)):
            # There is none, and the server's word for that would be for all who ask with this one.
            return None
        gathered = self._gathered.get(query)
        if gathered is None:

            async def ask(*columns: list[Any]) -> list[Row]:
                return await self._ask(self._look_ups, query, tuple(map(array_text, columns)))

            gathered = self._gathered[query] = Gathered(ask)
        return await gathered.one(company_id, *key)

    async def commit_events(self, params: Sequence[Any]) -> list[Row]:
        """The audit committer's statement, over the connection that is kept for it."""
        return await self._ask(self._committer, "audit_append", params)

    @contextlib.asynccontextmanager
    async def holding_chains(self, chains: str) -> AsyncIterator[tuple[list[Row], CommitEvents]]:
        """The ends of these chains, which nobody else can move meanwhile, and the committer's statement for them."""
        with translated():
            connection = await _take(self._committer)
            try:
                async with connection.transaction():
                    yield await self._held(connection, chains)
            finally:
                await self._committer.putconn(connection)

    async def _held(self, connection: Connection, chains: str) -> tuple[list[Row], CommitEvents]:
        async def commit(params: Sequence[Any]) -> list[Row]:
            return await (await connection.execute(statements()["audit_append"], params, binary=True)).fetchall()

        await connection.execute(statements()["audit_hold_time"])
        ends = await (await connection.execute(statements()["audit_hold"], (chains,), binary=True)).fetchall()
        return ends, commit

    async def _ask(self, pool: AsyncConnectionPool[Connection], query: str, params: Sequence[Any]) -> list[Row]:
        with translated():
            connection = await _take(pool)
            try:
                return await (await connection.execute(statements()[query], params, binary=True)).fetchall()
            finally:
                await pool.putconn(connection)

    @contextlib.asynccontextmanager
    async def transaction(self, company_id: UUID | None) -> AsyncIterator[Tx]:
        """A transaction that sees one company, or (None) the instance's own rows."""
        async with self.connection() as connection, _scoped(connection, company_id):
            yield Tx(connection, company_id)

    @contextlib.asynccontextmanager
    async def committer_transaction(self) -> AsyncIterator[Tx]:
        """A transaction that sees the instance's own rows, over the committer's connection: for what it must read itself."""
        with translated():
            connection = await _take(self._committer)
            try:
                async with _scoped(connection, None):
                    yield Tx(connection, None)
            finally:
                await self._committer.putconn(connection)

    @contextlib.asynccontextmanager
    async def instance_transaction(self) -> AsyncIterator[Tx]:
        """A transaction of the instance role, which sees every company. Never on the path of a request."""
        spare, self._spare = self._spare, None
        connection = spare if spare is not None and not _is_gone(spare) else await self._instance_connection(spare)
        try:
            async with InstanceSession(connection).transaction() as tx:
                yield tx
        except BaseException:
            await connection.close()
            raise
        await self._keep(connection)

    async def _keep(self, connection: Connection) -> None:
        if self._spare is None and not self._closed:
            self._spare = connection
        else:
            await connection.close()

    async def _instance_connection(self, gone: Connection | None) -> Connection:
        if gone is not None:
            await gone.close()
        return await self.logins.instance.connect()

    @contextlib.asynccontextmanager
    async def instance_session(self) -> AsyncIterator[InstanceSession]:
        """A connection of the instance role."""
        async with await self.logins.instance.connect() as connection:
            yield InstanceSession(connection)


async def _take(pool: AsyncConnectionPool[Connection]) -> Connection:
    """A connection of a pool, to be put back; one whose server has gone meanwhile is not handed out."""
    connection = await pool.getconn()
    while _is_gone(connection):
        await connection.close()
        await pool.putconn(connection)
        connection = await pool.getconn()
    return connection


def _is_gone(connection: Connection) -> bool:
    # One that nobody uses has nothing to say: where there is something, it is the end, or a good-bye.
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def array_text(values: Iterable[UUID | int | str | datetime | None]) -> str:
    """Values as the text of an array. The driver's own way, element by element, takes longer than to store them."""
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: UUID | int | str | datetime | None) -> str:
    match value:
        case None:
            return "NULL"
        case UUID() | int():
            return str(value)
        case datetime():
            return f'"{value.isoformat()}"'
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _is_storable(text: str) -> bool:
    """Whether the server takes a text: not with a zero byte, or half of a character."""
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


@contextlib.asynccontextmanager
async def _scoped(connection: Connection, company_id: UUID | None) -> AsyncIterator[None]:
    setting = (
        "company_agents.instance = 'on'"
        if company_id is None
        else f"company_agents.company = '{UUID(str(company_id))}'"
    )
    # Two statements in one message: the scope costs no round trip of its own.
    begin = f"BEGIN; SET LOCAL {setting}"
    try:
        await connection.execute(begin, prepare=False)
        yield
        await connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(psycopg.Error):
            await connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """What Postgres says, in the words of our errors. The cause stays for the log; it never holds a plain secret."""
    try:
        yield
    except CompanyAgentsError:
        raise
    except psycopg.errors.UniqueViolation as error:
        raise Conflict("there is one of this name already", hint="choose another name", code="duplicate") from error
    except psycopg.errors.DataCorrupted as error:
        raise Tampered("a row is missing without which this cannot be written") from error
    except (
        psycopg.errors.LockNotAvailable,
        psycopg.errors.SerializationFailure,
        psycopg.errors.DeadlockDetected,
    ) as error:
        raise Busy("the database is busy with a change", hint="try again") from error
    except (psycopg.errors.CheckViolation, psycopg.DataError, UnicodeEncodeError) as error:
        raise WrongUsage("a value is too long, or has characters that cannot be stored") from error
    except psycopg.errors.ForeignKeyViolation as error:
        raise Conflict("it refers to something that does not exist, or that is still in use") from error
    except PoolTimeout as error:
        raise Unavailable(
            "no connection to the database could be had in time",
            hint="try again in a moment; `company-agents doctor` looks",
        ) from error
    except psycopg.errors.DiskFull as error:
        raise Unavailable(
            "the disk that holds the database is full", hint="free some space, then try again", code="disk_full"
        ) from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise Unavailable(
            "the database does not answer", hint="try again in a moment; `company-agents doctor` looks"
        ) from error
