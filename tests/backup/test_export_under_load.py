"""
A backup is of one moment, whatever goes on meanwhile; and keys that it needs are not destroyed, while it is made and after.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from company_agents.app import App, open_app
from company_agents.backup.archive import ArchiveReader, open_archive, opened_file
from company_agents.backup.export import Export, Target
from company_agents.backup.verify import SECRETS, Verifying, sealed_rows
from company_agents.crypto.keyring import KeyRing
from company_agents.errors import Busy
from company_agents.sensitive import Sensitive
from tests.backup.instances import Office, does_its_work, exported, faults_of, manifest_of, restored
from tests.cli.processes import SLOWEST, Machine
from tests.database.processes import until
from tests.outgoing.servers import Server
from tests.rotation.place import Place, nothing_is_lost, outcome, rotate

# Seconds of writing and rotating, in which backups are made one after the other.
LOAD = 4.0
WRITERS = 4


async def writes(app: App, office: Office, number: int, over: asyncio.Event, done: Counter[str]) -> None:
    """Tasks, notes, secrets and uses of the credential, until it is over."""
    local, agent = await office.local(app), await app.identity.agent(office.agent_token)
    for turn in itertools.count():
        if over.is_set():
            return
        task = await app.tasks.create(local, f"task {number} {turn}")
        await app.tasks.comment(local, task.id, f"a remark of {turn}")
        await app.memory.write(agent, f"a note of {turn}")
        async with local.scope.transaction() as tx:
            name = f"written {number} {turn % 20}"
            there = await tx.one("secret_by_name", company_id=office.place.company, name=name)
            await (app.store.replace if there else app.store.put)(tx, name, Sensitive(f"value {turn}"))
        await app.requests.request(agent, "generic", "GET", "/x")
        done["written"] += 1


async def rotates(app: App, over: asyncio.Event, done: Counter[str]) -> None:
    while not over.is_set():
        assert (await rotate(app)).bad == []
        done["rotated"] += 1


def opens_with_what_it_names(file: Path, ring: KeyRing) -> None:
    """Every row of an archive is under a key that its manifest names, and no key is named in vain."""
    manifest = manifest_of(file)
    rows: Counter[str] = Counter()
    with opened_file(file) as source:
        opened = open_archive(source)
        for member, piece in ArchiveReader(source, opened).pieces():
            if member.name == SECRETS:
                rows.update(row[5] for row in sealed_rows(member, piece))
        assert {key.key_id: key.rows for key in manifest.keys if key.rows} == dict(rows)
        only = KeyRing(tuple(ring.get(key.key_id) for key in manifest.needed_keys))
        verdict = Verifying(only).run(source, opened)
        assert (verdict.bad, verdict.not_opened, verdict.opened) == ([], 0, rows.total())
        assert verdict.would_restore
        for left_out in rows:
            less = KeyRing(tuple(key for key in only.keys if key.key_id != left_out))
            verdict = Verifying(less).run(source, opened)
            assert (verdict.not_opened, verdict.would_restore) == (rows[left_out], False)


async def test_backups_that_are_made_under_full_load_are_each_of_one_moment(
    office: Office, copy: Place, fresh: Callable[[], Place], provider: Server, tmp_path: Path
) -> None:
    files: list[Path] = []
    done: Counter[str] = Counter()
    over = asyncio.Event()
    async with open_app(copy.settings(runs=0), long_lived=True) as app, copy.open() as second:
        # Nobody is asked, and no number of calls is too many.
        copy.sql("UPDATE integrations SET per_minute = 0, asks = '{}'")
        tasks = [asyncio.create_task(writes(app, office, number, over, done)) for number in range(WRITERS)]
        tasks.append(asyncio.create_task(rotates(second, over, done)))
        try:
            async with asyncio.timeout(LOAD * 10):
                ends = asyncio.get_running_loop().time() + LOAD
                while asyncio.get_running_loop().time() < ends or done["rotated"] < 2:
                    files.append(tmp_path / f"{len(files)}.backup")
                    await exported(app, files[-1])
        finally:
            over.set()
            failed = [task for task in await asyncio.gather(*tasks, return_exceptions=True) if task is not None]
        assert failed == []
        ring = KeyRing((await copy.source.read()).keys)
    assert len(files) >= 2
    assert min(done["written"], done["rotated"]) >= 2, done
    taken = {}
    for file in files:
        opens_with_what_it_names(file, ring)
        manifest = manifest_of(file)
        taken[file] = {key.state for key in manifest.keys if key.needed}
    # One from the middle of a rotation, where there is one, and the last.
    middle = [file for file in files if taken[file] & {"retiring", "staged"}]
    for file in {*middle[:1], files[-1]}:
        new = fresh()
        shutil.copytree(copy.folder, new.folder)
        await restored(new, file)
        async with new.open() as app:
            await nothing_is_lost(office.at(new), app)
            assert await faults_of(app) == []
            await does_its_work(app, office, provider)
            # What was written together came together.
            assert (
                new.sql(
                    "SELECT t.title FROM tasks t WHERE t.title LIKE 'task %' AND NOT EXISTS"
                    " (SELECT FROM comments c WHERE c.task_id = t.id) AND EXISTS (SELECT FROM tasks l WHERE l.title LIKE"
                    " split_part(t.title, ' ', 1) || ' ' || split_part(t.title, ' ', 2) || ' %' AND l.created_at > t.created_at)"
                )
                == []
            )
            await rotate(app, finish=True)
            assert (await app.keys.verify()).bad == []


# — keys —


async def test_no_key_is_destroyed_while_a_backup_is_made_nor_one_that_it_needs_afterwards(
    copy: Place, tmp_path: Path
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def waits() -> None:
        begun.set()
        assert may_end.wait(60)

    # No other is known.
    copy.sql("DELETE FROM backups")
    async with copy.open() as app:
        then = copy.only("active")
        export = Export(app.store.db.logins.instance, app.instance.id, app.held.ring)
        file = (tmp_path / "file").open("w+b")
        making = asyncio.create_task(asyncio.to_thread(export.run, file, Target("held.backup", "/mnt"), waits))
        assert await asyncio.to_thread(begun.wait, 60)
        # A rotation goes on beside it; a prune does not.
        await rotate(app)
        copy.sql("UPDATE master_keys SET ends_at = now() WHERE state = 'archived'")
        error = await outcome(app.pruner.prune(None, "tester"))
        assert isinstance(error, Busy)
        assert error.exit_status == 75
        assert "backup" in error.sentence
        may_end.set()
        await making
        file.close()
        result = await app.pruner.prune(None, "tester")
        assert result.destroyed == []
        assert [kept.why for kept in result.kept if kept.key_id == then] == ["the backup held.backup needs it"]
        assert then in copy.kept()
        await app.backups.forget(export.id, "tester")
        assert (await app.pruner.prune(None, "tester")).destroyed == [then]


async def test_a_backup_whose_maker_was_killed_blocks_nothing_and_leaves_nothing(copy: Place, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    copy.sql("DELETE FROM backups")
    machine, then = Machine(copy.home, more=copy.variables), copy.only("active")
    with copy.connect() as holder, holder.transaction():
        # It comes as far as this table.
        holder.execute("LOCK TABLE comments IN ACCESS EXCLUSIVE MODE")
        child = machine.start("backup", "export", str(folder / "killed.backup"), stdin=subprocess.DEVNULL)
        with child:
            running = "SELECT id FROM backups WHERE state = 'running'"
            [row] = await asyncio.to_thread(until, lambda: copy.sql(running) or None)
            await asyncio.to_thread(until, lambda: list(folder.iterdir()) or None)
            async with copy.open() as app:
                assert isinstance(await outcome(app.pruner.prune(None, "tester")), Busy)
            child.send_signal(signal.SIGKILL)
            child.communicate(timeout=SLOWEST)
    assert [file.name.startswith(".killed.backup") for file in folder.iterdir()] == [True]
    async with copy.open() as app:
        # Its session ends as soon as it is seen that nobody is there.
        async with asyncio.timeout(60):
            while isinstance(error := await outcome(app.pruner.prune(None, "tester")), Busy):
                await asyncio.sleep(0.1)
        assert error is None
        [found] = [backup for backup in await app.backups.rows() if backup.id == row["id"]]
        assert (found.state, found.problem) == ("failed", "its maker was killed")
        # It keeps no key.
        await rotate(app)
        copy.sql("UPDATE master_keys SET ends_at = now() WHERE state = 'archived'")
        assert (await app.pruner.prune(None, "tester")).destroyed == [then]
        await exported(app, folder / "killed.backup")
        assert [file.name for file in folder.iterdir()] == ["killed.backup"]
        assert (await app.backups.verify_file(folder / "killed.backup")).would_restore
