"""
Files that runs were working on, in a backup that was asked for them.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

from company_agents.backup.archive import WORKSPACES, open_archive, opened_file
from tests.backup.instances import restored
from tests.rotation.place import Place

RUN = "5f0c2f9e-5d5c-4f7e-8a4b-7d8c1e2f3a4b.1"


def work(root: Path) -> Path:
    """A workspace as a run leaves it in the middle of its work."""
    folder = root / "0123abcd" / RUN
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("half of it\n")
    (folder / "a folder" / "deeper").mkdir(parents=True)
    (folder / "a folder" / "deeper" / ("long " * 40 + "ü")).write_bytes(os.urandom(3_000_000))
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o4777)
    (folder / "zeros").write_bytes(bytes(40_000_000))
    (folder / "empty").touch()
    (folder / "near").symlink_to("notes.txt")
    os.mkfifo(folder / "pipe")
    (folder / "unreadable").touch()
    (folder / "unreadable").chmod(0)
    return folder


async def test_files_of_runs_come_along_where_they_are_asked_for(
    copy: Place, fresh: Callable[[], Place], tmp_path: Path
) -> None:
    original = work(tmp_path / "runs")
    async with copy.open() as app:
        app.backups.workspaces = tmp_path / "runs"
        await app.backups.export(tmp_path / "without", passphrase=None, who="tester")
        await app.backups.export(tmp_path / "with", passphrase=None, who="tester", workspaces=True)
    with opened_file(tmp_path / "without") as file:
        assert not [m for m in open_archive(file).manifest.members if m.name.startswith(WORKSPACES)]
    new = fresh()
    (new.home / "secrets").mkdir(mode=0o700)
    (new.home / "secrets" / "master.key").write_bytes((copy.home / "secrets" / "master.key").read_bytes())
    (new.home / "secrets" / "master.key").chmod(0o600)
    done = await restored(new, tmp_path / "with")
    if not hasattr(tarfile, "data_filter"):
        assert any("cannot unpack them safely" in note for note in done.notes)
        return
    [folder] = (new.home / "data").glob("workspaces-*")
    found = folder / RUN
    names = {str(path.relative_to(original)) for path in original.rglob("*")} - {"pipe"}
    # Root reads it.
    names -= {"unreadable"} if os.geteuid() else set()
    assert {str(path.relative_to(found)) for path in found.rglob("*")} == names
    for name in names:
        if (original / name).is_file():
            assert (found / name).read_bytes() == (original / name).read_bytes()
    assert (found / "near").readlink() == Path("notes.txt")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    # No program of the run gets a right that it did not have to have: neither set-user-id, nor others' writing.
    assert not stat.S_IMODE((found / "run.sh").stat().st_mode) & 0o6022


async def test_a_workspace_that_leads_out_of_its_folder_is_not_brought_back_and_the_rest_is(
    copy: Place, fresh: Callable[[], Place], tmp_path: Path
) -> None:
    original = work(tmp_path / "runs")
    (original / "far").symlink_to("/etc/passwd")
    async with copy.open() as app:
        app.backups.workspaces = tmp_path / "runs"
        await app.backups.export(tmp_path / "with", passphrase=None, who="tester", workspaces=True)
    new = fresh()
    (new.home / "secrets").mkdir(mode=0o700)
    (new.home / "secrets" / "master.key").write_bytes((copy.home / "secrets" / "master.key").read_bytes())
    (new.home / "secrets" / "master.key").chmod(0o600)
    done = await restored(new, tmp_path / "with")
    assert any("could not be brought back" in note for note in done.notes)
    async with new.open() as app:
        assert not (await app.keys.verify()).bad
    assert not list((new.home / "data").rglob("far"))
