"""
The rows of one company out of and into the database, in its own scope: row-level security sees to it that none of another
is read or written, whatever is asked for. COPY does the reading; where row-level security binds, it does not write, so that
rows come in as texts that the types of their columns make values of.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import LiteralString, cast

import psycopg

from company_agents.db.database import Tx, array_text, translated
from company_agents.errors import Conflict, WrongUsage

Values = list[str | None]

# https://www.postgresql.org/docs/current/sql-copy.html, "Text Format"; what COPY TO writes, and nothing else.
_ESCAPED = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t", "\v": "v", "\\": "\\"}
_MEANT = {letter: char for char, letter in _ESCAPED.items()}
_SPECIAL = re.compile("[\b\f\n\r\t\v\\\\]")
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_NULL = "\\N"


class NotOurs(WrongUsage):
    """a row is not of this company, or not one that its table takes"""

    code = "row_refused"


@dataclass(frozen=True, slots=True)
class Columns:
    """A table as the catalog has it: its columns and their types, without those that it numbers itself."""

    table: str
    types: dict[str, str]


async def tables(tx: Tx, names: Sequence[str]) -> dict[str, Columns]:
    """The tables of these names that there are."""
    found = {}
    for row in await tx.all("company_move_tables", tables=list(names)):
        columns = zip(row["columns"], row["types"], row["own"], strict=True)
        found[row["name"]] = Columns(row["name"], {name: kind for name, kind, own in columns if not own})
    return found


async def rows_out(tx: Tx, columns: Columns, owner: str, sorted_by: str = "") -> AsyncGenerator[bytes, None]:
    """The rows of the company of this transaction, each as COPY writes it. `owner`: the column that says whose it is."""
    row = await tx.one(
        "company_move_out",
        name=columns.table,
        columns=list(columns.types),
        owner=owner,
        company=tx.company_id,
        sorted=sorted_by,
    )
    assert row is not None
    async with tx.aside() as connection:
        with translated():
            async with connection.cursor().copy(cast(LiteralString, row["statement"])) as copy:
                async for content in copy:
                    yield bytes(content)


class Inserting:
    """Rows on their way into one table."""

    def __init__(self, tx: Tx, columns: Columns, given: Sequence[str]) -> None:
        self._tx = tx
        self._columns = columns
        self._given = tuple(given)
        self._statement: bytes | None = None

    async def rows(self, rows: Sequence[Values]) -> None:
        """
        Insert rows, each with one text (or None) for each column that was given.

        Raises:
            NotOurs: a row is of another company, or not as its table has them.
            Conflict: something with an id of theirs is there already.
        """
        if not rows:
            return
        if self._statement is None:
            types = [self._columns.types[name] for name in self._given]
            row = await self._tx.one(
                "company_move_in", name=self._columns.table, columns=list(self._given), types=types
            )
            assert row is not None
            self._statement = row["statement"].encode()
        with _refused(self._columns.table):
            async with self._tx.aside() as connection:
                await connection.execute(self._statement, [array_text(column) for column in zip(*rows, strict=True)])


@contextlib.contextmanager
def _refused(table: str) -> Iterator[None]:
    try:
        with translated():
            yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise NotOurs(f"a row of {table} is not of this company") from error
    except psycopg.IntegrityError as error:
        raise NotOurs(f"a row of {table} is not as such a row has to be") from error
    except Conflict as error:
        if isinstance(error.__cause__, psycopg.errors.UniqueViolation):
            raise Conflict(
                f"a row of {table} is here already, by its id or its name",
                hint="nothing was changed; it may have been moved here before",
                code="row_is_here",
            ) from error
        raise NotOurs(f"a row of {table} refers to something that did not come with it") from error
    except WrongUsage as error:
        raise NotOurs(f"a row of {table} is not as such a row has to be") from error


def line(values: Sequence[str | None]) -> bytes:
    """A row as COPY writes it, from the texts of its values."""
    return ("\t".join(_NULL if value is None else _escaped(value) for value in values) + "\n").encode()


def _escaped(value: str) -> str:
    return _SPECIAL.sub(lambda found: "\\" + _ESCAPED[found[0]], value)


def lines(content: bytes) -> Iterator[Values]:
    """
    The rows of what COPY wrote, as the texts of their values.

    Raises:
        ValueError: it is not what COPY writes.
    """
    if not content:
        return
    rows = content.decode().split("\n")
    if rows.pop() != "":
        raise ValueError("the last row has no end")
    for row in rows:
        yield [None if value == _NULL else _plain(value) for value in row.split("\t")]


def _plain(value: str) -> str:
    if "\\" not in value:
        return value
    return _ESCAPE.sub(_meant, value)


def _meant(found: re.Match[str]) -> str:
    try:
        return _MEANT[found[1]]
    except KeyError:
        raise ValueError("an escape that COPY does not write") from None
