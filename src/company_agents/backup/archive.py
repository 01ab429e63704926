"""
The file itself: a tar archive, compressed with zstd, with the manifest first. docs/spec/backup.md is the specification.

Tables are of a size that nobody knows before they are read. So each is written in pieces, each a member of its own; and
for the manifest, which has the checksums, room is left at the beginning: a zstd frame that tools skip fills what it
does not need.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

from company_agents.backup.manifest import Broken, Manifest, Member, broken, read_manifest

# Bytes of a member that are gathered before they become a piece; and what a piece may have when it is read back, which is
# more, because a row is never divided.
PIECE = 1024 * 1024
MOST_PIECE = 64 * 1024 * 1024
# Room for manifest and signature, compressed. A manifest grows with the number of tables and keys, not with the rows.
FRONT = 64 * 1024
MOST_MANIFEST = 4 * 1024 * 1024
# More than rows of any kind have; an archive that unpacks to more was not made by us.
MOST_RATIO = 1000
# RFC 8878, 3.1.2: a frame that decompressors skip; its length follows, little-endian.
_SKIPPED = 0x184D2A50
_FRAME, _FRAME_HEADER, _CHECKSUM = b"\x28\xb5\x2f\xfd", 18, 4
_BLOCK = tarfile.BLOCKSIZE
_END = b"\0" * (2 * _BLOCK)
# RFC 8878, 3.1.1.1.2: 8 MiB is what every decoder should take; ours never ask for more.
_WINDOW = 8 * 1024 * 1024
_READ = 1024 * 1024

WORKSPACES = "workspaces/"
MANIFEST, SIGNATURE, RING, HEADS = "manifest.json", "manifest.mac", "keyring.age", "heads.jsonl"


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _padding(size: int) -> bytes:
    return b"\0" * (-size % _BLOCK)


def _entry(name: str, content: bytes) -> bytes:
    return _header(name, len(content)) + content + _padding(len(content))


class Unreadable(Broken):
    """it cannot be read"""

    code = "backup_unreadable"


@dataclass
class _Open:
    """A member that is being written."""

    name: str
    columns: tuple[str, ...]
    rows: int = 0
    pieces: int = 0
    bytes: int = 0

    def __post_init__(self) -> None:
        self.gathered = bytearray()
        self.digest = hashlib.sha256()


class ArchiveWriter:
    """
    Writes one archive into a fresh file that can be sought in. Blocks; nothing is on the disk before `finish` returns.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._file.write(b"\0" * FRONT)
        # Of the compressor's own threads: what reads the database goes on meanwhile.
        compressor = zstandard.ZstdCompressor(level=3, write_checksum=True, threads=1)
        self._out = compressor.stream_writer(file, closefd=False)
        self._member: _Open | None = None
        self._members: list[Member] = []

    def begin(self, name: str, columns: tuple[str, ...] = ()) -> None:
        """Begin a member; the one before it is ended."""
        self._end_member()
        self._member = _Open(name, columns)

    def write(self, content: bytes | memoryview, rows: int = 0) -> None:
        """Add to the member; a piece ends only between two calls."""
        member = self._member
        assert member is not None
        member.gathered += content
        member.rows += rows
        if len(member.gathered) >= PIECE:
            self._piece(member)

    def add(self, name: str, content: bytes) -> None:
        """A member that is here whole, and is to be one piece under its own name."""
        self.begin(name)
        self.write(content)
        self._end_member()

    def members(self) -> tuple[Member, ...]:
        """What was written; the last member is ended."""
        self._end_member()
        return tuple(self._members)

    def finish(self, manifest: bytes, signature: bytes | None) -> None:
        """Put the manifest into its place, and everything on the disk."""
        self._end_member()
        self._out.write(_END)
        self._out.close()  # type: ignore[no-untyped-call]
        front = _entry(MANIFEST, manifest) + (_entry(SIGNATURE, signature) if signature else b"")
        frame = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(front)
        room = FRONT - len(frame) - 8
        if room < 0:
            raise ValueError("the manifest does not fit into its place")
        end = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        self._file.write(frame + struct.pack("<II", _SKIPPED, room))
        self._file.flush()
        self._file.seek(end)
        os.fsync(self._file.fileno())

    def _end_member(self) -> None:
        if (member := self._member) is None:
            return
        if member.gathered or not member.pieces:
            self._piece(member)
        self._members.append(
            Member(
                *(member.name, member.pieces, member.bytes, member.digest.hexdigest()),
                rows=member.rows,
                columns=member.columns,
            )
        )
        self._member = None

    def _piece(self, member: _Open) -> None:
        member.pieces += 1
        member.bytes += len(member.gathered)
        member.digest.update(member.gathered)
        self._out.write(_header(piece_name(member.name, member.pieces), len(member.gathered)))
        self._out.write(member.gathered)
        self._out.write(_padding(len(member.gathered)))
        member.gathered = bytearray()


