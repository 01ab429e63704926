"""
Content codings of replies (RFC 9110, 8.4.1), undone piece by piece so that a bomb never unfolds at once; and which
character sets can be searched.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Protocol

PIECE = 32 * 1024
"""The most bytes that one step of decoding puts out: what is searched at one go, while nobody else has a turn."""

_MOST_MEMBERS = 64
"""Members of one gzip reply; each costs a copy of what follows it, so they are counted."""


class Undecodable(Exception):
    """the content is not what its coding says"""


class Truncated(Undecodable):
    """the content ended early"""


class Decoder(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]:
        """What these bytes decode to, in pieces. Raises Undecodable."""

    def finish(self) -> None:
        """The content has ended. Raises Truncated."""


def decoder(codings: Iterable[str]) -> Decoder | None:
    """The decoder for the values of Content-Encoding, or None where the coding is not one of ours."""
    names = [name.strip().lower() for value in codings for name in value.split(",")]
    match [name for name in names if name not in ("", "identity")]:
        case []:
            return _Identity()
        case ["gzip" | "x-gzip"]:
            return _Gzip()
        case ["deflate"]:
            return _Deflate()
    return None


_CHARSET = re.compile(r"""charset\s*=\s*["']?([^\s"',;]+)""", re.IGNORECASE)
_ASCII = bytes(range(0x20, 0x7F))
# ASCII within, and unknown to Python by these names.
_ASCII_TOO = frozenset({"binary", "utf8mb4", "windows-31j", "x-sjis"})


def keeps_ascii(content_types: Iterable[str]) -> bool:
    """
    Whether ASCII is written as itself in what these values of Content-Type declare. Else (UTF-16, EBCDIC) a credential
    would be in the reply as other bytes than are searched for; and many frameworks write in whatever character
    set the caller asks for. One that is not known is no better.
    """
    names = {name.lower() for value in content_types for name in _CHARSET.findall(value)}
    return all(map(_is_ascii_within, names - _ASCII_TOO))


def _is_ascii_within(charset: str) -> bool:
    try:
        return _ASCII.decode(charset) == _ASCII.decode("ascii")
    except (LookupError, ValueError):
        return False


class _Identity:
    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def finish(self) -> None:
        pass


class _Inflating:
    """
    Shared by both: inflate one stream in bounded pieces and say what followed it.
    """

    def __init__(self) -> None:
        self._stream: zlib._Decompress | None = None

    def _inflate(self, data: bytes) -> Iterator[bytes]:
        stream = self._stream
        if stream is None:
            return
        full = True
        # A full piece may have left output behind inside of zlib although all input is taken.
        while (data or full) and not stream.eof:
            try:
                piece = stream.decompress(data, PIECE)
            except zlib.error as exc:
                raise Undecodable("the content is not what its coding says") from exc
            if piece:
                yield piece
            data, full = stream.unconsumed_tail, len(piece) == PIECE

    def finish(self) -> None:
        if self._stream is not None and not self._stream.eof:
            raise Truncated("the content ended early")


class _Gzip(_Inflating):
    """RFC 1952: one member or several in a row."""

    def __init__(self) -> None:
        super().__init__()
        self._members = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._stream is None or self._stream.eof:
                self._begin_member()
            yield from self._inflate(data)
            data = self._stream.unused_data if self._stream else b""

    def _begin_member(self) -> None:
        self._members += 1
        if self._members > _MOST_MEMBERS:
            raise Undecodable("the content has too many members")
        self._stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)


class _Deflate(_Inflating):
    """RFC 1950 as the standard says, or bare RFC 1951 as some servers do."""

    def __init__(self) -> None:
        super().__init__()
        self._start = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._stream is None:
            data = self._start = self._start + data
            if len(data) < 2:
                return
            zlib_header = data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0
            self._stream = zlib.decompressobj(wbits=zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS)
        yield from self._inflate(data)
        if self._stream.unused_data:
            raise Undecodable("something follows the content")

    def finish(self) -> None:
        if self._stream is None and self._start:
            raise Truncated("the content ended early")
        super().finish()
