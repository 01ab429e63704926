"""
Explores every world that can be reached, the nearest first: any order of the moves of all processes, and what may happen to
them between any two. Each world is looked at, and each is left to itself once: everybody is killed, the instance starts,
one rotation runs undisturbed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.model.protocol import PROGRAMS
from tests.model.world import (
    At,
    Case,
    Database,
    Move,
    Moves,
    Process,
    Seat,
    World,
    changed_source,
    with_database,
    with_process,
)


@dataclass(frozen=True)
class Explored:
    """How many worlds there are, and the shortest way to something that must not be: nothing was found if it is empty."""

    worlds: int
    fault: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([f"{self.worlds} worlds: {self.fault or 'no fault'}", *self.trace])


def explore(case: Case, most: int = 2_000_000) -> Explored:
    """Every world of a case, or up to the first that has a fault."""
    first = case.first()
    came: dict[World, tuple[World, str] | None] = {first: None}
    waiting = deque([first])
    recovered: dict[World, str] = {}
    while waiting:
        world = waiting.popleft()
        left = alone(world)
        if left not in recovered:
            recovered[left] = fault_of_recovery(case, left)
        fault = fault_of(case, world) or recovered[left]
        if fault:
            return Explored(len(came), fault, _trace(came, world))
        for move in moves(case, world):
            if move.world not in came:
                came[move.world] = (world, move.text)
                waiting.append(move.world)
        assert len(came) < most, "the bounds of this case are too wide"
    return Explored(len(came))


def _trace(came: dict[World, tuple[World, str] | None], world: World) -> tuple[str, ...]:
    steps = []
    step = came[world]
    while step is not None:
        steps.append(step[1])
        step = came[step[0]]
    return tuple(reversed(steps))


def moves(case: Case, world: World) -> Moves:
    """Everything that may come next."""
    for number, seat in enumerate(case.seats):
        if seat.database < len(world.databases):
            yield from PROGRAMS[seat.role](At(case, world, number))
    yield from _ends_of_processes(case, world)
    yield from _copies(case, world)


def _ends_of_processes(case: Case, world: World) -> Iterator[Move]:
    for number, (seat, process) in enumerate(zip(case.seats, world.processes, strict=True)):
        if process.step in ("", "refused"):
            continue
        at = At(case, world, number)
        if world.may("kill"):
            yield At(case, world.spend("kill"), number).to("", "is KILLED", "")
        if world.may("lose the lock") and at.db.lock == number:
            # As with a pooler of connections between: the process goes on.
            free = with_database(world, seat.database, at.db._replace(lock=None))
            yield Move("", f"{seat.name} LOSES ITS LOCK and goes on", free.spend("lose the lock"))


def _copies(case: Case, world: World) -> Iterator[Move]:
    original = world.databases[0]
    if world.may("copy aside") and original.started:
        aside = original._replace(lock=None)
        yield Move("", "a COPY of the database is put aside", world.spend("copy aside")._replace(aside=aside))
    yield from _with_copy(case, world, original, world.aside)


def _with_copy(case: Case, world: World, original: Database, aside: Database | None) -> Iterator[Move]:
    if aside is None or not aside.opens(world.source.kept):
        return
    back = aside._replace(started=False, settled=False, old=True)
    # Whoever brings an older database back while a key is being destroyed is not helped by anything.
    destroying = any(process.step in ("destroy.check", "destroy.write") for process in world.processes)
    if world.may("go back") and not destroying:
        # By a restore on the same server, or with another history of it; and with orchestrators that live on, or none.
        for elsewhere, started in ((False, False), (True, False), (False, True), (True, True)):
            there = with_database(_sessions_ended(case, world), 0, back._replace(elsewhere=elsewhere, started=started))
            yield Move("", "the database GOES BACK to the copy", there.spend("go back")._replace(aside=None))
    if world.may("open the copy"):
        beside = world.spend("open the copy")._replace(databases=(original, back._replace(elsewhere=True)), aside=None)
        yield Move("", "the COPY is opened beside the original", beside)
    if world.may("take the source over") and (case.compares or not destroying):
        beside = world._replace(databases=(original, back._replace(elsewhere=True, instance=1)), aside=None)
        taken = changed_source(beside.spend("take the source over"), world.source._replace(owner=1))
        yield Move("", "the copy, as another instance, TAKES THE SOURCE OVER", taken)
    if world.may("restore"):
        yield from _restored(case, world, original, aside)


def _restored(case: Case, world: World, original: Database, aside: Database) -> Iterator[Move]:
    """The rows of the copy come back, and what is known of the keys stays."""
    # Under the lock of the rotator, with the next fence.
    rotten = any(original.keys[key].state not in ("active", "retiring", "archived") for key, _ in aside.rows)
    if original.lock is None and not rotten and not _at_work(case, world, "writer"):
        rows = original._replace(rows=aside.rows, written=aside.written)
        world = world._replace(processes=tuple(process._replace(fence=False) for process in world.processes))
        yield Move("", "the rows of the copy are RESTORED", with_database(world.spend("restore"), 0, rows))


def _sessions_ended(case: Case, world: World) -> World:
    """Every process of the original is at its end, but for what it is about to write to the source."""
    for number, process in enumerate(world.processes):
        if case.seats[number].database == 0:
            after = process._replace(fence=False) if process.step.endswith(".write") else Process()
            world = with_process(world, number, after)
    return world


def fault_of(case: Case, world: World) -> str:
    """What must not be in any world; empty: nothing."""
    kept = world.source.kept
    for number, db in enumerate(world.databases):
        if world.source.owner != db.instance:
            continue  # locked out, which its operator said
        name = "the original" if number == 0 else "the copy"
        active = db.of("active")
        if any(key not in kept for key, _ in db.rows):
            return f"the key of a row of {name} is lost"
        if len(active) != 1:
            return f"{len(active)} keys of {name} are active"
        if active[0] not in kept:
            return f"the active key of {name} is not in the source"
        if tuple(value for _, value in db.rows) != db.written:
            return f"an update of {name} is lost"
        quiet = case.compares and db.settled and db.started and len(world.databases) == 1
        if quiet and world.source.hint != active[0] and not _at_work(case, world, "start"):
            return "the hint was set back by somebody who was overtaken"
    if any(not file <= kept | world.given_up for file in world.files):
        return "a key that a backup needs is destroyed"
    if any(process.step == "refused" for process in world.processes):
        return "a start was refused"
    return ""


def _at_work(case: Case, world: World, role: str) -> bool:
    return any(process.step and seat.role == role for process, seat in zip(world.processes, case.seats, strict=True))


def alone(world: World) -> World:
    """With everybody killed."""
    databases = tuple(db._replace(lock=None) for db in world.databases)
    return world._replace(databases=databases, processes=(), left=())


def fault_of_recovery(case: Case, world: World) -> str:
    """
    What is not as it should be once the instance starts again, one rotation has run to its end, and, where there is no copy,
    prunes have destroyed what they may.
    """
    copied = len(world.databases) > 1
    for number in range(len(world.databases)):
        if world.source.owner != world.databases[number].instance:
            continue
        for role, event in (("start", "start"), ("rotator", "rotate"), *(() if copied else (("pruner", "prune"),) * 3)):
            world = _run(case, world, Seat("after the kills,", role, number), event)
        db = world.databases[number]
        [active] = db.of("active")
        if not db.started:
            return "the instance does not start any more"
        if any(key != active for key, _ in db.rows):
            return "a row is under an old key after one rotation"
        if left := db.of("retiring", "staged", *(() if copied else ("destroying",))):
            return f"key {left[0]} is left {db.keys[left[0]].state} after one rotation"
        if not world.source.kept <= set(db.of("active", "archived", "destroying")) and not copied:
            return "a key of the source is not registered after one rotation"
        if world.source.hint != active:
            return "the hint is another than the active key after one rotation"
        if fault := fault_of(replace(case, seats=()), world._replace(processes=())):
            return f"after one rotation, {fault}"
    return ""


def _run(case: Case, world: World, seat: Seat, event: str) -> World:
    """One command, undisturbed."""
    case = replace(case, seats=(seat,))
    world = world._replace(processes=(Process(),), left=((event, 1),))
    while True:
        move = next(iter(PROGRAMS[seat.role](At(case, world, 0))), None)
        if move is None:
            return world
        world = move.world
        if world.processes[0] == Process():
            return world._replace(left=())
