"""
Comparing the chains with what left of them: who holds that can prove what was cut, rolled back or altered here.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from company_agents.audit.chain import START, link
from company_agents.audit.lines import EVENT, HEAD, MOST_LINE, Line, read_line
from company_agents.db.database import Row, Tx, array_text
from company_agents.errors import WrongUsage
from company_agents.sensitive import Sensitive

# Lines that are compared with one statement.
BATCH = 1000
MOST_FAULTS = 20

# Whether a signature (first) of a text (second) is good.
Check = Callable[[bytes, bytes], bool]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A place where what left and what is here are not the same, or where what left is not whole."""

    chain: UUID | None
    seq: int
    line: int
    what: str


@dataclass(frozen=True, slots=True)
class Compared:
    """What was compared: events and signed heads, of how many chains; lines that were not whole; and what is wrong."""

    events: int
    heads: int
    chains: int
    torn: int
    faults: tuple[Mismatch, ...]


@dataclass(slots=True)
class _Seen:
    """A chain as far as the file has been read: its last event, and whether what is missing there was said."""

    seq: int = 0
    mac: bytes = START
    cut: bool = False


@dataclass
class Comparison:
    """One reading of a file, against a transaction that sees every chain at one moment."""

    keys: dict[int, Sensitive]
    checks: dict[int, Check]
    faults: list[Mismatch] = field(default_factory=list)
    _seen: dict[UUID, _Seen] = field(default_factory=dict)
    _ends: dict[UUID, int] = field(default_factory=dict)
    _events: int = 0
    _heads: int = 0
    _torn: int = 0

    async def run(self, tx: Tx, file: BinaryIO, size: int) -> Compared:
        """Compare every line of the first `size` bytes."""
        self._ends = {row["chain"]: row["seq"] for row in await tx.all("audit_heads_all")}
        lines = _lines(file, size)
        while batch := await asyncio.to_thread(lambda: list(itertools.islice(lines, BATCH))):
            await self._compare(tx, batch)
            if len(self.faults) >= MOST_FAULTS:
                break
        if not self._events and not self._heads:
            # Whoever emptied the file would be told that nothing is wrong.
            self.faults.append(Mismatch(None, 0, 0, "the file holds no event and no head that could be compared"))
        found = tuple(self.faults[:MOST_FAULTS])
        return Compared(self._events, self._heads, len(self._seen), self._torn, found)

    async def _compare(self, tx: Tx, batch: list[tuple[int, Line | None]]) -> None:
        places = {(line.chain, line.seq) for _, line in batch if line is not None and line.seq}
        rows = await tx.all(
            "audit_events_at",
            chains=array_text(chain for chain, _ in places),
            seqs=array_text(seq for _, seq in places),
        )
        here = {(row["chain"], row["seq"]): row for row in rows}
        for number, line in batch:
            if line is None:
                self._torn += 1
                continue
            seen = self._seen.setdefault(line.chain, _Seen())
            row = here.get((line.chain, line.seq))
            if line.kind == EVENT:
                self._event(number, line, seen, row)
            elif line.kind == HEAD:
                self._head(number, line, seen, row)
            else:
                self._say(
                    line, number, "the chain did not go on from what had left of it: it was brought back, or altered"
                )
                seen.seq, seen.mac = 0, START

    def _event(self, number: int, line: Line, seen: _Seen, row: Row | None) -> None:
        self._events += 1
        if line.seq > seen.seq + 1:
            missing = f"events {seen.seq + 1} to {line.seq - 1} are missing in the file before this one"
            self._say(line, number, missing)
        elif line.seq == seen.seq + 1:
            key = self.keys.get(line.audit_key)
            if key is None:
                self._say(line, number, "it names an audit key that this instance does not have")
            elif not hmac.compare_digest(link(key, line.chain, line.seq, seen.mac, line.record), line.mac):
                self._say(line, number, "the line in the file is not what left, or not in its place")
        if line.seq > seen.seq:
            seen.seq, seen.mac = line.seq, line.mac
        if row is None:
            self._missing(number, line, seen)
        elif (row["record"], row["audit_key"], bytes(row["mac"])) != (line.record, line.audit_key, line.mac):
            self._say(line, number, "the event here is another than the one that left")

    def _head(self, number: int, line: Line, seen: _Seen, row: Row | None) -> None:
        self._heads += 1
        check = self.checks.get(line.head_key)
        if check is None:
            self._say(line, number, "the head is signed with a key that this instance does not have")
        elif not check(line.signature, line.signed):
            self._say(line, number, "the signature of the head is not good")
        if seen.seq == line.seq and seen.mac != line.mac:
            self._say(line, number, "the head in the file is not that of the events before it")
        if row is None:
            self._missing(number, line, seen)
        elif bytes(row["mac"]) != line.mac:
            self._say(line, number, "the chain here is another than the one whose head left")

    def _missing(self, number: int, line: Line, seen: _Seen) -> None:
        """Said once of a chain, where it begins to be missing."""
        if seen.cut:
            return
        end = self._ends.get(line.chain, 0)
        if line.chain not in self._ends:
            seen.cut = True
            self._say(line, number, "the whole chain is missing here")
        elif line.seq > end:
            seen.cut = True
            self._say(line, number, f"the chain here ends with event {end}: what left after it was cut, or rolled back")
        else:
            self._say(line, number, "the event is missing here")

    def _say(self, line: Line, number: int, what: str) -> None:
        self.faults.append(Mismatch(line.chain, line.seq, number, what))


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """
    A file of lines, and how long it is now: what is written to it later is not compared.

    Raises:
        WrongUsage: it cannot be read.
    """
    try:
        # Without O_NONBLOCK a pipe would wait.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise WrongUsage(f"{path} is not a file")
            yield file, status.st_size
    except OSError as error:
        raise WrongUsage(f"{path} cannot be read: {os.strerror(error.errno or 0).lower()}") from error


def _lines(file: BinaryIO, size: int) -> Iterator[tuple[int, Line | None]]:
    number, at = 0, 0
    while at < size and (text := file.readline(min(MOST_LINE, size - at))):
        number, at = number + 1, at + len(text)
        yield number, read_line(text)
