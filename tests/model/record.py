"""
What a real rotation, prune or start does, effect by effect, and whether the model allows exactly that.

An effect is a call of the key source or a transaction of an instance's session; after each, states, rows and source are
looked at. What changes nothing there may be more than the model has (the preflight opens every row), but nothing that
the model has may be left out: no reading, and no look at the fence.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from company_agents.app import App
from company_agents.crypto.keyring import MasterKey
from company_agents.db.database import InstanceSession
from company_agents.keysources.base import KeySource
from company_agents.keysources.found import Found
from tests.model.protocol import PROGRAMS
from tests.model.world import At, Case, Database, Key, Process, Rules, Seat, Source, World

# Those that were destroyed stay registered.
MOST_KEYS = 60


class Seen(NamedTuple):
    """What can be seen from outside: what `master_keys` says, which keys have rows, and the source."""

    keys: tuple[Key, ...]
    rows: frozenset[int]
    kept: frozenset[int]
    hint: int


class Effect(NamedTuple):
    """What was done, and what was to be seen after it. A transaction is a "commit" if it held the fence, else "other"."""

    kind: str
    seen: Seen


class Cut(Exception):
    """A process ends here."""


class Recorder:
    """Looks at an instance after each effect. Keys get numbers in the order in which they come."""

    def __init__(self, app: App, connection: Any) -> None:
        self.app, self._connection = app, connection
        self.effects: list[Effect] = []
        self._fence = ""
        self._numbers: dict[str, int] = {}

    async def note(self, kind: str) -> None:
        fence = await (await self._connection.execute("SELECT xmin::text FROM key_fence")).fetchone()
        if kind == "commit" and fence["xmin"] == self._fence:
            kind = "other"
        self._fence = fence["xmin"]
        self.effects.append(Effect(kind, await self.look()))

    async def look(self) -> Seen:
        """What is there now."""
        ask = self._connection.execute
        states = await (await ask("SELECT * FROM master_keys ORDER BY created_at, key_id")).fetchall()
        rows = await (await ask("SELECT DISTINCT key_id FROM secrets")).fetchall()
        found = await self.app.rotator.source.read()
        keys = [Key()] * MOST_KEYS
        for row in states:
            archived = row["state"] not in ("staged", "active", "retiring")
            entry = Key(
                row["state"], archived and row["ends_at"] is not None, bool(row["compromised_at"]), row["shared"]
            )
            keys[self._number(row["key_id"])] = entry
        kept = frozenset(self._number(key.key_id) for key in found.keys)
        assert found.current is not None
        return Seen(
            tuple(keys),
            frozenset(self._number(row["key_id"]) for row in rows),
            kept,
            self._number(found.current.key_id),
        )

    def _number(self, key_id: str) -> int:
        return self._numbers.setdefault(key_id, len(self._numbers))


class RecordedSource:
    """A key source, whose calls are noted. At the call `cut` it fails, after it has done it."""

    def __init__(self, source: KeySource, recorder: Recorder, cut: str = "") -> None:
        self._source, self._recorder, self._cut = source, recorder, cut
        self.address, self.claims_alone, self.after_destroy = source.address, source.claims_alone, source.after_destroy

    async def _noted(self, kind: str) -> None:
        await self._recorder.note(kind)
        if kind == self._cut:
            raise Cut

    async def read(self) -> Found:
        found = await self._source.read()
        await self._noted("read")
        return found

    async def check_writable(self, seen: Found) -> None:
        await self._source.check_writable(seen)

    async def claim(self, instance: Any, seen: Found) -> None:
        await self._source.claim(instance, seen)

    async def add(self, key: MasterKey, seen: Found) -> None:
        await self._source.add(key, seen)
        await self._noted("add")

    async def make_current(self, key_id: str, seen: Found) -> None:
        await self._source.make_current(key_id, seen)
        await self._noted("hint")

    async def destroy(self, key_id: str, seen: Found) -> None:
        await self._source.destroy(key_id, seen)
        await self._noted("destroy")


@contextlib.asynccontextmanager
async def recorded(app: App, cut: str = "") -> AsyncIterator[tuple[RecordedSource, list[Effect]]]:
    """A source to work with, and what is done with it and in the sessions of the instance. It begins with what is there."""
    transaction, ask = InstanceSession.transaction, InstanceSession.ask

    @contextlib.asynccontextmanager
    async def noted_transaction(session: InstanceSession) -> AsyncIterator[Any]:
        async with transaction(session) as tx:
            yield tx
        await recorder.note("commit")

    async def noted_ask(session: InstanceSession, query: str, *params: Any) -> Any:
        # A transaction that is open goes on; its end is noted.
        found = await ask(session, query, *params)
        if query == "secrets_rewrap":
            await recorder.note("commit")
        return found

    async with await app.store.db.logins.instance.connect() as connection:
        recorder = Recorder(app, connection)
        await recorder.note("begin")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(InstanceSession, "transaction", noted_transaction)
            patch.setattr(InstanceSession, "ask", noted_ask)
            yield RecordedSource(app.rotator.source, recorder, cut), recorder.effects


def refusal(role: str, event: str, effects: list[Effect], *, compares: bool, rules: Rules | None = None) -> str:
    """Why the model does not allow these effects of one undisturbed process; empty: it does."""
    case = Case((Seat("it", role),), {}, compares, rules or Rules())
    worlds = {_world(effects[0].seen, event)}
    for number, effect in enumerate(effects[1:], start=1):
        worlds = _after(case, worlds, effect)
        if not worlds:
            before = "\n".join(f"{kind} {seen}" for kind, seen in effects[max(0, number - 3) : number])
            return f"effect {number} of {len(effects) - 1}, {effect.kind}, is no move of the model: {effect}\nafter {before}"
    ended = [world for world in _quiet(case, worlds) if world.processes[0] == Process() and not world.may(event)]
    return "" if ended else "the model is not at its end"


def _world(seen: Seen, event: str) -> World:
    rows = tuple((key, 0) for key in sorted(seen.rows))
    database = Database(seen.keys, rows, (0,) * len(rows))
    next_key = 1 + max(seen.kept | {key for key, entry in enumerate(seen.keys) if entry.state})
    return World(Source(seen.kept, seen.hint), (database,), (Process(),), next_key, ((event, 1),))


def _after(case: Case, worlds: set[World], effect: Effect) -> set[World]:
    kinds = {effect.kind}
    if effect.kind == "commit":
        kinds |= {"fence"}
    worlds = _quiet(case, worlds)
    moved = {move.world for world in worlds for move in _moves(case, world) if move.kind in kinds}
    if effect.kind == "commit":
        # One transaction of the real one moves many rows.
        moved |= _closed(case, worlds, "row") - worlds
    # What changes nothing may be more than the model has; a write to the source may not.
    same = worlds if effect.kind in ("read", "commit", "other") else set()
    return {world for world in moved | same if _seen(world) == effect.seen}


def _quiet(case: Case, worlds: set[World]) -> set[World]:
    """With every move that nobody sees."""
    return _closed(case, worlds, "")


def _closed(case: Case, worlds: set[World], kind: str) -> set[World]:
    waiting, reached = list(worlds), set(worlds)
    while waiting:
        for move in _moves(case, waiting.pop()):
            if move.kind == kind and move.world not in reached:
                reached.add(move.world)
                waiting.append(move.world)
    return reached


def _moves(case: Case, world: World) -> list[Any]:
    return list(PROGRAMS[case.seats[0].role](At(case, world, 0)))


def _seen(world: World) -> Seen:
    [database] = world.databases
    return Seen(database.keys, frozenset(key for key, _ in database.rows), world.source.kept, world.source.hint)
