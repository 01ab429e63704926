"""
A sink that is a file of this machine: lines are only ever added, and what stands in it says how far the chains have left.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from company_agents.audit.lines import AGAIN, EVENT, MOST_LINE, read_line
from company_agents.audit.log import SinkDown
from company_agents.db.database import Row
from company_agents.outbox.source import Left, Part, Source

# How long another process may be at it (seconds).
LOCK_TIME = 5.0
# As often it may have been replaced between its opening and the look at it.
MOST_OPENED = 10
# About as many lines are written at once.
MOST_LINES = 5000
_OPEN = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# What a line begins with, and so what is left of one that was being written when its writer was killed.
_BEGINNING = b'{"kind":"'


class FileSink:
    """
    Several processes may write to one file, one after the other. It is opened for each writing: one that was put in its
    place meanwhile is found, and gets the chains from their first event.
    """

    def __init__(self, source: Source, path: Path) -> None:
        self._source = source
        self._path = path
        self._left: dict[UUID, Left] = {}
        self._read = 0
        self._identity: tuple[int, int] | None = None
        self._lines = 0

    async def behind(self, ends: list[Row]) -> set[UUID]:
        """The chains of which something is to leave, or which do not end where they left."""
        return {row["chain"] for row in ends if self._left.get(row["chain"]) != Left(row["seq"], row["mac"])}

    async def ship(self, chains: Iterable[UUID]) -> tuple[dict[UUID, int], set[UUID]]:
        """
        Write what is to leave of these chains, all with one write to the disk. Returns up to which event each has left, and
        those of which there is more.

        Raises:
            SinkDown: it could not be written; what stands in the file is whole.
        """
        fd = await asyncio.to_thread(self._open)
        try:
            parts: list[Part] = []
            later = sorted(chains, reverse=True)
            while later and sum(len(part.lines) for part in parts) < MOST_LINES:
                part = await self._part(later.pop())
                if part is not None:
                    parts.append(part)
            if parts:
                await asyncio.to_thread(self._append, fd, parts)
        finally:
            os.close(fd)
        # Of those that had no turn nobody has looked whether the chain still goes on from what left of it.
        reached = {chain: self._left[chain].seq for chain in chains if chain in self._left and chain not in later}
        return reached, {part.chain for part in parts if part.more} | set(later)

    async def close(self) -> None:
        """Nothing is held open."""

    async def _part(self, chain: UUID) -> Part | None:
        async with self._source.db.transaction(self._source.scope(chain)) as tx:
            return await self._source.part(tx, chain, self._left.get(chain, Left()))

    def _open(self) -> int:
        """The file, held against other writers, read up to its end."""
        try:
            for _ in range(MOST_OPENED):
                fd = os.open(self._path, _OPEN, 0o600)
                try:
                    self._hold(fd)
                    if self._is_still(fd):
                        self._catch_up(fd)
                        return fd
                except BaseException:
                    os.close(fd)
                    raise
                os.close(fd)
        except OSError as error:
            raise _down(self._path, error) from error
        raise SinkDown(f"the audit sink {self._path} is replaced again and again", hint="see what does that")

    def _hold(self, fd: int) -> None:
        until = time.monotonic() + LOCK_TIME
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise SinkDown(f"another process holds the audit sink {self._path}") from None
                time.sleep(0.01)

    def _is_still(self, fd: int) -> bool:
        """Whether it is what stands there, and a file of ours that nobody else can write to."""
        opened = os.fstat(fd)
        try:
            now = self._path.lstat()
        except FileNotFoundError:
            return False
        if (now.st_dev, now.st_ino) != (opened.st_dev, opened.st_ino):
            return False
        if not stat.S_ISREG(opened.st_mode) or opened.st_nlink != 1:
            raise SinkDown(f"the audit sink {self._path} is not a file with one name", hint="name another one")
        if opened.st_uid != os.geteuid() or opened.st_mode & 0o022:
            raise SinkDown(
                f"the audit sink {self._path} can be written by others than us",
                hint=f"chown {os.geteuid()} {self._path}; chmod go-w {self._path}",
            )
        if self._identity != (opened.st_dev, opened.st_ino) or opened.st_size < self._read:
            self._left, self._read, self._lines = {}, 0, 0
            self._identity = (opened.st_dev, opened.st_ino)
            # The name of a new file has to outlive a crash, too.
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return True

    def _catch_up(self, fd: int) -> None:
        """Read what was added since, by whomever; end, or take away, a line that its writer did not finish."""
        foreign, torn = 0, b""
        with open(os.dup(fd), "rb") as file:
            file.seek(self._read)
            while text := file.readline(MOST_LINE):
                torn += text[: len(_BEGINNING)] if not torn else b""
                if not text.endswith(b"\n"):
                    continue
                line = read_line(text)
                self._lines += line is not None
                foreign += line is None
                if line is not None and line.kind == EVENT:
                    self._left[line.chain] = Left(line.seq, line.mac)
                elif line is not None and line.kind == AGAIN:
                    self._left[line.chain] = Left()
                self._read, torn = file.tell(), b""
        if not self._lines and (foreign or (torn and not _BEGINNING.startswith(torn))):
            self._identity = None
            raise SinkDown(f"{self._path} is something else than an audit sink", hint="name a file of its own")
        if torn:
            self._heal(fd)

    def _heal(self, fd: int) -> None:
        try:
            os.ftruncate(fd, self._read)
        except PermissionError:
            # A file to which only can be added: the rest of the line stays, as a line of its own that says nothing.
            os.write(fd, b"\n")
            self._read = os.fstat(fd).st_size

    def _append(self, fd: int, parts: list[Part]) -> None:
        data = "".join(line for part in parts for line in part.lines).encode()
        try:
            written = 0
            while written < len(data):
                written += os.write(fd, data[written:])
            os.fsync(fd)
        except OSError as error:
            # What was written of it is taken away again; where that does not go either, the next writing heals it.
            with contextlib.suppress(OSError):
                os.ftruncate(fd, self._read)
            self._identity = None
            raise _down(self._path, error) from error
        self._read += len(data)
        self._lines += 1
        self._left.update({part.chain: part.end for part in parts})


def _down(path: Path, error: OSError) -> SinkDown:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SinkDown(f"the disk of the audit sink {path} is full", hint="make room there")
    if error.errno == errno.ELOOP:
        return SinkDown(f"the audit sink {path} is a symbolic link", hint="name the file itself")
    return SinkDown(
        f"the audit sink {path} cannot be written: {os.strerror(error.errno or 0).lower()}",
        hint="check the folder, its owner and its mode",
    )
