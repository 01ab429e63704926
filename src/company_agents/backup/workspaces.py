"""
Files that runs are working on, as they are at the moment: into a backup, where somebody asks for them, and out of it into a
folder of its own. The runs are over after a restore; what they had made need not be lost.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from company_agents.backup.archive import WORKSPACES, ArchiveReader, ArchiveWriter, Opened
from company_agents.backup.files import explained
from company_agents.backup.manifest import Manifest, broken
from company_agents.errors import Failed


class _Into(io.RawIOBase):
    """What is written to it becomes part of a member."""

    def __init__(self, archive: ArchiveWriter) -> None:
        self._archive = archive

    def writable(self) -> bool:
        return True

    def write(self, content: bytes) -> int:  # type: ignore[override]
        self._archive.write(content)
        return len(content)


class _From(io.RawIOBase):
    """The pieces of a member, one after the other."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = next(self._pieces, b"")
        some, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(some)] = some
        return len(some)


def add_workspaces(archive: ArchiveWriter, root: Path) -> int:
    """
    The workspace of every run that works below this folder, each as a member: a tar archive. What changes or goes away
    meanwhile is there as it was met, or is not. Returns how many there are.
    """
    found = sorted(root.glob("*/*.*")) if root.is_dir() else []
    for workspace in found:
        archive.begin(f"{WORKSPACES}{workspace.name}")
        # 16 KiB at a time; a name of any length.
        with tarfile.open(fileobj=cast(BinaryIO, _Into(archive)), mode="w|", format=tarfile.PAX_FORMAT) as tar:
            _add_all(tar, workspace)
    return len(found)


def _add_all(tar: tarfile.TarFile, workspace: Path) -> None:
    for path in sorted(workspace.rglob("*")):
        try:
            info = tar.gettarinfo(path, arcname=str(path.relative_to(workspace)))
            if not info.isreg():
                # Folders and links; sockets and pipes are None, or nobody's loss.
                if info.isdir() or info.issym():
                    tar.addfile(info)
                continue
            with path.open("rb") as file:
                content = file.read(info.size)
        except OSError:
            # A run is at work there.
            continue
        info.type, info.linkname, info.size = tarfile.REGTYPE, "", len(content)
        tar.addfile(info, io.BytesIO(content))


def has_workspaces(manifest: Manifest) -> bool:
    """Whether there are any in an archive."""
    return any(member.name.startswith(WORKSPACES) for member in manifest.members)


def extract_workspaces(file: BinaryIO, opened: Opened, folder: Path) -> None:
    """
    Bring them into a fresh folder, each into one of its own. Nothing of them lies outside of it, or is anybody else's.

    Raises:
        Broken: one is not what a workspace is.
        Failed: there is no room.
    """
    sizes = [member.bytes for member in opened.manifest.members if member.name.startswith(WORKSPACES)]
    with explained(folder):
        folder.mkdir(mode=0o700, parents=True)
        if sum(sizes) > shutil.disk_usage(folder).free:
            raise Failed(f"there is no room for {folder}", hint="free some space, then try again", code="disk_full")
        pieces = ArchiveReader(file, opened).pieces()
        item = next(pieces, None)
        while item is not None:
            member = item[0]

            def content() -> Iterator[bytes]:
                nonlocal item
                while item is not None and item[0] is member:  # noqa: B023 — used up before the next
                    yield item[1]
                    item = next(pieces, None)

            if not member.name.startswith(WORKSPACES):
                item = next(pieces, None)
                continue
            name = member.name.removeprefix(WORKSPACES)
            if not name.replace("-", "").replace(".", "").isalnum():
                raise broken("it has a workspace of no run")
            _extract(content(), folder / name)


def _extract(content: Iterator[bytes], folder: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        # Python 3.11.0 to 3.11.3 has no way to do it safely (PEP 706).
        raise Failed("this Python cannot unpack them safely", hint="Python 3.11.4 or later can", code="python_too_old")
    folder.mkdir(mode=0o700)
    stream = io.BufferedReader(cast(io.RawIOBase, _From(content)))
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            # PEP 706: no way out of the folder, no devices, no rights for others, nobody else's.
            tar.extractall(folder, filter="data")
    except tarfile.FilterError:
        raise broken("a workspace in it leads out of its folder") from None
    except tarfile.TarError:
        raise broken("a workspace in it cannot be read") from None
    for _ in content:
        pass
