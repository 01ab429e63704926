"""
Files that an operator drops into a folder: each is read by itself, and a bad one is refused with its line and the reason.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Generic, TypeVar

from company_agents.errors import Failed

# Bytes of one file, and how many are read; the rest is refused, so that a folder of something else costs little.
MOST_BYTES = 64 * 1024
MOST_FILES = 500

T = TypeVar("T")
# What of a file tells that it is another now.
_Seen = tuple[tuple[object, ...], ...]


class BadText(Failed):
    """a text that does not fit; `line` counts from 1, None where no line of it is at fault"""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that was refused: its name, the line where the fault is (from 1), and a sentence."""

    file: str
    reason: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}" if self.line else f"{self.file}: {self.reason}"


@dataclass
class Dropped(Generic[T]):
    """
    The good and the bad files of a folder. It is looked at again at each call, and read again only where a file came,
    went or changed; a folder that is not there is an empty one.

    Args:
        read: makes something of a text, given the file's name; raises BadText.
        refuse: says why a file of this name (without its ending) is not taken, or None.
        only: the one file that is read; None: all of the folder.
    """

    folder: Path
    read: Callable[[str, str], T]
    refuse: Callable[[str], str | None] = lambda _: None
    only: str | None = None
    _seen: _Seen | None = field(default=None, init=False, repr=False)
    _good: Mapping[str, T] = field(default_factory=dict, init=False, repr=False)
    _bad: Sequence[BadFile] = field(default=(), init=False, repr=False)

    def good(self) -> Mapping[str, T]:
        """What was read, by the file's name without its ending."""
        self._look()
        return self._good

    def bad(self) -> Sequence[BadFile]:
        """What was refused, by name."""
        self._look()
        return self._bad

    def _look(self) -> None:
        seen = _seen(self.folder, self.only)
        if seen == self._seen:
            return
        good: dict[str, T] = {}
        bad: list[BadFile] = []
        try:
            names = _names(self.folder, self.only)
        except BadText as error:
            names, bad = [], [BadFile(f"{self.folder.name}/", error.sentence)]
        for number, name in enumerate(names):
            try:
                if number >= MOST_FILES:
                    raise BadText(f"there are more than {MOST_FILES} files in the folder")
                good[name.removesuffix(".toml")] = self._read(name)
            except BadText as error:
                bad.append(BadFile(name, error.sentence, error.line))
        self._good, self._bad, self._seen = MappingProxyType(good), tuple(bad), seen

    def _read(self, name: str) -> T:
        refused = self.refuse(name.removesuffix(".toml"))
        if refused is not None:
            raise BadText(refused)
        content = _content(self.folder, name)
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadText("this is not UTF-8", content.count(b"\n", 0, error.start) + 1) from None
        return self.read(text, name)


def _seen(folder: Path, only: str | None) -> _Seen:
    try:
        names = _listed(folder, only)
    except OSError:
        names = []
    return tuple((name, *_facts(folder / name)) for name in ("", *names))


def _listed(folder: Path, only: str | None) -> list[str]:
    if only is not None:
        return [only] if os.path.lexists(folder / only) else []
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".toml"))


def _facts(path: Path) -> tuple[object, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return (status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_size, *times)


def _names(folder: Path, only: str | None) -> list[str]:
    if only is not None and not os.path.lexists(folder / only):
        return []
    try:
        status = folder.stat()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadText(f"the folder cannot be read: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise BadText("this is not a folder")
    _check_owner(status)
    try:
        return _listed(folder, only)
    except OSError as error:
        raise BadText(f"the folder cannot be read: {error.strerror}") from None


def _content(folder: Path, name: str) -> bytes:
    try:
        path = (folder / name).resolve(strict=True)
        # A link inside of the folder is how some systems lay down files; one out of it could name any file there is.
        if not path.is_relative_to(folder.resolve(strict=True)):
            raise BadText("this is a link out of the folder: put the file itself there")
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BadText(f"the file cannot be read: {error.strerror}") from None
    except RuntimeError:
        raise BadText("this link leads to itself") from None
    try:
        return _read_from(descriptor)
    except OSError as error:
        raise BadText(f"the file cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _read_from(descriptor: int) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise BadText("this is not a file")
    _check_owner(status)
    with open(descriptor, "rb", closefd=False) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise BadText(f"the file is larger than {MOST_BYTES // 1024} KiB")
    return content


def _check_owner(status: os.stat_result) -> None:
    # Whoever can write it chooses where a credential that is connected next goes.
    if status.st_uid not in (0, os.geteuid()):
        raise BadText("it belongs to another user: chown it")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BadText("other users can write to it: chmod go-w")


_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"""\s*((?:"[^"]*"|'[^']*'|[\w-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[\w-]+))*)\s*=""")
_PART = re.compile(r""""([^"]*)"|'([^']*)'|([\w-]+)""")
_Place = tuple[str | int, ...]


def line_of(text: str, place: Sequence[str | int]) -> int | None:
    """
    The line (from 1) of a TOML text where the value at `place` stands: keys, and numbers for the tables of a list. Where
    it does not stand in the text, that of the table which it belongs to; None for one that belongs to none.
    """
    best, length = None, 0
    for line, found in _places(text):
        # The first line that says it: a table's own keys come after its header.
        if len(found) > length and found == tuple(place[: len(found)]):
            best, length = line, len(found)
    return best


def _places(text: str) -> Iterator[tuple[int, _Place]]:
    table: _Place = ()
    tables: dict[_Place, int] = {}
    quotes = ""
    for line, content in enumerate(text.split("\n"), 1):
        inside, quotes = quotes, _still_open(content, quotes)
        if inside:
            continue
        if header := _HEADER.match(content):
            table = _table([*_parts(header[2])], tables, is_listed=header[1] == "[[")
            yield line, table
        elif key := _KEY.match(content):
            yield line, (*table, *_parts(key[1]))


def _table(names: list[str], tables: dict[_Place, int], *, is_listed: bool) -> _Place:
    """The place that a header opens: below the last table of each list that it goes through. `tables` counts those."""
    place: _Place = ()
    for number, name in enumerate(names, 1):
        place = (*place, name)
        if is_listed and number == len(names):
            tables[place] = tables.get(place, -1) + 1
        if place in tables:
            place = (*place, tables[place])
    return place


def _still_open(content: str, quotes: str) -> str:
    """The quotes of a text over many lines that is still open after this line, or none."""
    for found in re.findall(r'"""|\'\'\'', content):
        if not quotes:
            quotes = found
        elif quotes == found:
            quotes = ""
    return quotes


def _parts(dotted: str) -> Iterator[str]:
    for part in _PART.finditer(dotted):
        yield part[1] or part[2] or part[3] or ""
