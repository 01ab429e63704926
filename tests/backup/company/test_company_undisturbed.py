"""
A company moves while others write, rotate, seal and kill; and it may be large.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import itertools
import resource
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from company_agents.backup.files import new_file
from company_agents.errors import Busy, Conflict, Failed, NotFound, Sealed, WrongUsage
from company_agents.sensitive import Sensitive
from tests.backup.company.moved import (
    PASSPHRASE,
    Source,
    a_company,
    bring_in,
    copy_of,
    every_row,
    manifest_of,
    rows_of,
    values_of,
)
from tests.cli.processes import Done, Machine
from tests.conftest import LOCAL
from tests.database.processes import until
from tests.rotation.place import Place, rotate

# — the way out —


async def test_an_export_is_refused_before_anything_is_written(source: Source, tmp_path: Path) -> None:
    async with source.place.open() as app:
        (tmp_path / "there").write_text("a file of somebody's")
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        for company, file, passphrase, error in (
            ("Acme", "new", Sensitive("password1234"), WrongUsage),
            ("Acme", "new", Sensitive("a"), WrongUsage),
            ("nobody", "new", PASSPHRASE, NotFound),
            (str(uuid.uuid4()), "new", PASSPHRASE, NotFound),
            ("Acme", "there", PASSPHRASE, Conflict),
            ("Acme", "link", PASSPHRASE, Conflict),
            ("Acme", ".", PASSPHRASE, WrongUsage),
            ("Acme", "no/folder", PASSPHRASE, WrongUsage),
            ("Acme", "n" * 300, PASSPHRASE, WrongUsage),
        ):
            with pytest.raises(error):
                await app.mover.export(LOCAL, company, tmp_path / file, passphrase)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "there"]
        assert (tmp_path / "there").read_text() == "a file of somebody's"


def test_what_somebody_puts_there_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(Conflict), new_file(path) as file:
        file.write(b"a company")
        path.write_text("a file of somebody's")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "a file of somebody's"


async def test_a_secret_that_does_not_open_is_named_and_nothing_is_written(other: Place, tmp_path: Path) -> None:
    place = copy_of(other, tmp_path / "from" / "home")
    async with place.open() as app:
        tenant = await a_company(app, "damaged")
        place.sql("UPDATE secrets SET value = value || '\\x00' WHERE company_id = %(c)s", c=tenant.company.id)
        with pytest.raises(Failed, match=f"agent_token/{tenant.agent.agent_id()} .altered."):
            await app.mover.export(LOCAL, "damaged", tmp_path / "file", PASSPHRASE)
    assert [path.name for path in tmp_path.iterdir()] == ["from"]
    place.drop()


async def test_what_is_written_while_it_is_read_is_not_in_it(other: Place, target: Place, tmp_path: Path) -> None:
    place = copy_of(other, tmp_path / "from" / "home")
    async with place.open() as app:
        tenant = await a_company(app, "slow")
        with place.connect() as held:
            with held.transaction():
                # Agents and secrets are read before, memory and events afterwards.
                held.execute(b"LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
                exporting = asyncio.create_task(app.mover.export(LOCAL, "slow", tmp_path / "file", PASSPHRASE))
                await asyncio.to_thread(until, lambda: waiting(place, "tasks") or None)
                _, token = await app.agents.create(tenant.local, "bob")
                await app.memory.write(await app.identity.agent(token.reveal_text()), "too late")
            done = await exporting
        assert (done.secrets, done.chain_faults) == (1, 0)
        ended = {e["seq"]: e["action"] for e in await app.events.newest(tenant.company.id)}
    place.drop()
    async with target.open() as app:
        await bring_in(app, tmp_path / "file")
        here = rows_of(target, tenant.company.id)
        assert [row["name"] for row in here["agents"]] == ["ann"]
        assert here["memory"] == []
        assert (len(here["audit_events"]), ended[3], ended[4]) == (4, "company.exported", "agent.created")
        assert (await app.events.verify(tenant.company.id)).faults == ()


async def test_it_is_one_moment_while_everybody_writes(other: Place, target: Place, tmp_path: Path) -> None:
    place = copy_of(other, tmp_path / "from" / "home")
    async with place.open() as app:
        tenant = await a_company(app, "busy")

        many = asyncio.Event()

        async def write() -> None:
            for number in itertools.count():
                # Refused for a moment while the key is switched.
                with contextlib.suppress(Busy):
                    async with tenant.local.scope.transaction() as tx:
                        await tx.run("agent_insert", id=uuid.uuid4(), company_id=tx.company_id, name=f"agent {number}")
                        await app.store.put(tx, f"of agent {number}", Sensitive(f"{number}"))
                if number == 10:
                    many.set()

        writing = asyncio.create_task(write())
        await many.wait()
        rotating = asyncio.create_task(rotate(app))
        try:
            done = await app.mover.export(LOCAL, "busy", tmp_path / "file", PASSPHRASE)
            await rotating
            assert not writing.done()
        finally:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
    place.drop()
    async with target.open() as app:
        await bring_in(app, tmp_path / "file")
        found = await values_of(app, target, tenant.company.id)
        of_agents = {name.removeprefix("of ") for name in found if name.startswith("of ")}
        agents = {row["name"] for row in rows_of(target, tenant.company.id)["agents"]} - {"ann"}
        assert of_agents == agents and len(agents) > 10
        assert len(found) == done.secrets == len(agents) + 1
        assert (await app.events.verify(tenant.company.id)).faults == ()


# — killed, and without room —


def machine(place: Place) -> Machine:
    return Machine(place.home, more=place.variables)


def waiting(place: Place, table: str) -> bool:
    query = "SELECT count(*) AS n FROM pg_locks WHERE relation = %(t)s::regclass AND NOT granted"
    return bool(place.sql(query, t=table)[0]["n"])


@pytest.mark.parametrize("table", ["agents", "audit_heads"])
async def test_an_import_that_is_killed_leaves_nothing(source: Source, target: Place, table: str) -> None:
    async with target.open():
        pass
    before = every_row(target)
    words = ("company", "import", str(source.light), "--passphrase-stdin")
    with target.connect() as held, held.transaction(), machine(target).start(*words) as child:
        held.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE".encode())
        assert child.stdin is not None
        child.stdin.write(PASSPHRASE.reveal())
        child.stdin.close()
        child.stdin = None
        await asyncio.to_thread(until, lambda: waiting(target, table) or None)
        child.kill()
        child.wait()
    await asyncio.to_thread(until, lambda: not rows_of(target, source.mine)["companies"] or None)
    left = every_row(target)
    assert {name for name in before if before[name] != left[name]} <= {"audit_events", "audit_heads"}
    assert not any(rows_of(target, source.mine).values())
    done = await asyncio.to_thread(machine(target).json, *words, given=PASSPHRASE.reveal())
    assert done["company"] == str(source.mine)
    async with target.open() as app:
        assert (await app.events.verify(source.mine)).faults == ()
        assert (await app.identity.agent(source.token)).agent_id() == source.agent


async def test_an_export_that_is_killed_leaves_no_file_of_its_name(other: Place, tmp_path: Path) -> None:
    place = copy_of(other, tmp_path / "home" / "home")
    async with place.open() as app:
        await a_company(app, "killed")
    file = tmp_path / "folder" / "file"
    file.parent.mkdir()
    words = ("company", "export", "killed", str(file), "--passphrase", PASSPHRASE.reveal_text())
    with place.connect() as held, held.transaction(), machine(place).start(*words) as child:
        held.execute(b"LOCK TABLE memory IN ACCESS EXCLUSIVE MODE")
        await asyncio.to_thread(until, lambda: waiting(place, "memory") or None)
        words_shown = Path(f"/proc/{child.pid}/cmdline").read_bytes()
        assert b"killed" in words_shown and PASSPHRASE.reveal() not in words_shown
        child.kill()
        child.wait()
    assert not file.exists()
    done = await asyncio.to_thread(machine(place).run, *words)
    assert done.status == 0 and file.exists()
    place.drop()


async def test_without_room_nothing_is_left(source: Source, tmp_path: Path) -> None:
    def little() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    def run() -> Done:
        words = ("company", "export", "Acme", str(tmp_path / "file"), "--passphrase-stdin")
        with machine(source.place).start(*words, preexec_fn=little) as child:
            out, err = child.communicate(PASSPHRASE.reveal(), timeout=60)
        return Done(child.returncode, out.decode(), err.decode())

    done = await asyncio.to_thread(run)
    assert done.status == 1 and "there is no room for" in done.err
    assert list(tmp_path.iterdir()) == []


# — sealed, rotated and pruned meanwhile —

SEAL = "UPDATE instance SET sealed_at = now(), sealed_by = 'an owner'"
UNSEAL = "UPDATE instance SET sealed_at = NULL, sealed_by = NULL"


async def test_what_is_sealed_meanwhile_neither_comes_nor_goes(source: Source, target: Place, tmp_path: Path) -> None:
    async with target.open() as app:
        await a_company(app, "to be sealed")
        await app.store.flush_used()
        before = every_row(target)
        for table, work in (
            ("tasks", lambda: app.mover.export(LOCAL, "to be sealed", tmp_path / "file", PASSPHRASE)),
            ("webhooks", lambda: bring_in(app, source.light)),
        ):
            with target.connect() as held:
                with held.transaction():
                    held.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
                    moving = asyncio.create_task(work())
                    await asyncio.to_thread(until, lambda table=table: waiting(target, table) or None)
                    target.sql(SEAL)
                with pytest.raises(Sealed):
                    await moving
            target.sql(UNSEAL)
        await app.audit.append(None, "test.looked")
        after = every_row(target)
        assert {name for name in before if before[name] != after[name]} == {"audit_events", "audit_heads"}
        assert not (tmp_path / "file").exists()
        assert all(found.faults == () for found in await app.events.verify_all())


async def test_nobody_changes_the_master_key_while_a_company_comes_in(source: Source, target: Place) -> None:
    async with target.open() as app:
        await rotate(app)
        with target.connect() as held:
            with held.transaction():
                held.execute(b"LOCK TABLE webhooks IN ACCESS EXCLUSIVE MODE")
                moving = asyncio.create_task(bring_in(app, source.light))
                await asyncio.to_thread(until, lambda: waiting(target, "webhooks") or None)
                with pytest.raises(Busy):
                    await rotate(app)
                with pytest.raises(Busy):
                    await app.pruner.prune(None, "tester")
                with pytest.raises(Busy):
                    await bring_in(app, source.light)
            await moving
        assert (await app.keys.status()).underway is None
        await rotate(app)
        assert set(target.rows_by_key()) == {target.only("active")}
        assert (await app.keys.verify()).bad == []
        assert (await app.identity.agent(source.token)).agent_id() == source.agent
        assert (await app.events.verify(source.mine)).faults == ()


async def test_a_company_comes_in_beside_another_and_every_seal_is_counted(source: Source, target: Place) -> None:
    seals = "SELECT last_value AS n FROM master_key_seals"
    async with target.open() as app:
        before = target.sql(seals)[0]["n"]
        done = await bring_in(app, source.light)
        assert target.sql(seals)[0]["n"] - before >= done.secrets > 1200


# — a lot of it —

MANY = """
INSERT INTO memory (id, company_id, agent_id, title, content, tags, words)
SELECT gen_random_uuid(), %(c)s, %(a)s, 'note ' || n, repeat(md5(n::text), 60), ARRAY['a', 'b\\c'], to_tsvector(md5(n::text))
FROM generate_series(1, %(n)s) n
"""


def peak() -> Callable[[], int]:
    """Asked later, it says by how many MB this process has grown at the most since now."""
    Path("/proc/self/clear_refs").write_text("5")

    def field(name: str) -> int:
        return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if name in line)

    now = field("VmRSS")
    return lambda: (field("VmHWM") - now) // 1024


@dataclasses.dataclass
class From:
    """Measures from a step on."""

    step: str
    grown: Callable[[], int] | None = None

    def __call__(self, step: str, done: int, total: int) -> None:
        # The passphrase takes hundreds of MB for a moment, before.
        if self.grown is None and step == self.step:
            gc.collect()
            self.grown = peak()


async def test_memory_does_not_grow_with_what_there_is(other: Place, target: Place, tmp_path: Path) -> None:
    place = copy_of(other, tmp_path / "from" / "home")
    async with place.open() as app:
        tenant = await a_company(app, "large")
        given = {"c": tenant.company.id, "a": tenant.agent.agent_id()}
        place.sql(MANY, n=50_000, **given)
        out = From("tables")
        await app.mover.export(LOCAL, "large", tmp_path / "file", PASSPHRASE, out)
        assert out.grown is not None
        sizes = {member.name: member.bytes for member in manifest_of(tmp_path / "file").members}
        assert sizes["tables/memory"] > 100_000_000
        assert out.grown() < 60
    place.drop()
    async with target.open() as app:
        into = From("writing")
        done = await bring_in(app, tmp_path / "file", say=into)
        assert into.grown is not None
        assert into.grown() < 60
        assert done.rows > 50_000
    assert len(target.sql("SELECT id FROM memory WHERE tags = ARRAY['a', 'b\\c']")) == 50_000
