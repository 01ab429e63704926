"""
Rotation of the master key, online. docs/spec/rotation.md has the protocol; `tests/model` explores it.

The one rule that makes it safe: the source only ever gains keys, each at an address of its own, and the database decides
which is active. So a process may die on any line here: what was begun is found in the states, and finished from there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from company_agents.audit.log import AuditLog
from company_agents.crypto.batch import BadRow
from company_agents.crypto.cipher import SEALS_LIMIT
from company_agents.crypto.keyring import MasterKey
from company_agents.db.database import Database, Row, Tx
from company_agents.errors import Busy, Failed, Refused, Tampered, Unavailable
from company_agents.keysources.base import KeySource
from company_agents.keysources.found import Found
from company_agents.rotation.claim import check_owner
from company_agents.rotation.fence import Fence, Overtaken, overtaken
from company_agents.rotation.prune import destroy
from company_agents.rotation.record import record_states
from company_agents.rotation.replica import ALIVE
from company_agents.rotation.rewrap import Progress, Rewrapped, open_all, rewrap
from company_agents.secret_store.audit_keys import AuditKeys
from company_agents.secret_store.keys import HeldKeys

# Each replica gives a sign of life every second: this is long enough for one that must reach a slow source.
CONFIRM_TIME = 30.0
# The switch waits a moment at a time (`writers_wait_time`), so that no writer waits longer; so often.
SWITCH_ATTEMPTS = 200


@dataclass(slots=True)
class Rotated:
    """
    What a rotation did: `rotated`, `finished` what was begun, or `nothing`. `new_key_id` is active now. `rows` were moved,
    `bad` were not. `backups` are those that the destroyed key of a compromise took with it.
    """

    action: str
    new_key_id: str
    old_key_id: str | None = None
    rows: int = 0
    seconds: float = 0.0
    ends_at: Any = None
    bad: list[BadRow] = field(default_factory=list)
    destroyed: bool = False
    backups: list[str] = field(default_factory=list)
    after_destroy: str = ""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a rotation would do: `rotate` or `finish`; how many rows, which replicas, and which backups would die."""

    action: str
    active_key_id: str
    rows: int
    replicas: int
    backups: list[str]


class RowsDoNotOpen(Tampered):
    """some secrets do not open"""

    code = "rows_do_not_open"

    def __init__(self, bad: list[BadRow]) -> None:
        self.bad = bad
        first = bad[0]
        super().__init__(
            f"{len(bad)} secret{'s do' if len(bad) > 1 else ' does'} not open, and nothing was changed: "
            f"the first is {first.id}, {first.name} ({first.problem})",
            hint="`company-agents key verify` names them all; restore or delete them, then rotate",
        )


