"""
The folders that runs work in: that they go, whatever was made of them.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from pathlib import Path

import pytest

from company_agents.db.host import SYSTEM_FOLDER
from company_agents.runs.sandbox.workspace import ABANDONED, passing_workspace, remove, workspaces_folder
from company_agents.runs.workspaces import Workspaces
from tests.sandbox.conftest import ROOT, WAYS, MakeRunner


@pytest.mark.parametrize("way", WAYS)
async def test_whatever_a_run_has_made_of_its_workspace_is_removed(
    way: str, runner: MakeRunner, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    kept.write_text("not the run's")
    code = f"""
import os
os.symlink("{kept}", "link")
os.symlink("{tmp_path}", "folder")
os.mkdir("closed")
open("closed/file", "w").close()
os.chmod("closed", 0)
for _ in range(3000):
    os.mkdir("deep")
    os.chdir("deep")
"""
    here = runner(way)
    outcome, written = await here.python(code)
    assert outcome.state == "finished", written.of()
    remove(here.folder)
    assert not here.folder.exists()
    assert kept.read_text() == "not the run's"


def test_what_a_killed_orchestrator_has_left_is_removed_by_the_next_and_what_another_holds_is_not(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    folder = workspaces_folder(home)
    one, another = Workspaces(folder), Workspaces(folder)
    one.open()
    (own,) = folder.iterdir()
    (own / "work").mkdir()
    left = folder / "12345678"
    left.mkdir()
    (left / "lock").touch()
    another.open()
    assert own in set(folder.iterdir()) and (own / "work").exists()
    assert left not in set(folder.iterdir())
    one.close()
    assert folder.exists()
    another.close()
    assert not folder.exists()


def test_orchestrators_that_come_and_go_on_one_home_do_not_trip_over_one_another(tmp_path: Path) -> None:
    folder, failed = workspaces_folder(tmp_path), []

    def come_and_go() -> None:
        try:
            for _ in range(60):
                found = Workspaces(folder)
                found.open()
                found.close()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert not folder.exists()


@pytest.mark.skipif(not ROOT, reason="only root's runs work outside of their home")
def test_what_was_left_by_a_home_that_is_gone_is_removed_after_a_day(tmp_path: Path) -> None:
    gone, lately = (SYSTEM_FOLDER / f"runs-{uuid.uuid4().hex[:16]}" for _ in range(2))
    for folder in (gone, lately):
        (folder / "12345678").mkdir(parents=True)
        (folder / "12345678" / "lock").touch()
    long_ago = time.time() - ABANDONED - 60
    os.utime(gone, (long_ago, long_ago))
    found = Workspaces(workspaces_folder(tmp_path))
    found.open()
    found.close()
    assert (gone.exists(), lately.exists()) == (False, True)
    remove(lately)


def test_a_workspace_for_a_moment_that_was_left_is_removed_in_an_hour() -> None:
    with passing_workspace() as left:
        os.utime(left, (time.time() - 4000,) * 2)
        with passing_workspace() as another:
            assert left.exists() != ROOT  # an ordinary user's lie where the system cleans up
            assert another.exists()
