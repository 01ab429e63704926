"""
Where starts of runs work on this machine: an empty folder each, in one of this orchestrator's own, which goes with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from company_agents.errors import MayNotStart
from company_agents.runs.sandbox.workspace import abandoned, make_passable, remove

LOCK = "lock"


@dataclass
class Workspaces:
    """
    The folders below `root`. This orchestrator's has a lock in it that the system lets go of when it dies: whoever comes
    next removes what was left behind.
    """

    root: Path
    _own: Path | None = None
    _lock: int = -1

    def open(self) -> None:
        """Remove what those have left that were killed, and make our own."""
        for other in abandoned(self.root):
            _remove_all_left(other)
        # Again where another orchestrator on this home has just removed the folder, as it ended: before we are in it, or
        # between two looks at it, where it is said to exist and is no folder.
        for _ in range(1000):
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                make_passable(self.root)
                self._make_own()
                return
        raise MayNotStart(
            f"no workspaces can be made in {self.root}", hint="look into what lies there, or who removes it"
        )

    def _make_own(self) -> None:
        # Short: a socket in it has a path of at most 107 bytes.
        own = self.root / uuid4().hex[:8]
        # One after the other: a folder whose lock is not held yet looks as if it had been left behind.
        with _alone_in(self.root):
            for folder in self.root.iterdir():
                _remove_left(folder)
            make_passable(own)
            self._lock = _locked(own / LOCK)
        self._own = own

    def close(self) -> None:
        """Remove our own."""
        if self._own is not None:
            remove(self._own)
            os.close(self._lock)
            with contextlib.suppress(OSError), _alone_in(self.root):
                self.root.rmdir()  # where nobody else's is in it
            self._own = None

    @contextlib.asynccontextmanager
    async def made(self, run_id: UUID, fence: int) -> AsyncIterator[Path]:
        """An empty folder for one start."""
        assert self._own is not None
        folder = self._own / f"{run_id}.{fence}"
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            # It may be large.
            await asyncio.to_thread(remove, folder)


@contextlib.contextmanager
def _alone_in(root: Path) -> Iterator[None]:
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if os.fstat(folder).st_ino != root.stat().st_ino:
            raise FileNotFoundError(root)  # removed meanwhile, and made again
        yield
    finally:
        os.close(folder)


def _locked(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(file)
        raise
    return file


def _remove_all_left(root: Path) -> None:
    with contextlib.suppress(OSError), _alone_in(root):
        for folder in root.iterdir():
            _remove_left(folder)
        root.rmdir()


def _remove_left(folder: Path) -> None:
    with contextlib.suppress(OSError):
        file = _locked(folder / LOCK)
        remove(folder)
        os.close(file)