@dataclass(frozen=True)
class Rotator:
    """Rotates. `grace` is how many days an archived key is kept before it may be pruned."""

    db: Database
    source: KeySource
    held: HeldKeys
    audit: AuditLog
    audit_keys: AuditKeys
    grace: int

    async def foresee(self, *, compromised: bool, say: Progress) -> Foreseen:
        """The preflight, and nothing else. Raises what `rotate` would raise before it changes anything."""
        states = await self._states()
        found = await self._ours()
        await self.source.check_writable(found)
        rows = await self._preflight(found, say)
        active = _only(states, "active")
        async with self.db.instance_transaction() as tx:
            replicas = [row for row in await tx.all("replicas_list", alive=ALIVE) if row["alive"]]
            backups = await tx.all("backups_list")
        retiring, staged = _only(states, "retiring", ""), _only(states, "staged", "")
        old = retiring or active
        begun = bool(retiring or (staged and not (compromised and not _got_out(states, active))))
        dies = _got_out(states, old) or (compromised and not retiring)
        files = [row["file"] for row in backups if dies and _needs(row, old)]
        return Foreseen("finish" if begun else "rotate", active, rows, len(replicas), files)

    async def rotate(self, *, finish: bool, compromised: bool, who: str, say: Progress) -> Rotated:
        """
        Finish what was begun; where nothing was, and `finish` is not asked for, make a new key and move every secret to
        it. `compromised`: the old key gets no grace, and is destroyed at the end.

        Raises:
            Busy: somebody else rotates.
            RowsDoNotOpen: a secret does not open. Nothing was changed.
            SourceReadOnly, SourceUnavailable, MayNotStart: the source. Nothing is sealed under a key that was not read back.
            Unavailable: a replica does not get hold of the new key. Nothing was switched.
        """
        started = time.monotonic()
        async with Fence.taken(self.db) as fence:
            states = await self._states()
            if compromised and any(row["state"] == "retiring" and not row["compromised_at"] for row in states):
                raise Refused(
                    "a rotation is half done",
                    hint="`company-agents key rotate --finish` finishes it; then rotate with --compromised",
                    code="key_rotation_begun",
                )
            found = await self._ours()
            result = await self._rotate(fence, states, found, finish, compromised, who, say)
            result.seconds = round(time.monotonic() - started, 3)
        await self.held.refresh()
        await record_states(self.db, self.audit, self.audit_keys, who=who)
        return result

    async def _rotate(
        self, fence: Fence, states: list[Row], found: Found, finish: bool, compromised: bool, who: str, say: Progress
    ) -> Rotated:
        active, retiring, staged = (_only(states, state, "") for state in ("active", "retiring", "staged"))
        if retiring:
            return await self._from_rewrap(fence, "finished", active, retiring, who, say)
        # One that lay in the source when the active key got out may have got out with it: another takes its place.
        stale = staged if compromised and not _got_out(states, active) else ""
        # Said once, it is said for good: what was killed before the switch is finished as it was begun.
        compromised = compromised or _got_out(states, active)
        if staged and staged in found.ring and not stale:
            await self._preflight(found, say)
            return await self._from_confirm(fence, "finished", staged, active, compromised, who, say)
        elsewhere = await self._rows_elsewhere(active)
        lost = [
            row["key_id"]
            for row in states
            if row["compromised_at"] and row["state"] in ("archived", "destroying") and row["key_id"] not in elsewhere
        ]
        if lost:
            destroyed = await self._destroyed(fence, Rotated("finished", active, lost[0]), who)
            if finish or not compromised:
                return destroyed
            # That was an earlier one; this one is asked for now.
        # Else, and where the active key got out, these rows move with all the others.
        if elsewhere and (finish or not compromised):
            say("opening", 0, 0)
            moved = await rewrap(self.db, fence, found.ring.get(active), found.ring, say)
            return Rotated("finished", active, None, moved.rows, bad=list(moved.bad.values()))
        if finish:
            return Rotated("nothing", active)
        await self.source.check_writable(found)
        if active not in found.kept:
            # Bare, as an operator put it there: it gets an address of its own before anything takes its place.
            found = await self._write(fence, "adopt", lambda seen: self.source.add(found.ring.get(active), seen))
        rows = await self._preflight(found, say)
        if rows > SEALS_LIMIT // 2:
            raise Refused("there are more secrets than one key may seal", code="key_worn_out")
        say("stage", 0, 0)
        new = MasterKey.generate()
        await self._stage(fence, new, stale=stale, got_out=active if compromised else "")
        return await self._from_confirm(fence, "rotated", new.key_id, active, compromised, who, say)

    async def _stage(self, fence: Fence, new: MasterKey, *, stale: str = "", got_out: str = "") -> None:
        found = await self._write(fence, "stage", lambda seen: self.source.add(new, seen))
        if new not in found.keys or new.key_id not in found.kept:
            raise self._lost()
        async with fence.step("register") as tx:
            if stale and await tx.run("master_key_set_aside", key_id=stale) != 1:
                raise overtaken()
            if got_out:
                await tx.run("master_key_got_out", key_id=got_out)
            await tx.run("master_key_stage", key_id=new.key_id, source=self.source.address)

    async def _from_confirm(
        self, fence: Fence, action: str, new: str, old: str, compromised: bool, who: str, say: Progress
    ) -> Rotated:
        say("confirm", 0, 0)
        await self._confirmed(new)
        # The last moment at which a source that has lost it meanwhile costs nothing.
        if new not in (await self._ours()).kept:
            raise self._lost()
        say("switch", 0, 0)
        await self._switch(fence, new, old, compromised)
        return await self._from_rewrap(fence, action, new, old, who, say)

    def _lost(self) -> Failed:
        return Failed(
            f"the key source {self.source.address} took the new key and does not have it",
            hint="nothing was re-encrypted; look at the source, then try again",
            code="key_source_lost",
        )

    async def _confirmed(self, key_id: str) -> None:
        """Every replica that lives holds the key."""
        until = time.monotonic() + CONFIRM_TIME
        while True:
            async with self.db.instance_transaction() as tx:
                alive = [row for row in await tx.all("replicas_list", alive=ALIVE) if row["alive"]]
            without = [row for row in alive if key_id not in row["key_ids"]]
            if not without:
                return
            if time.monotonic() > until:
                first = without[0]
                raise Unavailable(
                    f"the orchestrator at {first['host']}, process {first['process']}, does not get hold of the new key"
                    + (f": {first['problem']}" if first["problem"] else ""),
                    hint="nothing was switched; let it reach the key source, or stop it, and rotate again",
                    code="key_not_confirmed",
                )
            await asyncio.sleep(0.1)

    async def _switch(self, fence: Fence, new: str, old: str, compromised: bool) -> None:
        """From this commit on everything is sealed under the new key: writers ask for the active one under their lock."""

        async def change(tx: Tx) -> None:
            if await tx.run("master_key_retire", key_id=old, compromised=compromised) != 1:
                raise overtaken()
            if await tx.run("master_key_activate", key_id=new) != 1:
                raise overtaken()

        await self._without_writers(fence, "switch", change)

    async def _without_writers(self, fence: Fence, step: str, change: Callable[[Tx], Awaitable[None]]) -> None:
        """A transaction that begins when no other writes to `secrets`, and that lets none begin."""
        for attempt in range(SWITCH_ATTEMPTS):
            try:
                async with fence.step(step) as tx:
                    await tx.run("writers_wait_time")
                    await tx.one("writers_exclude")
                    await change(tx)
                return
            except Busy as error:
                if isinstance(error, Overtaken) or attempt == SWITCH_ATTEMPTS - 1:
                    raise
                # Those who waited behind us go first.
                await asyncio.sleep(0.05)

    async def _from_rewrap(self, fence: Fence, action: str, new: str, old: str, who: str, say: Progress) -> Rotated:
        found = await self._ours()
        moved = await rewrap(self.db, fence, found.ring.get(new), found.ring, say)
        result = Rotated(action, new, old, moved.rows, bad=list(moved.bad.values()))
        say("verify", 0, 0)
        if not await self._emptied(fence, old, moved):
            return result
        say("archive", 0, 0)
        await self._archive(fence, new, old)
        states = await self._states()
        row = next(row for row in states if row["key_id"] == old)
        result.ends_at = row["ends_at"]
        return await self._destroyed(fence, result, who) if row["compromised_at"] else result

    async def _emptied(self, fence: Fence, old: str, moved: Rewrapped) -> bool:
        async def nothing(_: Tx) -> None:
            return

        # Whoever was writing has ended when this has the lock, and whoever writes after it seals under the new key: so
        # the counting, which takes longer the more rows there are, needs no lock.
        await self._without_writers(fence, "verify", nothing)
        async with fence.step("verify") as tx:
            row = await tx.one("secrets_rows_under", key_id=old)
        assert row is not None
        if row["found"] and not moved.bad:
            raise Failed("rows came back under the old key", hint="run `company-agents key rotate --finish`")
        return not row["found"]

    async def _archive(self, fence: Fence, new: str, old: str) -> None:
        found = await self._ours()
        if old not in found.kept:
            kept = found.ring.get(old)
            found = await self._write(fence, "archive", lambda seen: self.source.add(kept, seen))
            if old not in found.kept:
                raise Failed("the key source does not keep the old key", code="key_source_lost")
        await self._write(fence, "archive", lambda seen: self.source.make_current(new, seen))
        async with fence.step("archive") as tx:
            if await tx.run("master_key_archive", key_id=old, grace=self.grace) != 1:
                raise overtaken()

    async def _destroyed(self, fence: Fence, result: Rotated, who: str) -> Rotated:
        assert result.old_key_id is not None
        async with self.db.instance_transaction() as tx:
            await tx.all("backups_let_go")
            backups = await tx.all("backups_list")
        if any(backup["state"] == "running" for backup in backups):
            raise Busy(
                "a backup is being made, which may need the old key: it is not destroyed yet",
                hint="`company-agents key rotate --finish` destroys it when that is done",
            )
        result.backups = [row["file"] for row in backups if _needs(row, result.old_key_id)]
        await destroy(fence, self.source, self.held, self.audit, result.old_key_id)
        result.destroyed, result.after_destroy = True, self.source.after_destroy
        return result

    async def _write(self, fence: Fence, step: str, write: Callable[[Found], Awaitable[None]]) -> Found:
        """
        Write to the source: read it, see that the fence holds, write against what was read, read it back. In this order:
        with check-and-set, a rotator that was overtaken after its check finds another version, and writes nothing.
        """
        seen = await self._ours()
        await fence.check(step)
        await write(seen)
        return await self._ours()

    async def _ours(self) -> Found:
        found = await self.source.read()
        check_owner(self.source, found, self.audit.instance_id)
        return found

    async def _preflight(self, found: Found, say: Progress) -> int:
        rows, bad = await open_all(self.db, found.ring, say)
        if bad:
            raise RowsDoNotOpen(bad)
        return rows

    async def _rows_elsewhere(self, active: str) -> set[str]:
        """The other keys that rows are under."""
        async with self.db.instance_transaction() as tx:
            return {row["key_id"] for row in await tx.all("secrets_by_key")} - {active}

    async def _states(self) -> list[Row]:
        async with self.db.instance_transaction() as tx:
            return await tx.all("master_keys_list")


def _got_out(states: list[Row], key_id: str) -> bool:
    return any(row["key_id"] == key_id and row["compromised_at"] is not None for row in states)


def _only(states: list[Row], state: str, none: str | None = None) -> str:
    for row in states:
        if row["state"] == state:
            return str(row["key_id"])
    if none is None:
        raise Failed("no master key is active", hint="restore the database from a backup", code="key_missing")
    return none


def _needs(backup: Row, key_id: str) -> bool:
    return backup["state"] != "gone" and key_id in backup["key_ids"]