def piece_name(member: str, number: int) -> str:
    """Under which name a piece stands: those of a table are numbered from 1, and what is whole has its own name."""
    return f"{member}/{number:08}" if "/" in member else member


@dataclass(frozen=True, slots=True)
class Opened:
    """The beginning of an archive: its manifest, the exact text of that, and its signature, if there is one."""

    manifest: Manifest
    text: bytes
    signature: bytes | None
    size: int


def open_archive(file: BinaryIO, size: int | None = None) -> Opened:
    """
    Read the beginning; `size` is that of the whole (bytes), where only the beginning is here.

    Raises:
        Broken: this is no archive of ours, or its beginning is damaged.
        Newer: it is of a later format.
    """
    try:
        file.seek(0)
        front = file.read(FRONT)
    except OSError as error:
        raise _unreadable("the backup", error) from error
    if len(front) < FRONT:
        raise broken("it is too short to be one")
    try:
        if not 0 < zstandard.get_frame_parameters(front).content_size <= MOST_MANIFEST:
            raise broken("it does not begin with a manifest")
        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        # No more than it says. The second time is for what follows the frame, which the first does not tell.
        blocks = decompressor.decompress(front)
        part = decompressor.decompressobj()
        part.decompress(front)
        _check_room(part.unused_data)
    except zstandard.ZstdError:
        raise broken("it does not begin as one") from None
    entries = dict(_entries(blocks))
    if MANIFEST not in entries or set(entries) - {MANIFEST, SIGNATURE}:
        raise broken("it does not begin with a manifest")
    text = entries[MANIFEST]
    if size is None:
        size = file.seek(0, os.SEEK_END)
        _check_end(file, size)
    manifest = read_manifest(text)
    # What runs have made may be anything; there, the room on the disk is looked at.
    if sum(each.bytes for each in manifest.members if not each.name.startswith(WORKSPACES)) > MOST_RATIO * size:
        raise broken("it says that it unpacks to more than it can hold")
    return Opened(manifest, text, entries.get(SIGNATURE), size)


def _check_room(rest: bytes) -> None:
    if len(rest) < 8 or struct.unpack("<II", rest[:8]) != (_SKIPPED, len(rest) - 8) or any(rest[8:]):
        raise broken("the room behind its manifest is not as it was left")


def _entries(blocks: bytes) -> Iterator[tuple[str, bytes]]:
    place, seen = 0, set()
    while place < len(blocks):
        name, size = _parsed(blocks[place : place + _BLOCK])
        if name in seen:
            raise broken(f"the member {name} is there twice")
        seen.add(name)
        content = blocks[place + _BLOCK : place + _BLOCK + size]
        if len(content) != size:
            raise broken("it ends too early")
        end = place + _BLOCK + size
        place = end + len(_padding(size))
        if blocks[end:place].strip(b"\0"):
            raise broken(f"there is something behind {name}")
        yield name, content


def _parsed(block: bytes) -> tuple[str, int]:
    """The name and size that a header says. Only plain files: no link, no folder, no name that is not ours."""
    try:
        # One block only: `tarfile` itself would follow extended headers, and keep whatever they hold in memory.
        info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.TarError, UnicodeError):
        raise broken("a header of a member is damaged") from None
    if info.type != tarfile.REGTYPE or info.linkname or not 0 <= info.size <= MOST_PIECE:
        raise broken("it has a member that is no plain file of a size of ours")
    return info.name, info.size


