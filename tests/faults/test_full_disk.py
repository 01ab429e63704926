"""
A key source in files on a full disk: nothing is lost, the error says so, and it works again as soon as there is room.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.processes import SLOWEST, Done
from tests.database.processes import ROOT
from tests.faults.store import ROTATE, Case

FULL = 16
"""Bytes that a file may have where no disk of its own can be had: half a key."""


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[bool]:
    """A small disk at this folder, with what was in it, and full; False: none can be had here."""
    content = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    options = ["-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(folder)]
    if not ROOT or subprocess.run(["mount", *options], capture_output=True).returncode:
        yield False
        return
    try:
        for name, value in content.items():
            (folder / name).parent.mkdir(mode=0o700, exist_ok=True)
            os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY, 0o600))
            (folder / name).write_bytes(value)
        with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as filler:
            while filler.write(b"-" * 512):
                pass
        yield True
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def run(case: Case, *words: str, limit: int | None = None) -> Done:
    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "company_agents", *words, "--json"]
    done = subprocess.run(
        command, env=case.variables, cwd="/", capture_output=True, timeout=SLOWEST, preexec_fn=limited
    )
    case.await_gone()
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def refused(case: Case, done: Done) -> None:
    """The error names the place, and nothing was changed."""
    assert done.status != 0
    error = done.json["error"]
    assert "secrets" in error["message"]
    assert any(said in error["message"] for said in ("no space left", "file too large")), error
    assert "make room" in error["hint"]
    assert list(case.states().values()) == ["active"]
    assert run(case, "key", "verify").status == 0


async def test_a_rotation_on_a_full_disk_changes_nothing_and_works_when_there_is_room(
    small_store, files, forked, tmp_path
):
    with small_store.case(ROTATE, files.settings(), tmp_path, forked) as case:
        await case.seed()
        with full_disk(case.settings.home / "secrets") as full:
            refused(case, run(case, "key", "rotate", limit=None if full else FULL))
            if full:
                (case.settings.home / "secrets" / "filler").unlink()
                assert run(case, "key", "rotate").status == 0
                assert await case.check() == []
            else:
                assert await case.check() == []


@pytest.mark.parametrize("begun", ["master_key_stage", "secrets_rewrap", "fence_hold:archive"])
async def test_a_rotation_that_was_begun_is_finished_when_there_is_room(begun, small_store, files, forked, tmp_path):
    with small_store.case(ROTATE, files.settings(), tmp_path, forked) as traced:
        await traced.seed()
        names = traced.run().names
    number = next(number for number, name in enumerate(names, 1) if begun in name)
    with small_store.case(ROTATE, files.settings(), tmp_path, forked) as case:
        await case.seed()
        assert case.run(number).killed
        done = run(case, "key", "rotate", limit=FULL)
        assert done.status != 0
        assert "file too large" in done.json["error"]["message"]
        assert run(case, "key", "verify").status == 0
        assert await case.check() == []
