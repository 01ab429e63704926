"""
Backups and restores where there is no room: for the file, in the home, for the keys, and where the database lies. The error
says so, what was there is there, nothing is left over, and it works as soon as there is room.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from company_agents.backup.verify import verify_here
from company_agents.db import host
from tests.backup.conftest import NOBODY
from tests.backup.instances import PASSPHRASE, Office, empty_database
from tests.cli.postgres import OwnPostgres
from tests.cli.processes import SLOWEST, Done, Machine
from tests.database.processes import ROOT
from tests.rotation.place import Place, silent

STEPS = 6


def run(place: Place, *words: str, limit: int | None = None, given: bytes = b"") -> Done:
    """A command; `limit`: bytes that a file of it may have, as on a full disk."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    # Nothing but what the command itself writes may meet the limit: a compiled module that was cut off spoils the next one.
    more = {"DATABASE_URL": place.variables["DATABASE_URL"], "PYTHONDONTWRITEBYTECODE": "1"}
    with Machine(place.home, more=more).start(*words, preexec_fn=limited) as child:
        out, err = child.communicate(given, timeout=SLOWEST)
    return Done(child.returncode, out.decode(errors="replace"), err.decode())


def refused(done: Done, *also: str) -> dict[str, Any]:
    """It says that there is no room, and what to do; `also` are codes where that cannot be known."""
    assert done.status in (1, 69, 78), done
    error: dict[str, Any] = done.json["error"]
    assert "Traceback" not in done.err
    assert error["code"] in {"disk_full", *also}, error
    assert error["hint"]
    return error


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A disk of its own at this folder, of so many bytes, with what was in it."""
    content = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)], check=True)
    try:
        for name, data in content.items():
            (folder / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
            (folder / name).chmod(0o600)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, room: int = 0) -> Path:
    """Leave so many bytes of room on a disk."""
    filler = folder / "filler"
    filler.unlink(missing_ok=True)
    found = os.statvfs(folder)
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
        for _ in range(max(0, found.f_bavail * found.f_frsize - room) // 4096):
            file.write(b"-" * 4096)
    return filler


needs_a_disk = pytest.mark.skipif(
    not ROOT
    or subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "x", "/mnt"], capture_output=True).returncode != 0,
    reason="a disk of its own takes the right to mount one",
)


def contents(place: Place) -> Any:
    """All that a restore may change, but for the list of backups."""
    found, seals = place.dump()
    return {**found, "backups": b""}, seals, place.files()


def left(*folders: Path) -> list[str]:
    """Parts of files, and files without a name."""
    return [str(path) for folder in folders for path in folder.rglob("*.part-*")]


@pytest.fixture
def size(files: dict[str, Path]) -> int:
    return files["plain"].stat().st_size


# — export —


async def test_an_export_stops_wherever_the_disk_is_full_and_works_when_there_is_room(
    copy: Place, tmp_path: Path, size: int
) -> None:
    file = tmp_path / "out" / "made.tar.zst"
    file.parent.mkdir()
    for step in range(STEPS):
        done = run(copy, "backup", "export", str(file), "--json", limit=(size - 2000) * step // (STEPS - 1))
        assert str(file.parent) in refused(done)["message"]
        assert [*file.parent.iterdir()] == []
    states = copy.sql("SELECT state, problem FROM backups WHERE file = 'made.tar.zst'")
    assert {row["state"] for row in states} == {"failed"}
    assert all("room" in row["problem"] or "OSError" in row["problem"] for row in states), states
    assert run(copy, "key", "prune", "--json").status == 0
    assert run(copy, "backup", "export", str(file), "--json").status == 0
    assert (await verify_here(copy.settings(), file, None, silent)).would_restore


async def test_an_export_to_standard_output_needs_room_in_the_home(copy: Place, size: int) -> None:
    for limit in (0, size // 2, size - 2000):
        done = run(copy, "backup", "export", "-", limit=limit)
        assert (done.status, done.out) == (1, ""), done.err
        assert "there is no room" in done.err
        assert left(copy.home) == []
    with Machine(copy.home, more={"DATABASE_URL": copy.variables["DATABASE_URL"]}).start(
        "backup", "export", "-"
    ) as child:
        out, _ = child.communicate(timeout=SLOWEST)
    file = copy.home / "data" / "piped.tar.zst"
    file.write_bytes(out)
    assert (await verify_here(copy.settings(), file, None, silent)).would_restore


def test_an_export_into_a_full_pipe_is_no_whole_one(copy: Place) -> None:
    done = subprocess.run(
        ["bash", "-c", '"$@" > /dev/full', "x", *Machine(copy.home).words("backup", "export", "-")],
        env=Machine(copy.home, more={"DATABASE_URL": copy.variables["DATABASE_URL"]}).environment,
        cwd="/",
        capture_output=True,
        timeout=SLOWEST,
    )
    assert done.returncode == 1, done
    assert b"Traceback" not in done.stderr
    assert b"unexpected" not in done.stderr
    assert {row["state"] for row in copy.sql("SELECT state FROM backups WHERE file LIKE '(%'")} == {"failed"}


@needs_a_disk
def test_an_export_to_a_disk_that_is_full_leaves_nothing_there(copy: Place, tmp_path: Path, size: int) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    with small_disk(folder, 2 * size):
        for room in (0, size // 2):
            fill(folder, room)
            refused(run(copy, "backup", "export", str(folder / "made.tar.zst"), "--json"))
            assert [path.name for path in folder.iterdir()] == ["filler"]
        (folder / "filler").unlink()
        assert run(copy, "backup", "export", str(folder / "made.tar.zst"), "--json").status == 0


# — restore —


async def test_a_restore_in_place_of_another_needs_room_for_what_was_there(
    copy: Place, files: dict[str, Path], size: int
) -> None:
    before = contents(copy)
    # With less, nobody can even hold the home.
    for step in (1, 2):
        done = run(
            copy, "backup", "restore", str(files["plain"]), "--replace", "--json", limit=(size - 2000) * step // 2
        )
        refused(done)
        assert contents(copy) == before
        assert left(copy.home) == []
    assert not [*(copy.home / "data" / "backups").glob("*")]
    assert run(copy, "backup", "restore", str(files["plain"]), "--replace", "--json").status == 0
    assert run(copy, "key", "verify", "--json").status == 0


def test_a_restore_needs_room_for_the_keys_that_it_brings(new: Place, files: dict[str, Path]) -> None:
    words = ("backup", "restore", str(files["ring"]), "--passphrase-stdin", "--json")
    done = run(new, *words, limit=16, given=PASSPHRASE.reveal())
    assert done.status != 0
    error = done.json["error"]
    assert "secrets" in error["message"]
    assert "room" in error["message"] + error["hint"]
    # It is tried before the database is touched.
    assert new.sql("SELECT relname FROM pg_class WHERE relname = 'companies'") == []
    assert not list(new.home.rglob("*.key"))
    assert run(new, *words, given=PASSPHRASE.reveal()).status == 0
    assert run(new, "key", "verify", "--json").status == 0


@contextlib.contextmanager
def database_on_a_small_disk(
    postgres: OwnPostgres, folder: Path, size: int, template: str
) -> Iterator[tuple[str, Path]]:
    """The name of a database, a copy of another one, and the disk that it lies on."""
    account = host.find_account("company-agents")
    for parent in [folder, *folder.parents]:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o711)
    with small_disk(folder, size):
        shutil.chown(folder, account.uid, account.gid)
        disk = folder / "tables"
        disk.mkdir()
        shutil.chown(disk, account.uid, account.gid)
        name = f"small_{os.urandom(4).hex()}"
        with postgres.connect() as administrator:
            administrator.execute(f"CREATE TABLESPACE {name} LOCATION '{disk}'".encode())
            administrator.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER app TABLESPACE {name}".encode())
            try:
                yield name, folder
            finally:
                (folder / "filler").unlink(missing_ok=True)
                administrator.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
                administrator.execute(f"DROP TABLESPACE {name}".encode())


@needs_a_disk
def test_a_restore_where_the_disk_of_the_database_is_full_changes_nothing(
    office: Office, copy: Place, files: dict[str, Path], postgres: OwnPostgres, disk: Path
) -> None:
    with database_on_a_small_disk(postgres, disk, 96 * 1024**2, office.place.name) as (name, folder):
        place = Place(postgres, name, copy.home, NOBODY, NOBODY, {})
        before = contents(place)
        for room in (0, 256 * 1024, 1024**2, 3 * 1024**2):
            fill(folder, room)
            refused(run(place, "backup", "restore", str(files["plain"]), "--replace", "--json"))
            (folder / "filler").unlink()
            assert contents(place) == before
        assert run(place, "backup", "restore", str(files["plain"]), "--replace", "--json").status == 0
        assert run(place, "key", "verify", "--json").status == 0


@needs_a_disk
def test_a_restore_into_an_empty_database_on_a_full_disk_can_be_done_again(
    postgres: OwnPostgres, new: Place, office: Office, files: dict[str, Path], disk: Path
) -> None:
    shutil.copytree(office.place.folder, new.folder)
    with database_on_a_small_disk(postgres, disk, 96 * 1024**2, empty_database(postgres)) as (name, folder):
        place = Place(postgres, name, new.home, NOBODY, NOBODY, {})
        codes = []
        for room in (0, 512 * 1024, 2 * 1024**2, 4 * 1024**2):
            fill(folder, room)
            # Without any room the server lets nobody in, and does not say why.
            done = run(place, "backup", "restore", str(files["plain"]), "--json")
            codes.append(refused(done, "database_unreachable")["code"])
            (folder / "filler").unlink()
        assert codes[1:] == ["disk_full"] * 3
        assert run(place, "backup", "restore", str(files["plain"]), "--json").status == 0
        assert run(place, "key", "verify", "--json").status == 0


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder
