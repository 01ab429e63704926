"""
The world in which master keys are rotated, as small as it can be told: a key source, the database (and perhaps a copy
of it beside), and the processes that work there. Keys are numbered; key 0 is the first. A world never changes: a
move makes another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

MOST_KEYS = 7
# The mark of a backup that is being made: which keys it will need, nobody knows yet.
RUNNING = frozenset({-1})


class Key(NamedTuple):
    """
    What `master_keys` says of a key; no state: it is not registered. `ends`: it has an end date, which may be over
    at any time. `leaked`: compromised. `shared`: a copy of the database may need it.
    """

    state: str = ""
    ends: bool = False
    leaked: bool = False
    shared: bool = False


class Source(NamedTuple):
    """The keys that are kept by their ids, the key that the hint names, and which instance it belongs to."""

    kept: frozenset[int] = frozenset({0})
    hint: int = 0
    owner: int = 0


class Database(NamedTuple):
    """
    `rows`: by row, the key that it is sealed under and the number of its value. `written`: the last value that a
    writer was told is there. `settled`: the last rotation has ended. `elsewhere`: on another server than last
    time. `old`: it has gone back, or is a copy.
    """

    keys: tuple[Key, ...]
    rows: tuple[tuple[int, int], ...]
    written: tuple[int, ...]
    backups: frozenset[frozenset[int]] = frozenset()
    lock: int | None = None
    instance: int = 0
    settled: bool = True
    elsewhere: bool = False
    started: bool = True
    old: bool = False

    def of(self, *states: str) -> list[int]:
        """The keys in these states."""
        return [key for key, entry in enumerate(self.keys) if entry.state in states]

    def needs(self) -> frozenset[int]:
        """The keys of the rows, and the active, retiring and staged ones."""
        return frozenset(key for key, _ in self.rows) | frozenset(self.of("active", "retiring", "staged"))

    def opens(self, kept: frozenset[int]) -> bool:
        """Whether a start finds every key that it must."""
        return kept >= {key for key, _ in self.rows} | {*self.of("active", "retiring")}

    def set(self, changes: dict[int, Key]) -> Database:
        """Other entries for some keys."""
        return self._replace(keys=tuple(changes.get(number, entry) for number, entry in enumerate(self.keys)))

    def move(self, row: int, key: int, value: int) -> Database:
        """A row with this value under this key."""
        return self._replace(rows=(*self.rows[:row], (key, value), *self.rows[row + 1 :]))


class Process(NamedTuple):
    """
    Where a process is; no step: it does not run. `fence`: it has taken the fence, and nobody has after it. `fresh`: the
    source is as it read it. `new`, `old`: the keys that it works with.
    """

    step: str = ""
    new: int = -1
    old: int = -1
    fence: bool = False
    fresh: bool = False
    leaked: bool = False
    stale: int = -1
    row: int = -1
    value: int = -1
    seen: tuple[Database, Source] | frozenset[int] | None = None


class World(NamedTuple):
    """
    `databases`: the first is the original. `files`: the keys that each whole backup needs. `aside`: a copy of the database
    that somebody has put away. `given_up`: keys that a compromise has destroyed. `left`: how often each event may come yet.
    """

    source: Source
    databases: tuple[Database, ...]
    processes: tuple[Process, ...]
    next_key: int
    left: tuple[tuple[str, int], ...]
    files: frozenset[frozenset[int]] = frozenset()
    aside: Database | None = None
    given_up: frozenset[int] = frozenset()

    def may(self, event: str) -> bool:
        """Whether an event may come once more."""
        return dict(self.left).get(event, 0) > 0

    def spend(self, event: str) -> World:
        """One time less."""
        return self._replace(left=tuple((name, count - (name == event)) for name, count in self.left))


@dataclass(frozen=True)
class Rules:
    """What the protocol says. A test leaves one out at a time."""

    compare_rows: bool = True
    writers_lock: bool = True
    prune_sees_rows: bool = True
    prune_sees_backups: bool = True
    mark_before_destroy: bool = True
    keys_by_id: bool = True
    read_back: bool = True
    fence_in_transaction: bool = True
    read_before_check: bool = True
    ends_taken_away: bool = True
    shared_keys_never_end: bool = True
    registered_before_snapshot: bool = True
    backup_needs_states: bool = True
    unknown_keys_adopted: bool = True
    staged_dropped: bool = True
    start_looks_again: bool = True
    source_has_owner: bool = True


@dataclass(frozen=True)
class Seat:
    """A place for a process: what it does, and in which database."""

    name: str
    role: str
    database: int = 0


@dataclass(frozen=True)
class Case:
    """What is explored: who is there, how often what may happen, and whether the source compares before it writes."""

    seats: tuple[Seat, ...]
    events: dict[str, int]
    compares: bool
    rules: Rules = Rules()
    rows: int = 1

    def first(self) -> World:
        """An instance after its first start."""
        keys = (Key("active"), *(Key(),) * (MOST_KEYS - 1))
        database = Database(keys, ((0, 0),) * self.rows, (0,) * self.rows)
        left = tuple(sorted(self.events.items()))
        return World(Source(), (database,), (Process(),) * len(self.seats), 1, left)


class Move(NamedTuple):
    """
    One effect or one reading. `kind` is what an observer sees of it: "read", "add", "hint" and "destroy" at the
    source, "fence" (a transaction that only sees that the fence holds), "commit", or "" for what nobody sees.
    """

    kind: str
    text: str
    world: World


Moves = Iterator[Move]


@dataclass(frozen=True)
class At:
    """A process in a world, about to move."""

    case: Case
    world: World
    seat: int

    @property
    def me(self) -> Process:
        return self.world.processes[self.seat]

    @property
    def name(self) -> str:
        return self.case.seats[self.seat].name

    @property
    def rules(self) -> Rules:
        return self.case.rules

    @property
    def where(self) -> int:
        return self.case.seats[self.seat].database

    @property
    def db(self) -> Database:
        return self.world.databases[self.where]

    @property
    def source(self) -> Source:
        return self.world.source

    def to(self, kind: str, text: str, step: str, *, db: Database | None = None, **mine: object) -> Move:
        """Go on at this step, with this database after it. At no step, its lock is let go."""
        me = self.me._replace(step=step, **mine) if step else Process()  # type: ignore[arg-type]
        database = db or self.db
        if not step and database.lock == self.seat:
            database = database._replace(lock=None)
        world = with_database(with_process(self.world, self.seat, me), self.where, database)
        return Move(kind, f"{self.name} {text}", world)

    def stop(self, why: str) -> Move:
        """End, and let the lock go."""
        return self.to("", f"stops: {why}", "")

    def take(self, step: str, *, kind: str = "commit", **mine: object) -> Move:
        """Take the lock of the rotator and the next fence: whoever had it before has it no more."""
        world = self.world
        for seat, process in enumerate(world.processes):
            if self.case.seats[seat].database == self.where:
                world = with_process(world, seat, process._replace(fence=False))
        locked = self.db._replace(lock=self.seat)
        return At(self.case, world, self.seat).to(kind, "takes the fence", step, db=locked, fence=True, **mine)

    def write(self, kind: str, text: str, source: Source, step: str) -> Move:
        """Write to the source: where it compares, only if it is as it was read."""
        if self.case.compares and not self.me.fresh:
            return self.stop("the source was changed by somebody else")
        world = changed_source(self.world, source)
        return At(self.case, world, self.seat).to(kind, text, step)

    @property
    def overtaken(self) -> bool:
        """Whether a transaction finds that somebody has the fence now."""
        return self.rules.fence_in_transaction and not self.me.fence


def with_process(world: World, seat: int, process: Process) -> World:
    processes = world.processes
    return world._replace(processes=(*processes[:seat], process, *processes[seat + 1 :]))


def with_database(world: World, where: int, database: Database) -> World:
    databases = world.databases
    return world._replace(databases=(*databases[:where], database, *databases[where + 1 :]))


def changed_source(world: World, source: Source) -> World:
    """With another source: what anybody has read of it is of before."""
    if source == world.source:
        return world
    processes = tuple(process._replace(fresh=False) for process in world.processes)
    return world._replace(source=source, processes=processes)


Program = Callable[[At], Moves]
