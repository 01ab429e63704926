"""
Appending events. One committer per replica gathers what waits, links it and commits it together: calls
share a disk write, and one company's calls do not queue behind one another's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from company_agents.audit.chain import MAC_BYTES, Head, canonical, link
from company_agents.db.database import CommitEvents, Database, Row, array_text
from company_agents.errors import CompanyAgentsError, Conflict, Failed, Sealed, Tampered, Unavailable
from company_agents.sensitive import Sensitive

# An event that nobody waits for rides with the next that somebody does, or goes after this time (seconds).
LINGER = 0.05
# While the instance is sealed there is no key to link with: what nobody waits for is tried again this often (seconds).
SEALED_PAUSE = 1.0
# Repeated refusals become one event with a count; this is how long (seconds) they are gathered.
FOLD_WINDOW = 30.0
MOST_FOLDS = 10_000
# More than this in one statement would hold the heads of many chains for long.
MOST_IN_A_BATCH = 500
# As often a chain may have moved on before it is held.
FREE_ATTEMPTS = 3
# Seconds for which more is gathered after that: who commits less often, and more at once, meets the others less often.
APART = 0.004

log = logging.getLogger(__name__)

AuditKey = Callable[[], Awaitable[tuple[int, Sensitive]]]


class SinkDown(Unavailable):
    """an audit sink cannot be written, and no credential is used without it"""

    code = "audit_sink_down"


@dataclass(slots=True)
class _Pending:
    chain: UUID
    record: str
    waiter: asyncio.Future[None] | None
    # A sealed secret to be read with it, and what was found.
    secret: UUID | None = None
    row: Row | None = None
    seq: int = 0


@dataclass(slots=True)
class _Fold:
    chain: UUID
    event: dict[str, Any]
    since: float
    count: int = 0


@dataclass
class AuditLog:
    """
    The audit log of one process. `key` gives the number and the value of the audit key, the newest that is known here;
    `forget_key` has it looked up anew.
    """

    db: Database
    key: AuditKey
    instance_id: UUID
    forget_key: Callable[[], None] = lambda: None
    # Told which chains have grown; and awaited with a chain and a number before a use goes on. None: nobody asks.
    grown: Callable[[list[UUID]], None] | None = None
    out: Callable[[UUID, int], Awaitable[None]] | None = None
    _queue: list[_Pending] = field(default_factory=list)
    _heads: dict[UUID, Head] = field(default_factory=dict)
    _folds: dict[tuple[Any, ...], _Fold] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None
    _timer: asyncio.TimerHandle | None = None
    _closing: bool = False
    _has_met_others: bool = False

    def start(self) -> None:
        """Start the committer."""
        self._task = asyncio.create_task(self._run(), name="audit-committer")

    async def close(self) -> None:
        """Commit everything that waits, and stop."""
        self._flush_folds(everything=True)
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
            self._task = None

    async def append(self, company_id: UUID | None, action: str, **facts: Any) -> None:
        """
        Append an event to the chain of a company, or (None) of the instance, and return when it is committed.

        Raises:
            Unavailable: it could not be written; what it was to precede must not happen.
        """
        await self._appended(company_id, None, action, facts)

    async def append_and_read(self, company_id: UUID, secret_id: UUID, action: str, **facts: Any) -> Row | None:
        """
        Append an event to the chain of a company, and read a sealed secret of that company in the same round trip. The
        row, or None where there is none of this id, is handed over when the event is committed, and out where it must be.

        Raises:
            Unavailable: it could not be written; there is no row to be opened.
            SinkDown: it was written here, and did not get out.
        """
        pending = await self._appended(company_id, secret_id, action, facts)
        if self.out is not None:
            await self.out(pending.chain, pending.seq)
        return pending.row

    async def _appended(
        self, company_id: UUID | None, secret_id: UUID | None, action: str, facts: dict[str, Any]
    ) -> _Pending:
        if self._task is None or self._closing:
            raise Unavailable("the audit log is closed")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        pending = _Pending(company_id or self.instance_id, self._record(action, facts), waiter, secret_id)
        self._queue.append(pending)
        self._wake.set()
        try:
            await waiter
            return pending
        except asyncio.CancelledError:
            # It may be written already, so it stays, as one that nobody waits for.
            pending.waiter = None
            raise

    def note(self, company_id: UUID | None, action: str, **facts: Any) -> None:
        """Append an event that nobody waits for. It is committed within a moment, and before a clean stop."""
        self._queue.append(_Pending(company_id or self.instance_id, self._record(action, facts), None))
        self._wake_within(LINGER)

    def refusal(self, company_id: UUID | None, action: str, **facts: Any) -> None:
        """
        Append a refusal. The first of its kind is written at once; those alike within half a minute become
        one more event with their count, so that nobody fills the disk by being refused.
        """
        chain = company_id or self.instance_id
        alike = (chain, action, *sorted((name, str(value)) for name, value in facts.items()))
        fold = self._folds.get(alike)
        if fold is not None:
            fold.count += 1
            return
        if len(self._folds) >= MOST_FOLDS:
            self._flush_folds(everything=True)
        event = {"decision": "refused", **facts}
        self._folds[alike] = _Fold(chain, {"action": action, **event}, time.monotonic())
        asyncio.get_running_loop().call_later(FOLD_WINDOW + LINGER, self._wake.set)
        self.note(company_id, action, **event)

    def _wake_within(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._wake.set)

    def _record(self, action: str, facts: dict[str, Any]) -> str:
        record = {name: _plain(value) for name, value in facts.items() if value is not None}
        record["at"] = datetime.now(UTC).isoformat(timespec="microseconds")
        record["action"] = action
        return canonical(record)

    def _flush_folds(self, *, everything: bool) -> None:
        now = time.monotonic()
        for alike, fold in list(self._folds.items()):
            if everything or now - fold.since >= FOLD_WINDOW:
                del self._folds[alike]
                if fold.count:
                    facts = {**fold.event, "repeated": fold.count}
                    self._queue.append(_Pending(fold.chain, self._record(facts.pop("action"), facts), None))

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._flush_folds(everything=False)
            while self._queue:
                batch, self._queue = self._queue[:MOST_IN_A_BATCH], self._queue[MOST_IN_A_BATCH:]
                # One that was under way when the stop came is not the last: what it met may be over.
                last = self._closing
                if not await self._commit(batch) and last:
                    log.error("%d audit events are lost with this stop", len(self._queue))
                    return
                if self._has_met_others:
                    self._has_met_others = False
                    await asyncio.sleep(APART)
            if self._closing:
                return

    async def _commit(self, batch: list[_Pending]) -> bool:
        left: dict[UUID, list[_Pending]] = {}
        for pending in batch:
            left.setdefault(pending.chain, []).append(pending)
        chains = list(left) if self.grown is not None else []
        try:
            await self._link_and_write(left)
        except Exception as error:
            self._heads.clear()
            if not isinstance(error, (Sealed, Unavailable)) and len(left) > 1:
                # One chain that takes no event is no reason to refuse the others theirs, whatever the database says of it.
                return all([await self._commit(events) for events in left.values()])
            if not isinstance(error, Sealed):
                log.warning("the audit log could not be written", exc_info=error)
            await self._give_up([pending for events in left.values() for pending in events], error)
            return False
        if self.grown is not None:
            self.grown(chains)
        return True

    async def _give_up(self, batch: list[_Pending], error: Exception) -> None:
        problem = error if isinstance(error, CompanyAgentsError) else Failed("the audit event could not be written")
        for pending in batch:
            if pending.waiter is not None and not pending.waiter.done():
                pending.waiter.set_exception(
                    Unavailable(f"the audit log cannot be written: {problem.sentence}", hint=problem.hint)
                )
        # What nobody waits for is tried again with what comes next; what somebody waited for was refused.
        kept = [pending for pending in batch if pending.waiter is None]
        self._queue[:0] = kept[-MOST_FOLDS:]
        if kept and not self._closing:
            await asyncio.sleep(SEALED_PAUSE if isinstance(error, Sealed) else LINGER)

    async def _link_and_write(self, left: dict[UUID, list[_Pending]]) -> None:
        """Write what is left, chain by chain; what is written is taken out, and who waits for it is told."""
        for _ in range(FREE_ATTEMPTS):
            number, key = await self.key()
            moved = await self._write(number, key, left, self.db.commit_events)
            _written(left, moved)
            if not left:
                return
            self._moved_on(moved)
        # The others are quicker each time, as one that is nearer to the database is: nobody is while these are held.
        # Twice, since the key may be the one that was replaced just now.
        for _ in range(2):
            number, key = await self.key()
            async with self.db.holding_chains(array_text(sorted(left))) as (ends, commit):
                self._heads.update(_heads(ends))
                moved = await self._write(number, key, left, commit)
            _written(left, moved)
            if not left:
                return
            self._moved_on(moved)
        raise Unavailable("the audit log is too busy")

    def _moved_on(self, moved: dict[UUID, Head]) -> None:
        """Another wrote to these chains: link to their new ends, and only these again."""
        if any(self._heads.get(chain) == head for chain, head in moved.items()):
            # It ends where we thought, and takes nothing: there is a newer key.
            self.forget_key()
        self._heads.update(moved)
        self._has_met_others = True

    async def _write(
        self, number: int, key: Sensitive, left: dict[UUID, list[_Pending]], commit: CommitEvents
    ) -> dict[UUID, Head]:
        """Link and write. Returns the chains that have moved on, with their ends; nothing was written to those."""
        chains = sorted(left)
        by_chain = {chain: [pending.record for pending in left[chain]] for chain in chains}
        reading = [pending for chain in chains for pending in left[chain] if pending.secret]
        bases = [self._heads.get(chain, Head()) for chain in chains]
        heads, macs = [], []
        for chain, head in zip(chains, bases, strict=True):
            for pending in left[chain]:
                head = Head(head.seq + 1, link(key, chain, head.seq + 1, head.mac, pending.record))
                pending.seq = head.seq
                macs.append(head.mac)
            heads.append(head)
        params = [
            array_text(chains),
            array_text(base.seq for base in bases),
            b"".join(base.mac or bytes(MAC_BYTES) for base in bases),
            array_text(len(by_chain[chain]) for chain in chains),
            # A record has no line end of its own: JSON escapes it.
            "\n".join(record for chain in chains for record in by_chain[chain]),
            b"".join(macs),
            number,
            array_text(pending.chain for pending in reading),
            array_text(pending.secret for pending in reading if pending.secret),
        ]
        try:
            found = await commit(params)
        except (Conflict, Tampered) as error:
            # There are events where the chain should end, or it has no end any more. Nothing was written.
            raise Tampered("the end of a chain is not where it was left") from error
        moved = _heads([row for row in found if row["n"] is None])
        # Where this is not the first attempt, what an earlier one read may be gone since.
        for pending in reading:
            pending.row = None
        for row in found:
            if row["n"] is not None:
                reading[row["n"] - 1].row = row
        self._heads.update({chain: head for chain, head in zip(chains, heads, strict=True) if chain not in moved})
        return moved


def _heads(rows: list[Row]) -> dict[UUID, Head]:
    return {row["chain"]: Head(row["seq"], row["mac"]) for row in rows}


def _written(left: dict[UUID, list[_Pending]], moved: dict[UUID, Head]) -> None:
    for chain in [chain for chain in left if chain not in moved]:
        for pending in left.pop(chain):
            if pending.waiter is not None and not pending.waiter.done():
                pending.waiter.set_result(None)


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (bool, int)):
        return value
    text = str(value)
    # Half of a surrogate pair is text to JSON and to nobody else; it must not come back out of the log.
    return text if text.isascii() else text.encode(errors="replace").decode()
