"""
What lies beside a backup while it is made: what is taken away of it, and what is somebody else's.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest

from company_agents.backup.files import fresh, private_folder
from company_agents.errors import Failed
from tests.database.processes import NOBODY, ROOT

NAME = "monday.tar.zst"
LEFT = f".{NAME}.part-0123456789ab"
# A name of theirs that resembles ours.
OTHERS = (
    ".movie.part-1",
    ".tuesday.tar.zst.part-0123456789ab",
    f".{NAME}.part-0123456789abc",
    f".{NAME}.part-0123456789AB",
    f".{NAME}.part-0123456789ab.zip",
    ".mondayxtar.zst.part-0123456789ab",
    f"{NAME}.part-0123456789ab",
    f".x.{NAME}.part-0123456789ab",
)


def left_after(folder: Path, name: str = NAME) -> set[str]:
    """What lies in the folder when one of this name was given up."""
    with fresh(folder, name):
        pass
    return {path.name for path in folder.iterdir()}


def test_what_a_maker_of_this_name_has_left_goes(tmp_path: Path) -> None:
    (tmp_path / LEFT).write_bytes(b"half a backup")
    assert left_after(tmp_path) == set()


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_somebody_else_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"theirs")
    assert left_after(tmp_path) == {name}
    assert (tmp_path / name).read_bytes() == b"theirs"


def test_a_maker_that_is_at_work_keeps_its_file(tmp_path: Path) -> None:
    with fresh(tmp_path, NAME) as new:
        assert left_after(tmp_path) == {new.part.name}


def test_a_pipe_a_link_and_a_folder_of_such_a_name_keep_nobody_waiting_and_stay(tmp_path: Path) -> None:
    behind = tmp_path / "behind"
    behind.write_bytes(b"theirs")
    pipe, link, folder = (f".{NAME}.part-00000000000{number}" for number in (1, 2, 3))
    os.mkfifo(tmp_path / pipe)
    (tmp_path / link).symlink_to(behind)
    (tmp_path / folder).mkdir()
    assert left_after(tmp_path) == {"behind", pipe, link, folder}


@pytest.mark.skipif(not ROOT, reason="only root gives files away")
def test_a_file_of_another_user_stays(tmp_path: Path) -> None:
    (tmp_path / LEFT).write_bytes(b"theirs")
    os.chown(tmp_path / LEFT, NOBODY, NOBODY)
    assert left_after(tmp_path) == {LEFT}


def test_what_somebody_holds_stays(tmp_path: Path) -> None:
    (tmp_path / LEFT).write_bytes(b"half a backup")
    with (tmp_path / LEFT).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert left_after(tmp_path) == {LEFT}


def test_each_folder_that_is_made_below_the_home_is_its_owner_s_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        made = private_folder(tmp_path / "home" / "data" / "backups", within=tmp_path / "home")
    finally:
        os.umask(before)
    for each in (made, made.parent, made.parent.parent):
        assert stat.S_IMODE(each.stat().st_mode) == 0o700
    assert private_folder(made, within=tmp_path / "home") == made


def test_where_a_file_lies_no_folder_is_made(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"")
    with pytest.raises(Failed, match="cannot be used"):
        private_folder(tmp_path / "data" / "backups", within=tmp_path)
