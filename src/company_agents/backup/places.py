"""
Where scheduled backups lie: a folder, or a store that speaks S3's protocol.

A backup has a name of ours in its place and is there whole or not at all. What else lies there is left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol
from uuid import UUID

from company_agents.backup.place_failures import explained, malformed, needs_s3, not_there
from company_agents.backup.place_threads import PlaceThreads, Stopped
from company_agents.errors import WrongUsage
from company_agents.settings import Settings

_NAME = re.compile(r"company-agents-\d{8}T\d{6}Z-[0-9a-f]{12}\.tar\.zst")
_PART = ".part-"
_PIECE = 1024 * 1024
# A part of which nothing was written for so long, and that nobody holds, is what a kill left behind (seconds).
_ABANDONED = 60.0


@dataclass(frozen=True, slots=True)
class Stored:
    """A backup in its place: its size in bytes, and when it was put there."""

    name: str
    size: int
    at: datetime


class Place(Protocol):
    """
    Where backups lie.

    Raises of everything here:
        Unavailable: it is out of reach, or full.
        PlaceRefused: it is not ours to use as it is, or this was refused.
    and of what reads one backup:
        NotFound: it is not there.
    """

    address: str
    """The address, safe to show."""

    async def put(self, name: str, path: Path) -> None:
        """
        Put a file there under a name of ours, whole or not at all; when this returns it is there to stay. One of this name
        is replaced. The file is not to be changed afterwards: in a folder of the same file system it is the same file.
        """

    async def get(self, name: str, path: Path) -> None:
        """Fetch one into a file of its owner alone, whole or not at all."""

    async def beginning(self, name: str, length: int) -> bytes:
        """The first bytes of one, without fetching the rest."""

    def local(self, name: str) -> Path | None:
        """Where one can be read without fetching it, if there is such a place."""

    async def list(self) -> list[Stored]:
        """Every one with a name of ours, by name, which is by time."""

    async def delete(self, name: str) -> None:
        """Take one away. One that is not there is no error."""


def backup_name(taken_at: datetime, backup_id: UUID) -> str:
    """The name of a backup in its place: when it was taken, and the beginning of its id."""
    return f"company-agents-{taken_at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{backup_id.hex[:12]}.tar.zst"


def is_backup_name(name: str) -> bool:
    """Whether it is one of ours."""
    return _NAME.fullmatch(name) is not None


def checked_name(name: str) -> str:
    """
    Raises:
        WrongUsage: it is none of ours; it may be a way out of the place.
    """
    if not is_backup_name(name):
        raise WrongUsage("this is not the name of a scheduled backup", hint="`company-agents backup list` lists them")
    return name


def part_of(path: Path) -> Path:
    """Beside a file that is being fetched: whoever clears what is left of those finds its part by the same beginning."""
    return path.with_name(f"{path.name}{_PART}{secrets.token_hex(8)}")


def open_place(settings: Settings) -> Place:
    """
    The place of the settings. Nothing is called yet.

    Raises:
        MayNotStart: the address is malformed, or the client library for it is not installed.
    """
    scheme, separator, rest = settings.backups.partition("://")
    if not separator:
        if not settings.backups.strip() or "\0" in settings.backups:
            raise malformed()
        return FolderPlace.at(settings.backups, settings.home)
    if scheme == "file" and rest.startswith("/") and "\0" not in rest:
        return FolderPlace.at(rest, settings.home)
    if scheme == "s3":
        with needs_s3():
            from company_agents.backup.s3 import S3Place
        return S3Place.at(rest, settings)
    raise malformed()


class FolderPlace:
    """
    A folder. What is being written has a name that is not ours, and its writer holds a lock on it.
    """

    def __init__(self, folder: Path, *, within: Path | None = None) -> None:
        self.folder = folder
        self.address = f"file://{folder}"
        self._threads = PlaceThreads()
        # Below this, missing folders are made. Elsewhere only the last is: more may mean that a disk is not mounted.
        self._within = within

    @classmethod
    def at(cls, path: str, home: Path) -> FolderPlace:
        """
        The place at a path: absolute, or relative to the home.

        Raises:
            MayNotStart: it is in the home of somebody who is not there.
        """
        try:
            folder = Path(os.path.normpath(home / Path(path).expanduser()))
        except RuntimeError:
            raise malformed() from None
        return cls(folder.absolute(), within=home if folder.is_relative_to(home) else None)

    async def put(self, name: str, path: Path) -> None:
        """Copied under another name and renamed, or the same file under this name, where that can be."""
        checked_name(name)
        await self._threads.transfer(lambda stop: self._put(name, path, stop))

    async def get(self, name: str, path: Path) -> None:
        """Copied under another name and renamed."""
        checked_name(name)
        await self._threads.transfer(lambda stop: self._get(name, path, stop))

    async def beginning(self, name: str, length: int) -> bytes:
        """The first bytes of one."""
        checked_name(name)
        return await self._threads.short(lambda: self._beginning(name, length))

    def local(self, name: str) -> Path | None:
        """The file itself."""
        return self.folder / checked_name(name)

    async def list(self) -> list[Stored]:
        """Every file with a name of ours. A folder of the home that is not there yet is an empty one."""
        return [*await self._threads.listing(self._list)]

    async def delete(self, name: str) -> None:
        """Remove the file."""
        checked_name(name)
        await self._threads.short(lambda: self._delete(name))

    def _put(self, name: str, path: Path, stop: threading.Event) -> None:
        with explained(str(path), writing=False):
            descriptor = _opened(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb") as source, explained(self.address):
            self._make()
            self._clear()
            if not _linked(source, path, self.folder / name):
                _copied(source, self.folder / name, self.folder / f"{_PART}{secrets.token_hex(8)}", stop)

    def _get(self, name: str, path: Path, stop: threading.Event) -> None:
        with self._file(name) as source, explained(str(path.parent)):
            _copied(source, path, part_of(path), stop)

    def _beginning(self, name: str, length: int) -> bytes:
        with self._file(name) as file, explained(self.address, writing=False):
            return file.read(length)

    def _list(self) -> Sequence[Stored]:
        with explained(self.address, writing=False):
            try:
                entries = sorted(os.scandir(self.folder), key=lambda entry: entry.name)
            except FileNotFoundError:
                if self._within is None:
                    # What its disk has, nobody can say.
                    raise
                return []
            return [
                Stored(entry.name, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))
                for entry in entries
                if is_backup_name(entry.name) and (status := _status(Path(entry.path))) is not None
            ]

    def _delete(self, name: str) -> None:
        with explained(self.address):
            try:
                (self.folder / name).unlink()
            except FileNotFoundError:
                return
            _sync_folder(self.folder)

    @contextlib.contextmanager
    def _file(self, name: str) -> Iterator[BinaryIO]:
        with explained(self.address, writing=False):
            try:
                # A link may lead to anything, and a pipe would keep us waiting.
                descriptor = _opened(self.folder / name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            except FileNotFoundError:
                raise not_there(name, self.address) from None
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise not_there(name, self.address)
            yield file

    def _make(self) -> None:
        if not self.folder.is_dir():
            for folder in (*reversed(self.folder.parents), self.folder):
                if folder == self.folder or (self._within is not None and folder.is_relative_to(self._within)):
                    folder.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(self.folder.parent)
        if self._within is not None:
            # Ours alone, also where somebody made it beforehand.
            self.folder.chmod(0o700)

    def _clear(self) -> None:
        """Remove what a kill in the middle of a transfer left behind, which may be as large as a backup."""
        for left in self.folder.glob(f"{_PART}*"):
            with contextlib.suppress(OSError), open(_opened(left, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(file.fileno()).st_mtime > _ABANDONED:
                    left.unlink()


def _opened(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _linked(source: BinaryIO, path: Path, target: Path) -> bool:
    """Whether the target is the source itself now: on one file system, and nobody else's to read or write."""
    found = os.fstat(source.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        return False
    with contextlib.suppress(OSError):
        fcntl.flock(source, fcntl.LOCK_SH | fcntl.LOCK_NB)
    part = target.with_name(f"{_PART}{secrets.token_hex(8)}")
    try:
        os.link(path, part)
    except OSError:
        return False
    try:
        if not os.path.samestat(found, part.lstat()):
            return False
        os.fsync(source.fileno())
        part.replace(target)
        _sync_folder(target.parent)
        return True
    finally:
        part.unlink(missing_ok=True)


def _copied(source: BinaryIO, target: Path, part: Path, stop: threading.Event) -> None:
    """Everything, in a file of its owner alone: on the disk when this returns, or not there."""
    descriptor = _opened(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
    try:
        with open(descriptor, "wb") as file:
            # Not every file system has locks: there, age alone says what is left over.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            while piece := source.read(_PIECE):
                if stop.is_set():
                    raise Stopped
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            part.replace(target)
        _sync_folder(target.parent)
    finally:
        part.unlink(missing_ok=True)


def _status(path: Path) -> os.stat_result | None:
    """Of a plain file; of one that has just gone, or is none, nothing."""
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat()
        return found if stat.S_ISREG(found.st_mode) else None
    return None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
