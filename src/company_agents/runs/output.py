"""
What a run puts out: through the redactor into its log, in batches, within its limits.

What is taken out: the run's own token in every encoding in which replies are searched for credentials, whatever looks like a
token of ours, and each value that this process holds open at that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import structlog

from company_agents.companies.scope import CompanyScope
from company_agents.db.database import Tx
from company_agents.errors import WrongUsage
from company_agents.outgoing.reply_search import REMOVED, Patterns, Searcher
from company_agents.runs.adapters.base import Stream
from company_agents.sensitive import Sensitive

# Pieces that are handed over at once, and what one may have in it (characters).
MOST_LINES = 1000
MOST_PIECE = 16_384
# Seconds, and characters, after which what has come is written.
EVERY = 0.5
BATCH = 16 * 1024
# Characters of one run, over all its starts.
MOST_OUTPUT = 1024 * 1024
# And of what a holder elsewhere puts out in one call.
MOST_GIVEN = 65_536
TOO_MUCH = "the run has put out more than is kept of one; the rest is not here"

_OURS = re.compile(r"ca_(?:agent|run|op)_[A-Za-z0-9_-]{16,}")
_MAY_BEGIN = re.compile(r"(?:c|ca|ca_[a-z]{0,5}|ca_(?:agent|run|op)_[A-Za-z0-9_-]{0,400})\Z")

log = structlog.stdlib.get_logger("company_agents.runs")


@dataclass(frozen=True, slots=True)
class Line:
    """A piece of what a run put out; it may hold several lines, or end in the middle of one."""

    seq: int
    fence: int
    stream: str
    text: str
    at: datetime


async def lines_of(tx: Tx, run_id: UUID, after: int, limit: int) -> list[Line]:
    """The pieces after a number, oldest first."""
    if not 1 <= limit <= MOST_LINES:
        raise WrongUsage(f"limit is {limit}; it may be 1 to {MOST_LINES}")
    rows = await tx.all("run_output_list", run_id=run_id, after=max(after, 0), limit=limit)
    return [Line(**row) for row in rows]


async def put_out(
    tx: Tx, run_id: UUID, fence: int, stream: Stream, text: str, token: Sensitive | None, clean: Callable[[str], str]
) -> bool:
    """
    Keep what somebody else's holder of a run has put out, in their transaction; whether they hold it. Of what is more than is
    kept of one run, nothing.
    """
    cleaner = _Cleaner(Patterns([token] if token else []), clean)
    kept = cleaner.feed(text) + cleaner.finish()
    row = await tx.one("run_output_size", run_id=run_id)
    left = MOST_OUTPUT - (row["size"] if row else 0)
    pieces = [(stream, kept[at : at + MOST_PIECE]) for at in range(0, min(len(kept), max(left, 0)), MOST_PIECE)]
    if 0 < left < len(kept):
        pieces = [*pieces[:-1], (stream, pieces[-1][1][: left - (len(pieces) - 1) * MOST_PIECE]), ("note", TOO_MUCH)]
    if not pieces:
        return await tx.one("run_held", id=run_id, fence=fence) is not None
    streams, texts = [each for each, _ in pieces], [text for _, text in pieces]
    which = {"id": run_id, "fence": fence, "company_id": tx.company_id}
    return bool(await tx.run("run_output_add", streams=streams, texts=texts, **which))


class _Cleaner:
    """
    Takes out of one stream what must not be kept: the run's token and what looks like one of ours wherever it is cut into
    pieces, and a value that is open just then within a piece. That is a third net: no value that is open is given to a run.
    """

    def __init__(self, patterns: Patterns, clean: Callable[[str], str]) -> None:
        self._searcher, self._clean, self._held = Searcher(patterns), clean, ""

    def feed(self, text: str) -> str:
        """Take more; what may be kept by now."""
        return self._released(self._searcher.feed(text.encode(errors="replace")), final=False)

    def finish(self) -> str:
        """The rest."""
        return self._released(self._searcher.finish(), final=True)

    def _released(self, data: bytes, *, final: bool) -> str:
        # Afterwards: with its zero bytes, text in UTF-16 is searched as what it is.
        text = self._held + data.decode(errors="replace").replace("\0", "\ufffd")
        begun = None if final else _MAY_BEGIN.search(text)
        at = begun.start() if begun else len(text)
        text, self._held = text[:at], text[at:]
        return self._clean(_OURS.sub(REMOVED.decode(), text)) if text else ""


@dataclass
class RunLog:
    """
    The log of one start of a run, between `start` and `close`. What its holder writes after somebody else has taken the run
    on is refused by its fencing token, and dropped. `clean` takes open values out.
    """

    scope: CompanyScope
    run_id: UUID
    fence: int
    token: Sensitive = field(repr=False)
    clean: Callable[[str], str] = lambda text: text
    most: int = MOST_OUTPUT
    _waiting: list[tuple[Stream, str]] = field(default_factory=list)
    _cleaners: dict[Stream, _Cleaner] = field(default_factory=dict)
    _size: int = 0
    _left: int = 0
    _full: bool = False
    _task: asyncio.Task[None] | None = None
    _closed: asyncio.Event = field(default_factory=asyncio.Event)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def start(self) -> None:
        """From now on, what comes is written every half second."""
        async with self.scope.transaction() as tx:
            row = await tx.one("run_output_size", run_id=self.run_id)
        self._left = self.most - (row["size"] if row else 0)
        self._full = self._left <= 0
        self._task = asyncio.create_task(self._run(), name="run output")

    async def write(self, stream: Stream, text: str) -> None:
        """Take a piece of text; it may end in the middle of a line. Never raises."""
        if self._full:
            return
        cleaner = self._cleaners.get(stream)
        if cleaner is None:
            cleaner = self._cleaners[stream] = _Cleaner(Patterns([self.token]), self.clean)
        self._take(stream, cleaner.feed(text))
        if self._size >= BATCH:
            # Whoever writes faster than the database does waits for it. Who is broken off meanwhile takes nothing with it.
            await asyncio.shield(asyncio.create_task(self._flush()))

    async def close(self) -> None:
        """Write what is left."""
        self._closed.set()
        if self._task is not None:
            # Not broken off: what it is writing would be lost.
            await self._task
        for stream, cleaner in self._cleaners.items():
            self._take(stream, cleaner.finish())
        await self._flush()

    def _take(self, stream: Stream, text: str) -> None:
        if self._full or not text:
            return
        if len(text) > self._left:
            text, self._full = text[: self._left], True
        self._left -= len(text)
        self._size += len(text)
        self._waiting.extend((stream, text[at : at + MOST_PIECE]) for at in range(0, len(text), MOST_PIECE))
        if self._full:
            self._waiting.append(("note", TOO_MUCH))

    async def _run(self) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await self._closed.wait()
            await self._flush()

    async def _flush(self) -> None:
        async with self._writing:
            pieces = _joined(self._waiting)
            self._waiting, self._size = [], 0
            if not pieces:
                return
            try:
                async with self.scope.transaction() as tx:
                    streams, texts = [stream for stream, _ in pieces], [text for _, text in pieces]
                    which = {"id": self.run_id, "fence": self.fence, "company_id": self.scope.company_id}
                    await tx.run("run_output_add", streams=streams, texts=texts, **which)
            except Exception as error:
                # A database that is away, or that does not take this: the run goes on without.
                log.warning("output of a run is lost", run=str(self.run_id), error=type(error).__name__)


def _joined(waiting: Sequence[tuple[Stream, str]]) -> list[tuple[Stream, str]]:
    """Pieces of one stream that follow one another as one, as long as it is none too large."""
    found: list[tuple[Stream, str]] = []
    for stream, text in waiting:
        if found and found[-1][0] == stream and len(found[-1][1]) + len(text) <= MOST_PIECE:
            found[-1] = (stream, found[-1][1] + text)
        else:
            found.append((stream, text))
    return found
