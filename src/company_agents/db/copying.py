"""
Whole tables out of and into the database, by COPY. Blocks: a million rows in a coroutine take twice as long, so that this is
for a thread.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, LiteralString, cast

import psycopg

from company_agents.db.database import Row, translated
from company_agents.db.logins import Login
from company_agents.db.sql import statements
from company_agents.errors import CompanyAgentsError, MayNotStart


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its columns, in the order in which they are copied."""

    name: str
    columns: tuple[str, ...]


class CopySession:
    """
    One connection that is kept, in autocommit mode.

    Raises of everything here:
        Unavailable: the database does not answer.
    """

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection
        self.copied = 0

    @classmethod
    @contextlib.contextmanager
    def open(cls, login: Login) -> Iterator[CopySession]:
        """
        A connection as the role of this login.

        Raises:
            MayNotStart: the server cannot be reached, or does not let us in.
        """
        with login.connect_blocking() as connection:
            yield cls(connection)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read meanwhile is all of one moment."""
        with _translated(), self._connection.transaction():
            self._connection.execute(statements()["snapshot_begin"])
            yield

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is done meanwhile, or nothing of it."""
        with _translated(), self._connection.transaction():
            yield

    def all(self, query: str, /, **params: Any) -> list[Row]:
        """The rows of a named statement."""
        with _translated():
            return self._connection.execute(statements()[query], params).fetchall()

    def one(self, query: str, /, **params: Any) -> Row:
        """The first row of a named statement, which has one."""
        rows = self.all(query, **params)
        return rows[0]

    def run(self, query: str, /, **params: Any) -> int:
        """How many rows a named statement touched."""
        with _translated():
            return self._connection.execute(statements()[query], params).rowcount

    def run_all(self, query: str, /, **params: Any) -> None:
        """Every statement that a named statement puts together, in the order of its rows (column `statement`)."""
        for row in self.all(query, **params):
            self.run_text(row["statement"])

    def text(self, query: str) -> str:
        """A named statement, to be run as a text."""
        return statements()[query]

    def run_text(self, text: str) -> None:
        """A statement that Postgres put together, or a step of the schema."""
        with _translated():
            self._connection.execute(text.encode(), prepare=False)

    def tables(self, *, but: tuple[str, ...] = ()) -> list[Table]:
        """The tables of the instance, by name, without some of them."""
        rows = self.all("copied_tables", but=list(but))
        return [Table(row["name"], tuple(row["columns"])) for row in rows]

    def out(self, table: Table) -> Iterator[bytes]:
        """Its rows as COPY writes them (text format), one after the other."""
        statement = self.one("copy_out", name=table.name, columns=list(table.columns))["statement"]
        with _translated(), self._connection.cursor().copy(cast(LiteralString, statement)) as copy:
            yield from cast(Iterator[bytes], copy)

    @contextlib.contextmanager
    def into(self, table: Table) -> Iterator[psycopg.Copy]:
        """
        Whatever is written to it becomes its rows; `copied` says how many they were. Not where row-level security binds
        this role.
        """
        statement = self.one("copy_in", name=table.name, columns=list(table.columns))["statement"]
        cursor = self._connection.cursor()
        with _translated(), cursor.copy(cast(LiteralString, statement)) as copy:
            yield copy
        self.copied = cursor.rowcount


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        with translated():
            yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise MayNotStart(
            "the database user may not do this", hint="docs/database.md says what it needs", code="database_rights"
        ) from error


@contextlib.contextmanager
def unless_they_fit(error: CompanyAgentsError) -> Iterator[None]:
    """
    Around rows that come in, and what is made of them.

    Raises:
        CompanyAgentsError: `error`, where the rows are none of the table's, or contradict each other.
    """
    try:
        yield
    except (CompanyAgentsError, psycopg.Error) as said:
        cause = said.__cause__ if isinstance(said, CompanyAgentsError) else said
        if isinstance(cause, psycopg.DataError | psycopg.IntegrityError):
            raise error from cause
        raise


# What COPY writes instead of a character in its text format (Postgres, "COPY": text format).
_ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


def fields(line: bytes) -> list[bytes | None]:
    """The values of one row as COPY writes it, without its line break; None is NULL."""
    values: list[bytes | None] = []
    for field in line.split(b"\t"):
        if field == rb"\N":
            values.append(None)
        elif b"\\" in field:
            values.append(_ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), field))
        else:
            values.append(field)
    return values
