"""
The folders that runs work in: where they lie, and how one is removed.

As an ordinary user: in `runs/` of the instance home. As root, where a run is another user, which cannot enter root's home: in
a folder below `/var/lib/company-agents`, which everybody may pass through and only root may list.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from company_agents.db.host import SYSTEM_FOLDER, make_system_folder

# How long the removal of one may take, in seconds.
REMOVING = 60

# A workspace for a moment that is so old was left by somebody who was killed; the same of a folder of workspaces, where also
# nobody holds a lock in it (seconds).
LEFT, ABANDONED = 3600, 86400
_RUNS = "runs-"
_PASSING = "company-agents-run-"

_PATH = {"PATH": "/usr/bin:/bin"}


def workspaces_folder(home: Path) -> Path:
    """The folder below which the runs of an instance home work."""
    if os.geteuid() != 0:
        return home / "runs"
    return SYSTEM_FOLDER / f"{_RUNS}{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"


def make_passable(folder: Path) -> None:
    """
    Make a folder on the way to workspaces, where it is missing: as root, one that their users may pass through.

    Raises:
        MayNotStart, OSError: it cannot be made.
    """
    root = os.geteuid() == 0
    if root and folder.is_relative_to(SYSTEM_FOLDER):
        make_system_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root:
        folder.chmod(0o711)
    os.utime(folder)  # in use: not abandoned


def abandoned(folder: Path) -> list[Path]:
    """As root: the folders of other homes, which may be gone, in which nothing has been done for a day."""
    if folder.parent != SYSTEM_FOLDER:
        return []
    before = time.time() - ABANDONED
    return [
        each
        for each in SYSTEM_FOLDER.glob(f"{_RUNS}*")
        if each != folder and each.is_dir() and each.stat().st_mtime < before
    ]


@contextlib.contextmanager
def passing_workspace() -> Iterator[Path]:
    """A workspace for a moment, of no run."""
    place = None
    if os.geteuid() == 0:
        make_system_folder()
        place = SYSTEM_FOLDER
        for left in SYSTEM_FOLDER.glob(f"{_PASSING}*"):
            with contextlib.suppress(OSError):
                if left.stat().st_mtime < time.time() - LEFT:
                    remove(left)
    folder = Path(tempfile.mkdtemp(prefix=_PASSING, dir=place))
    try:
        yield folder
    finally:
        remove(folder)


def remove(folder: Path) -> None:
    """
    Remove a workspace. What is in it is somebody else's work: folders that are closed, or too deep for any path. The tools of
    the system can deal with that.
    """
    # To open what is closed: its owner may always do that. Links are not followed.
    removing, opening = (["rm", "-rf", "--one-file-system"], ["chmod", "-R", "u+rwx"])
    for command in (removing, opening, removing):
        if not folder.exists():
            return
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            call = [*command, "--", str(folder)]
            subprocess.run(call, capture_output=True, check=False, timeout=REMOVING, env=_PATH)
