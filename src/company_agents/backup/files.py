"""
A file that appears under its name when it is whole, and never instead of another.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from company_agents.errors import CompanyAgentsError, Conflict, Failed, NotFound, Unavailable

# What is being written, beside what it will be. Its maker holds a lock on it.
_PART = ".part-"
_RANDOM = 6
# Somebody else may take a part away before its maker holds it; so often in a row, somebody does it on purpose.
_ATTEMPTS = 100
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Fresh:
    """A file that is being written, and where it lies until it has a name."""

    file: BinaryIO
    part: Path

    def named(self, target: Path) -> None:
        """
        Put it on the disk, under its name.

        Raises:
            Conflict: there is something of this name.
        """
        with explained(target):
            self.flushed()
            _name(self.part, target)
            sync_folder(target.parent)

    def flushed(self) -> None:
        """Put it on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())


@contextlib.contextmanager
def fresh(folder: Path, name: str = "new") -> Iterator[Fresh]:
    """
    A fresh file of mode 0600 in a folder, which is gone at the end unless it got a name. What makers of one of this name
    have left there when they were killed goes as well.

    Raises:
        Failed: it cannot be written; the code is `disk_full` where there is no room.
    """
    with explained(folder):
        _remove_parts(folder, name)
        part, descriptor = _held_part(folder, name)
        try:
            with open(descriptor, "w+b") as file:
                yield Fresh(file, part)
        finally:
            part.unlink(missing_ok=True)


def _held_part(folder: Path, name: str) -> tuple[Path, int]:
    """A new part that is ours: held, and there. Another maker of this name takes those away that nobody holds."""
    for _ in range(_ATTEMPTS):
        part = folder / f".{name}{_PART}{secrets.token_hex(_RANDOM)}"
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if _locked(descriptor) and part.exists():
                return part, descriptor
        except BaseException:
            part.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        part.unlink(missing_ok=True)
        os.close(descriptor)
    raise Failed(f"{folder} cannot be used: somebody takes away what is written there", hint="see who, then try again")


def _locked(descriptor: int) -> bool:
    """Whether nobody else holds it. Not every file system has locks: there nobody takes anything away either."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """
    The same for one that is written in one go: it gets its name at the end.

    Raises:
        Conflict: there is something of this name.
    """
    with fresh(path.parent, path.name) as new:
        if os.path.lexists(path):
            raise taken(path)
        yield new.file
        new.named(path)


@contextlib.contextmanager
def nameless(folder: Path) -> Iterator[BinaryIO]:
    """A file without a name, for what is passed on; it is gone with whoever opened it."""
    with explained(folder):
        descriptor = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w+b") as file:
            yield file


def _name(part: Path, target: Path) -> None:
    try:
        # A link fails where a rename would overwrite.
        os.link(part, target)
    except FileExistsError:
        raise taken(target) from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        # A file system without links, as on a memory stick.
        if os.path.lexists(target):
            raise taken(target) from None
        part.rename(target)


def _remove_parts(folder: Path, name: str) -> None:
    """
    Take away what makers that were killed have left: ours, of this very name, and held by nobody. Whatever else lies there
    is somebody's.
    """
    ours = re.compile(re.escape(f".{name}{_PART}") + f"[0-9a-f]{{{2 * _RANDOM}}}")
    with contextlib.suppress(OSError):
        # A folder may be one's to write to, and not to read.
        for part in [each for each in folder.iterdir() if ours.fullmatch(each.name)]:
            _remove_part(part)


def _remove_part(part: Path) -> None:
    with contextlib.suppress(OSError):
        # A pipe would keep us waiting, and a link may lead to anything.
        descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()
        finally:
            os.close(descriptor)


def private_folder(folder: Path, *, within: Path) -> Path:
    """
    A folder below another one, made where it is missing, as those in between are: each for its owner alone.

    Raises:
        Failed: it cannot be made.
    """
    with explained(folder):
        for each in (*reversed(folder.parents), folder):
            if each.is_relative_to(within):
                each.mkdir(mode=0o700, exist_ok=True)
    return folder


def there(path: Path) -> Path:
    """
    A file that is where it should be.

    Raises:
        NotFound: it is not.
        Unavailable: that cannot be told.
    """
    try:
        path.stat()
    except FileNotFoundError as error:
        raise NotFound(f"{path} is not there", hint="is the disk mounted, and is it the right place?") from error
    except OSError as error:
        raise Unavailable(f"{path} cannot be reached: {(error.strerror or 'an error').lower()}") from error
    return path


def taken(target: Path) -> Conflict:
    """For a name that is not free."""
    return Conflict(f"{target} is there already", hint="choose another name", code="file_there")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """
    Raises:
        Failed: instead of an OSError, in a sentence about the path.
    """
    try:
        yield
    except CompanyAgentsError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise Failed(
                f"there is no room for {path}", hint="free some space, or choose another place", code="disk_full"
            ) from error
        raise Failed(
            f"{path} cannot be used: {(error.strerror or 'input/output error').lower()}",
            hint="choose a place that this user may use",
            code="file_unusable",
        ) from error
