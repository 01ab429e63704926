"""
Every row, batch by batch, in the order of the table: opened to see that it opens, or moved to the active key. While one
batch is written, the next is sealed and the one after it is read; where orchestrators are at work, they go first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from uuid import UUID

from company_agents.crypto.batch import BadRow, Resealed, SealedRow, check, reseal
from company_agents.crypto.keyring import KeyRing, MasterKey
from company_agents.db.database import Database, InstanceSession, array_text
from company_agents.errors import Busy
from company_agents.rotation.fence import Fence, overtaken
from company_agents.rotation.replica import ALIVE

Progress = Callable[[str, int, int], None]
"""Told the step, how much of it is done, and how much there is (0: not known)."""

# Pages of the table in one batch: about a thousand rows of a short token. Larger ones were slower, and hold row locks for
# longer. Rows that are long make it smaller: BATCH_BYTES is what should be in memory at once.
MOST_PAGES = 64
BATCH_BYTES = 4 * 1024 * 1024
# A row that somebody else holds is waited for a moment at a time (`secrets_rewrap`), so often.
ROW_ATTEMPTS = 200


@dataclass(slots=True)
class Rewrapped:
    """How many rows were moved, and those that did not open: they stay as they are."""

    rows: int = 0
    bad: dict[UUID, BadRow] = field(default_factory=dict)


async def open_all(db: Database, ring: KeyRing, say: Progress) -> tuple[int, list[BadRow]]:
    """Open every row, as of one moment. Returns how many there are, and those that do not open."""
    bad: list[BadRow] = []
    seen = 0
    async with db.instance_session() as session, session.transaction() as tx:
        await tx.run("audit_one_moment")
        total = await _count(session, "")
        alone = await _alone(session)
        async for rows in _batches(session, "", total.pages, alone):
            bad += await asyncio.to_thread(check, rows, ring)
            seen += len(rows)
            say("opening", seen, total.all)
    return seen, bad


async def rewrap(db: Database, fence: Fence, new: MasterKey, ring: KeyRing, say: Progress) -> Rewrapped:
    """
    Move every row to the active key, those too that are written to meanwhile.

    Raises:
        Overtaken: somebody else has taken the fence, or the key is not the active one any more.
        Busy: somebody else holds a row for longer than we wait.
    """
    result = Rewrapped()
    async with db.instance_session() as reader:
        alone = await _alone(reader)
        while True:
            total = await _count(reader, new.key_id)
            async with fence.step("rewrap", total.rows):
                pass
            if total.rows == 0:
                return result
            before = result.rows
            await _pass(reader, fence, new, ring, total, result, say, alone)
            # What is left after a pass was written to just then, or does not open.
            if result.rows == before and total.rows <= len(result.bad):
                return result


async def _pass(
    reader: InstanceSession,
    fence: Fence,
    new: MasterKey,
    ring: KeyRing,
    total: _Total,
    result: Rewrapped,
    say: Progress,
    alone: bool,
) -> None:
    start = result.rows
    writing: asyncio.Task[int] | None = None
    try:
        async for rows in _batches(reader, new.key_id, total.pages, alone):
            batch = await asyncio.to_thread(reseal, rows, ring, new)
            result.bad |= {row.id: row for row in batch.bad}
            if writing is not None:
                result.rows += await writing
                say("rewrap", result.rows - start, total.rows)
            writing = asyncio.create_task(_write(fence, new, batch))
            if not alone:
                await asyncio.wait([writing])
        if writing is not None:
            result.rows += await writing
            say("rewrap", result.rows - start, total.rows)
    finally:
        if writing is not None and not writing.done():
            await asyncio.wait([writing])


async def _write(fence: Fence, new: MasterKey, batch: Resealed) -> int:
    if not batch.lengths:
        return 0
    for attempt in range(ROW_ATTEMPTS):
        try:
            found = await fence.session.ask(
                "secrets_rewrap",
                fence.number,
                fence.nonce,
                new.key_id,
                len(batch.lengths),
                batch.ids,
                batch.old_nonces,
                batch.new_nonces,
                array_text(batch.lengths),
                batch.values,
            )
        except Busy:
            if attempt == ROW_ATTEMPTS - 1:
                raise
            await asyncio.sleep(0.02)
            continue
        if found[0][0] is None:
            await fence.check("rewrap")
            raise overtaken()
        return int(found[0][0])
    raise AssertionError


@dataclass(frozen=True, slots=True)
class _Total:
    pages: int
    rows: int
    all: int


async def _count(session: InstanceSession, but: str) -> _Total:
    return _Total(*(await session.ask("secrets_pages", but))[0])


async def _alone(session: InstanceSession) -> bool:
    """Whether no orchestrator is at work that should notice as little as can be."""
    return not (await session.ask("replicas_alive", ALIVE))[0][0]


async def _batches(session: InstanceSession, but: str, pages: int, alone: bool) -> AsyncIterator[list[SealedRow]]:
    """
    Every row that is not under the key `but`. Where we are alone, the next batch is read while one is worked on; else
    batches are small, one thing is done at a time, and then nothing for as long as that took.
    """
    most, step, page = MOST_PAGES if alone else MOST_PAGES // 4, MOST_PAGES // 8, 0
    reading: asyncio.Task[list[SealedRow]] | None = None
    try:
        while page < pages or reading is not None:
            began = time.monotonic()
            if reading is None:
                reading, page = _read(session, page, page + step, but), page + step
            rows, reading = await reading, None
            size = sum(len(row[3]) for row in rows)
            step = max(1, min(most, step * 2 if size < BATCH_BYTES // 4 else step // (1 + size // BATCH_BYTES)))
            if alone and page < pages:
                reading, page = _read(session, page, page + step, but), page + step
            if rows:
                yield rows
            if not alone:
                await asyncio.sleep(time.monotonic() - began)
    finally:
        if reading is not None:
            await asyncio.wait([reading])


def _read(session: InstanceSession, first: int, end: int, but: str) -> asyncio.Task[list[SealedRow]]:
    return asyncio.create_task(session.ask("secrets_of_pages", f"({first},0)", f"({end},0)", but))
