"""
What a file of a company may say at all, whoever made it: a row of it may be such as no program here would ever write, and
what looks at every company would stumble over it.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence

from company_agents.backup.company_tables import EVENTS, SECRETS
from company_agents.backup.manifest import Member, broken
from company_agents.crypto.cipher import MAX_VALUE_BYTES, NONCE_BYTES, TAG_BYTES
from company_agents.db.moving import Columns, Values, lines
from company_agents.errors import WrongUsage
from company_agents.identity.directory import good_name

# Numbers of events end before it: a chain goes on, at a thousand events in each second, for nine thousand years more.
MOST_SEQ = 2**48
# Bytes of an event. That an integration is there, with a thousand agents and two hundred rules of 300 characters, takes less than
# half of it; in JSON once more, as it goes out to sinks, it is still within a line.
MOST_RECORD = 256 * 1024
# More than any row has; and more rows than the writer puts into a piece, where each has at least its company's id.
MOST_ROW = 16 * 1024 * 1024
MOST_ROWS = 32 * 1024
# Rows that are in memory together, and about how many bytes of them.
BATCH, BATCH_BYTES = 2000, 1024 * 1024

# A provider may be said to take a consent for a hundred years, and what is not to be tried waits as long.
_MOMENT = re.compile(r"2[0-2][0-9]{2}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?\+00")
_DAY = re.compile(r"2[0-2][0-9]{2}-[0-9]{2}-[0-9]{2}")
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NUMBER = re.compile(r"-?[0-9]{1,19}")
_HEX = re.compile(r"\\x([0-9a-f]{2})*")
# What is added to such a number does not leave its type.
_MOST = {"integer": 2**30, "bigint": 2**60}
_ANY = {"integer": 2**31, "bigint": 2**63}

# Tables whose rows people know by their names, and what such a row is.
_NAMED = {"agents": "an agent", "integrations": "an integration", "schedules": "a schedule"}


def rows_of(member: Member, content: bytes) -> Iterator[list[Values]]:
    """
    The rows of a piece, some at a time: never more in memory than a few.

    Raises:
        Broken: they are no rows of this member.
    """
    if content.count(b"\n") > MOST_ROWS:
        raise broken(f"{member.name} has more rows in one piece than are written into one")
    batch: list[bytes] = []
    size = 0
    for row in io.BytesIO(content):
        # Before it is divided: a row of separators alone would become a hundred times as large.
        if len(row) > MOST_ROW or row.count(b"\t") != len(member.columns) - 1:
            raise broken(f"{member.name} holds a row of another length")
        batch.append(row)
        size += len(row)
        if len(batch) >= BATCH or size >= BATCH_BYTES:
            yield _parsed(member, batch)
            batch, size = [], 0
    if batch:
        yield _parsed(member, batch)


def _parsed(member: Member, batch: list[bytes]) -> list[Values]:
    try:
        return list(lines(b"".join(batch)))
    except ValueError:
        raise broken(f"{member.name} holds something that is no row") from None


def check_columns(member: Member, columns: Columns, owner: str, *, every: bool) -> None:
    """
    See that a member has columns of its table. `every`: it is of this very schema, and leaves none out.

    Raises:
        Broken: it has not.
    """
    given = set(member.columns)
    # Fewer are those of an older version: what a later step has added takes its default.
    if not given <= columns.types.keys() or len(given) != len(member.columns) or owner not in given:
        raise broken(f"{member.name} has columns that this version does not know")
    if every and given != columns.types.keys():
        raise broken(f"{member.name} has not every column of its table")


class RowChecks:
    """The checks of the rows of one member."""

    def __init__(self, member: Member, columns: Columns) -> None:
        self._name = member.name
        self._columns = member.columns
        self._by_type = [
            (index, check, what)
            for index, name in enumerate(member.columns)
            if (found := _check_of(columns.types[name], name)) is not None
            for check, what in (found,)
        ]
        self._more = {SECRETS.table: _check_secret, EVENTS.table: _check_event}.get(columns.table)
        self._named = _NAMED.get(columns.table)

    def check(self, row: Values) -> dict[str, str | None]:
        """
        A row by its columns.

        Raises:
            Broken: it is none that a program here would write.
        """
        for index, check, what in self._by_type:
            if (value := row[index]) is not None and not check(value):
                raise broken(f"{self._name} holds {what}")
        found = dict(zip(self._columns, row, strict=True))
        if self._named is not None and not _is_name(found.get("name"), self._named):
            raise broken(f"{self._name} holds a name that none can have")
        if self._more is not None:
            self._more(found)
        return found


def _check_of(kind: str, column: str) -> tuple[Callable[[str], bool], str] | None:
    if kind.startswith("timestamp"):
        return _matches(_MOMENT), "a time that is none between 2000 and 2300"
    if kind == "date":
        return _matches(_DAY), "a day that is none between 2000 and 2300"
    if kind == "uuid":
        return _matches(_ID), "an id that is none"
    if kind == "boolean":
        return ("t", "f").__contains__, "a yes or no that is neither"
    if kind == "bytea":
        return _matches(_HEX), "bytes that are none"
    if kind in _MOST:
        # Whoever starts a run may limit it to as much as the type takes, and nothing is added to that.
        most = (
            MOST_SEQ if column in ("seq", "instance_seq") else _ANY[kind] if column.endswith("_limit") else _MOST[kind]
        )
        return lambda text: _NUMBER.fullmatch(text) is not None and abs(int(text)) < most, "a number that is none"
    return None


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


def _is_name(name: str | None, what: str) -> bool:
    try:
        return name is not None and good_name(name, what) == name
    except WrongUsage:
        return False


def _check_secret(row: dict[str, str | None]) -> None:
    value, nonce = row.get("value"), row.get("nonce")
    if row.get("name") is None or value is None or nonce is None:
        raise broken("it holds a secret that is none")
    # As hexadecimal digits, behind `\x`.
    if len(value) - 2 > 2 * (MAX_VALUE_BYTES + TAG_BYTES) or len(nonce) - 2 != 2 * NONCE_BYTES:
        raise broken("it holds a secret that is longer than any can be")


def _check_event(row: dict[str, str | None]) -> None:
    record = row.get("record")
    # A record ends with its line.
    if record is None or len(record.encode()) > MOST_RECORD or record.splitlines() != [record]:
        raise broken("it holds an event that is none")
    try:
        found = json.loads(record)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in ("action", "at")):
        raise broken("it holds an event that is none")


def changed_columns(columns: Sequence[str], record: dict[str, str | None]) -> Values:
    """
    A row that was changed, in the order of its columns.

    Raises:
        KeyError: what was changed is none of them.
    """
    if len(record) != len(columns):
        raise KeyError
    return [record[name] for name in columns]
