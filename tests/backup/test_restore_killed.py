"""
`backup restore` and `backup export` are killed at their steps. After that there is the old instance, or the whole new one; a
file has its name only if it is whole; and the same command, given again, ends in the whole new one.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from company_agents.backup.verify import verify_here
from tests.backup.conftest import NOBODY
from tests.backup.instances import PASSPHRASE, Office, empty_database
from tests.backup.killing import forks
from tests.cli.postgres import OwnPostgres
from tests.cli.processes import Done, Machine
from tests.database.processes import until
from tests.faults.effects import AFTER, BEFORE
from tests.faults.forked import Forks
from tests.rotation.place import Place, rotate, silent

PLAIN, RING, REPLACE, EXPORT = "into a new home", "with its ring", "in place of another", "export"
RESTORES = (PLAIN, RING, REPLACE)

Point = tuple[int, str]


@pytest.fixture(scope="module")
def forked() -> Iterator[Forks]:
    with forks() as found:
        yield found


@dataclass
class Scene:
    """A machine on which one command is given, again and again; `names` are the steps of the last one."""

    place: Place
    office: Office
    words: tuple[str, ...]
    folder: Path
    forks: Forks
    given: str = ""
    names: tuple[str, ...] = ()

    def run(self, number: int = 0, moment: str = AFTER) -> Done:
        """The command, killed at a step; 0: not at all."""
        names = self.folder / uuid.uuid4().hex
        words = [str(number), moment, str(names), str(self.folder), "--", *self.words, "--json"]
        machine = Machine(self.place.home, more={"DATABASE_URL": self.place.variables["DATABASE_URL"]})
        done = self.forks.run("killing", words, machine.environment, self.given)
        self._await_gone()
        self.names = tuple(names.read_text().splitlines()) if names.exists() else ()
        return done

    def _await_gone(self) -> None:
        with self.place.server.connect() as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
            until(lambda: True if connection.execute(query, (self.place.name,)).fetchone() == (0,) else None)

    def tables(self) -> dict[str, bytes]:
        """All that is there, but for the list of backups: a safety backup may have been made."""
        found, _ = self.place.dump() if self._has_tables() else ({}, 0)
        return {name: rows for name, rows in found.items() if name != "backups"}

    def _has_tables(self) -> bool:
        return bool(self.place.sql("SELECT 1 AS found FROM pg_class WHERE relname = 'master_key_seals'"))

    def restored(self) -> bool:
        """Whether the database is the new one."""
        if not self.place.sql("SELECT 1 AS found FROM pg_class WHERE relname = 'former_instances'"):
            return False
        return bool(self.place.sql("SELECT 1 AS found FROM former_instances"))

    def parts(self) -> list[Path]:
        """Files that nobody finished."""
        return [path for path in self.folder.rglob(".*") if ".part-" in path.name]


def scene(
    kind: str, office: Office, files: dict[str, Path], postgres: OwnPostgres, folder: Path, forked: Forks
) -> Scene:
    folder = folder / uuid.uuid4().hex[:8]
    home = folder / "home"
    if kind in (REPLACE, EXPORT):
        shutil.copytree(office.place.home, home)
        place = office.place.copied(home)
    else:
        home.mkdir(parents=True, mode=0o700)
        place = Place(postgres, empty_database(postgres), home, NOBODY, NOBODY, {})
    if kind == PLAIN:
        (home / "secrets").mkdir(mode=0o700)
        shutil.copy(office.place.folder / "master.key", home / "secrets" / "master.key")
    words: tuple[str, ...] = ("backup", "restore", str(files["ring" if kind == RING else "plain"]))
    given = PASSPHRASE.reveal_text() if kind == RING else ""
    if kind == RING:
        words = (*words, "--passphrase-stdin")
    if kind == REPLACE:
        words = (*words, "--replace")
    if kind == EXPORT:
        words = ("backup", "export", str(folder / "made.tar.zst"))
    return Scene(place, office, words, folder, forked, given)


async def works(scene: Scene) -> list[str]:
    """What is wrong with the instance: it starts, all of it opens and is proved, and the next rotation works."""
    wrong = []
    async with scene.place.open() as app:
        verified = await app.keys.verify()
        wrong += [f"{bad.name} does not open" for bad in verified.bad]
        if verified.opened < len(scene.office.place.values):
            wrong.append(f"only {verified.opened} secrets are there")
        wrong += [f"the audit log: {fault}" for chain in await app.events.verify_all() for fault in chain.faults]
        found = await app.rotator.source.read()
        if found.owner != app.instance.id:
            wrong.append("the key source is another's")
        if any(row.state == "running" for row in await app.backups.current()):
            wrong.append("a backup is said to be running")
        await app.identity.agent(scene.office.agent_token)
        await rotate(app)
        pruned = await app.pruner.prune(None, "tester")
        wrong += [f"{kept.key_id} is kept: {kept.why}" for kept in pruned.kept if "being made" in kept.why]
    states = [*scene.place.states().values()]
    if states.count("active") != 1 or {"staged", "retiring"} & {*states}:
        wrong.append(f"the keys are {states}")
    return wrong + [f"{path.name} is left over" for path in scene.parts()]


async def killed_restore(scene: Scene, number: int, moment: str) -> list[str]:
    """What is wrong after a kill, and after the same command came again."""
    before, had_keys = scene.tables(), scene.place.files() if scene.place.folder.exists() else {}
    done = await asyncio.to_thread(scene.run, number, moment)
    where = f"killed {moment} {number}, {scene.names[-1:]}"
    wrong = [] if done.status == -9 else [f"it ended {done}"]
    new = scene.restored()
    if not new and before and scene.tables() != before:
        wrong.append("it is neither the old nor the new one")
    if not new and (lost := set(had_keys) - set(scene.place.files())):
        wrong.append(f"keys are gone: {lost}")
    again = await asyncio.to_thread(scene.run)
    refused = again.status != 0 and again.json["error"]["code"] == "restored_already"
    if again.status != 0 and not (new and refused):
        wrong.append(f"given again, it ended {again}")
    if not scene.restored():
        wrong.append("given again, it did not restore")
    wrong += await works(scene)
    return [f"{where}: {what}" for what in wrong]


async def killed_export(scene: Scene, number: int, moment: str) -> list[str]:
    """The same of a backup that was being made."""
    file = Path(scene.words[-1])
    before = scene.tables()
    done = await asyncio.to_thread(scene.run, number, moment)
    where = f"killed {moment} {number}, {scene.names[-1:]}"
    wrong = [] if done.status == -9 else [f"it ended {done}"]
    if file.exists():
        verdict = await verify_here(scene.place.settings(), file, None, silent)
        if not verdict.would_restore:
            wrong.append(f"its name was there too early: {verdict.because}")
    after = scene.tables()
    wrong += [f"{name} was changed" for name in ("companies", "agents", "operators") if before[name] != after[name]]
    async with scene.place.open() as app:
        rows = [row for row in await app.backups.current() if row.file == file.name]
        whole = [row for row in rows if row.state == "whole"]
        if len(rows) > 1 or (whole and not file.exists()) or any(row.state == "running" for row in rows):
            wrong.append(f"it is listed as {[(row.state, row.problem) for row in rows]}")
        if file.exists() and not whole:
            wrong.append(f"it is there, and listed as {[(row.state, row.problem) for row in rows]}")
    again = await asyncio.to_thread(scene.run)
    refused = again.status != 0 and again.json["error"]["code"] == "file_there"
    if again.status != 0 and not (refused and file.exists()):
        wrong.append(f"given again, it ended {again}")
    if not file.exists() or not (await verify_here(scene.place.settings(), file, None, silent)).would_restore:
        wrong.append("given again, it did not make one")
    wrong += await works(scene)
    return [f"{where}: {what}" for what in wrong]


async def killed_at(kind: str, chosen: list[Point], *made: Any) -> list[str]:
    wrong = []
    for number, moment in chosen:
        one = scene(kind, *made)
        try:
            wrong += await (killed_export if kind == EXPORT else killed_restore)(one, number, moment)
        finally:
            one.place.drop()
            shutil.rmtree(one.folder)
    return wrong


async def steps_of(kind: str, *made: Any) -> tuple[str, ...]:
    """The names of the steps of a command that nobody kills."""
    one = scene(kind, *made)
    try:
        done = await asyncio.to_thread(one.run)
        assert done.status == 0, done
        assert await works(one) == []
        return one.names
    finally:
        one.place.drop()


# Where a command has changed something that a process after it finds; and what it does last before that.
DECIDING = {
    PLAIN: ("copy COPY public.secrets", "statement restore_renamed", "commit of a session", "claim", "keys/instance"),
    RING: ("restore_renamed", "keys/*.key", "commit of a session", "keys/instance", "master.key"),
    REPLACE: ("data/backups", "statement restore_drop", "today_keys", "commit of a session", "keys/instance"),
    EXPORT: ("statement backup_begin", "copy COPY public.secrets", "file link", "statement backup_whole"),
}


def deciding(kind: str, names: tuple[str, ...]) -> list[Point]:
    """Right after the steps that decide, the last of each name; and right before a commit."""
    found: list[Point] = []
    for part in DECIDING[kind]:
        numbers = [number for number, name in enumerate(names, 1) if part in name]
        if numbers and "commit" in part:
            found.append((numbers[-1], BEFORE))
        if numbers:
            found.append((numbers[-1], AFTER))
    return found


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", [*RESTORES, EXPORT])
async def test_a_command_that_is_killed_where_it_decides_leaves_the_old_or_the_whole_new(
    kind: str, office: Office, files: dict[str, Path], postgres: OwnPostgres, tmp_path: Path, forked: Forks
) -> None:
    made = (office, files, postgres, tmp_path, forked)
    names = await steps_of(kind, *made)
    chosen = deciding(kind, names)
    assert len(chosen) >= 4, names
    assert await killed_at(kind, chosen, *made) == []


@pytest.mark.faults
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", [*RESTORES, EXPORT])
async def test_a_command_may_be_killed_before_and_after_each_of_its_steps(
    kind: str, office: Office, files: dict[str, Path], postgres: OwnPostgres, tmp_path: Path, forked: Forks
) -> None:
    made = (office, files, postgres, tmp_path, forked)
    names = await steps_of(kind, *made)
    # Of steps that are alike and follow one another, the first and the last.
    chosen = [
        (number, moment)
        for number, name in enumerate(names, 1)
        if name not in names[number - 2 : number - 1] or name not in names[number : number + 1]
        for moment in (BEFORE, AFTER)
    ]
    random.Random(6).shuffle(chosen)
    assert await killed_at(kind, chosen, *made) == []