class ArchiveReader:
    """
    Reads what follows the manifest, once, from the first member to the last. Nothing that it yields may be used for good
    before the last: only then is it known that all of it is whole.
    """

    def __init__(self, file: BinaryIO, opened: Opened) -> None:
        self.manifest = opened.manifest
        self.size = opened.size
        self._file = file
        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        self._in = decompressor.stream_reader(file, read_size=_READ, closefd=False)

    @property
    def done(self) -> int:
        """How many bytes of the file were read."""
        return self._file.tell()

    def pieces(self) -> Iterator[tuple[Member, bytes]]:
        """
        Every piece with its member, in order.

        Raises:
            Broken: something is not as the manifest says; or the file ends, or does not.
        """
        try:
            self._file.seek(FRONT)
            for member in self.manifest.members:
                yield from self._pieces_of(member)
            self._at_end()
        except zstandard.ZstdError:
            raise broken("what it holds is damaged") from None
        except OSError as error:
            raise _unreadable("the backup", error) from error

    def _pieces_of(self, member: Member) -> Iterator[tuple[Member, bytes]]:
        digest, length, rows = hashlib.sha256(), 0, 0
        for number in range(1, member.pieces + 1):
            name, size = _parsed(self._exactly(_BLOCK))
            if name != piece_name(member.name, number):
                raise broken(f"where {piece_name(member.name, number)} should stand, there is something else")
            length += size
            if length > member.bytes:
                raise broken(f"{member.name} is longer than its manifest says")
            content = self._exactly(size)
            if self._exactly(len(_padding(size))).strip(b"\0"):
                raise broken(f"there is something behind {name}")
            digest.update(content)
            if member.columns:
                rows += content.count(b"\n")
                # COPY writes neither a part of a row nor a carriage return.
                if (content and not content.endswith(b"\n")) or b"\r" in content:
                    raise broken(f"{name} holds something that is no row")
            yield member, content
        if length != member.bytes or digest.hexdigest() != member.sha256:
            raise broken(f"{member.name} is not what was written")
        if rows != member.rows:
            raise broken(f"{member.name} has not as many rows as its manifest says")

    def _exactly(self, size: int) -> bytes:
        content = bytearray()
        while len(content) < size:
            # A frame that ends early is no error to the library: it just has no more.
            some = self._in.read(size - len(content))
            if not some:
                raise broken("it ends too early")
            content += some
        return bytes(content)

    def _at_end(self) -> None:
        if self._exactly(len(_END)) != _END or self._in.read(1):
            raise broken("it goes on where it should end")


def _check_end(file: BinaryIO, size: int) -> None:
    """
    See that the frame behind the beginning ends where the file does (RFC 8878, 3.1.1): the library says nothing of what is
    behind a frame, or of an end that is missing.
    """
    file.seek(FRONT)
    head = file.read(_FRAME_HEADER)
    if not head.startswith(_FRAME):
        raise broken("what it holds is damaged")
    place, last = FRONT + zstandard.frame_header_size(head), False
    while not last:
        file.seek(place)
        block = int.from_bytes(file.read(3), "little")
        last = bool(block & 1) or place >= size
        # One byte that is repeated; else as many as it says.
        place += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
    place += _CHECKSUM if zstandard.get_frame_parameters(head).has_checksum else 0
    if place != size:
        raise broken("it ends too early" if place > size else "it goes on where it should end")


def opened_file(path: Path) -> BinaryIO:
    """
    A file, opened for reading.

    Raises:
        Unreadable: it cannot be.
    """
    try:
        return open(path, "rb", opener=_opened_plain)
    except OSError as error:
        raise _unreadable(str(path), error) from error


def _opened_plain(name: str, flags: int) -> int:
    # Without waiting for who writes into a pipe.
    descriptor = os.open(name, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no file")
    return descriptor


def _unreadable(what: str, error: OSError) -> Unreadable:
    return Unreadable(
        f"{what} cannot be read: {(error.strerror or 'input/output error').lower()}", hint="name the backup's file"
    )
