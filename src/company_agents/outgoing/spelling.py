"""
A text as whoever parses it will read it: escapes undone, lines joined. There are as many spellings of a text as there are
programs that write one.

A text is taken apart from left to right into units. Most are a byte that stands for itself; the others are

    \\u0041 \\x41 %41 &#65; &lt;    for the one character that they stand for, also when escaped several times over:
                                  \\\\u0041, %2541, &amp;lt;, \\u0026lt;
    \\/ \\" \\'                     the same, whatever the number of backslashes
    a line end                    for nothing; also \\n and \\r\\n as JSON has them, and with the `data:` of the next line of a
                                  server-sent event
    an empty line                 for a line end: it ends whatever could be broken into lines

Characters are those of printable ASCII; a unit that stands for another is left as it is.
"""

from __future__ import annotations

import html.entities
import re
from bisect import bisect_right

_ENTITY = rb"(?:amp;)*(?:#0{0,6}+[0-9]{2,3};|#[xX]0{0,6}+[2-7][0-9A-Fa-f];|[A-Za-z]{2,14};)"
_BACKSLASH = rb"(?:\\|%(?:25){0,3}5[Cc])"
_PERCENT = rb"(?:25){0,3}[2-7][0-9A-Fa-f]"

# It begins with a set of bytes, for which the engine looks first; and a run of backslashes or line ends is always a unit
# as a whole, so that none of them is looked at again and again.
_UNIT = re.compile(
    rb"[\\%&\r\n](?:"
    rb"(?:(?<=\\)|(?<=%)(?:25){0,3}5[Cc])" + _BACKSLASH + rb"*+"
    rb"(?:u0026" + _ENTITY + rb"|u00[2-7][0-9A-Fa-f]|x[2-7][0-9A-Fa-f]|[rn/\"']|%(?:25){0,3}2[27Ff])?+"
    rb"|(?<=%)" + _PERCENT + rb"|(?<=&)" + _ENTITY + rb"|(?<=[\r\n])[\r\n]*+(?:data: ?+)?+)"
)
_BACKSLASHES = re.compile(_BACKSLASH + rb"++")
_AMPERSANDS = re.compile(rb"(?:amp;)*+")

# What could be a beginning of a unit, or of a longer one, at the end of a text. Not a bare line end.
_PART_OF_ENTITY = rb"(?:amp;)*(?:#[0-9xXA-Fa-f]{0,12}|[A-Za-z]{0,14})"
_UNFINISHED = re.compile(
    rb"[\\%&\r\n](?:"
    rb"(?:(?<=\\)|(?<=%)(?:25){0,3}5[Cc])" + _BACKSLASH + rb"*+"
    rb"(?:u(?:0(?:0[2-7]?)?)?|x[2-7]?|u0026" + _PART_OF_ENTITY + rb"|%(?:25){0,3}[2-7]?)?"
    rb"|(?<=%)(?:25){0,3}[2-7]?|(?<=&)" + _PART_OF_ENTITY + rb"|(?<=[\r\n])d(?:a(?:t(?:a:?)?)?)?)\Z"
)

# Between any two bytes of which one is of these, a unit ends.
_APART = re.compile(rb"[^A-Za-z0-9\\%&;#/\"': \r\n]")
_SPECIAL = (b"\\", b"%", b"&", b"\r", b"\n")

_LONGEST = 1024
"""Bytes of a unit that is waited for: a longer run of backslashes is no escape."""

_NAMED = {
    name.encode(): character.encode()
    for name, character in html.entities.html5.items()
    if name.endswith(";") and len(character) == 1 and " " <= character <= "~"
}


def has_line_ends(text: bytes) -> bool:
    """Whether something in it stands for nothing."""
    return any(end in text for end in (b"\r", b"\n", b"\\r", b"\\n"))


def is_plain(text: bytes) -> bool:
    """Whether each of its bytes stands for itself."""
    return not any(special in text for special in _SPECIAL)


def read(text: bytes) -> bytes:
    """What a text stands for."""
    return _UNIT.sub(_meaning, text)


def read_roughly(text: bytes) -> bytes:
    """
    Much faster than `read`, and good for one question only. Where this does not hold a string without any of `\\%&;#` and
    spaces, less its first `ROUGH` bytes, `read` does not hold that string.
    """
    if b"%" in text:
        text = _PERCENTS.sub(_last_two, text)
    if b"\\" in text:
        # What is left of a run of backslashes goes with the others below.
        text = _ESCAPED_ENDS.sub(b"", text)
        for introduction, codes in _CODES:
            if introduction in text:
                text = codes.sub(_last_two, text)
    text = text.translate(_ONE_LINE_END, b"\\")
    if b"\n" in text:
        text = text.replace(b"\ndata: ", b"\n").replace(b"\ndata:", b"\n").replace(b"\n", b"")
    return _ENTITIES.sub(_meaning, text) if b"&" in text else text


ROUGH = 6
"""A unit that `read` does not see, begun before a string, may take so many of its bytes (`data: `)."""

# All but spaces, of which addresses are full.
_PERCENTS = re.compile(rb"%(?!20)" + _PERCENT)
_CODES = (
    (b"\\u00", re.compile(rb"\\u00[2-7][0-9A-Fa-f]")),
    (b"\\x", re.compile(rb"\\x[2-7][0-9A-Fa-f]")),
)
_ENTITIES = re.compile(rb"&" + _ENTITY)
_ESCAPED_ENDS = re.compile(rb"\\[nr]")
_ONE_LINE_END = bytes.maketrans(b"\r", b"\n")


def unfinished(text: bytes) -> int:
    """Where, at the end of a text, a unit begins of which more could come; the text's end, where there is none."""
    found = _UNFINISHED.search(text, boundary(text, 64) or max(0, len(text) - _LONGEST))
    return found.start() if found else len(text)


def boundary(text: bytes, size: int) -> int:
    """A place between two units, at least `size` bytes before the end and not far from there; else 0."""
    latest = len(text) - size
    for far in (64, _LONGEST):
        if latest > 0 and (found := _APART.search(text, max(0, latest - far), latest)):
            return found.end()
    return 0


class Places:
    """Where in a text the bytes stand that `read` gives."""

    def __init__(self, text: bytes) -> None:
        # Of each stretch: where it begins in what is read, and in the text; whether each byte stands for itself.
        self._read: list[int] = []
        self._text: list[int] = []
        self._itself: list[bool] = []
        here = there = 0
        for unit in _UNIT.finditer(text):
            self._add(here, there, itself=True)
            here += unit.start() - there
            meant = _meaning(unit)
            self._add(here, unit.start(), itself=meant == unit[0])
            here, there = here + len(meant), unit.end()
        self._add(here, there, itself=True)
        self._text.append(len(text))

    def _add(self, here: int, there: int, *, itself: bool) -> None:
        self._read.append(here)
        self._text.append(there)
        self._itself.append(itself)

    def start(self, at: int) -> int:
        """Where the unit of a byte begins."""
        # Of those that begin there, the last: those before it stand for nothing.
        stretch = bisect_right(self._read, at) - 1
        return self._text[stretch] + (at - self._read[stretch] if self._itself[stretch] else 0)

    def end(self, at: int) -> int:
        """Where the unit of a byte ends."""
        stretch = bisect_right(self._read, at) - 1
        if self._itself[stretch]:
            return self._text[stretch] + at - self._read[stretch] + 1
        return self._text[stretch + 1]


class _Meanings(dict[bytes, bytes]):
    """Of the units that were met before; there are not many different ones."""

    def __missing__(self, unit: bytes) -> bytes:
        meant = _mean(unit)
        if len(unit) <= 16 and len(self) < 4096:
            self[unit] = meant
        return meant


_MEANINGS = _Meanings()


def _meaning(unit: re.Match[bytes]) -> bytes:
    return _MEANINGS[unit[0]]


def _last_two(unit: re.Match[bytes]) -> bytes:
    return bytes.fromhex(unit[0][-2:].decode())


def _mean(unit: bytes) -> bytes:
    if unit[:1] in b"\r\n":
        return b"" if len(re.findall(rb"\r\n|\r|\n", unit)) == 1 else b"\n"
    if run := _BACKSLASHES.match(unit):
        # Backslashes that escape nothing that is known here are themselves.
        return _escaped(unit[run.end() :]) if run.end() < len(unit) else unit
    return _entity(unit) if unit[:1] == b"&" else _hex(unit)


def _escaped(rest: bytes) -> bytes:
    """What follows backslashes."""
    if rest in (b"r", b"n"):
        return b""
    if rest[:1] in (b"u", b"x", b"%"):
        return _entity(b"&" + rest[5:]) if rest[:1] == b"u" and len(rest) > 5 else _hex(rest)
    return rest


def _hex(unit: bytes) -> bytes:
    return bytes([int(unit[-2:], 16)])


def _entity(unit: bytes) -> bytes:
    name = unit[1:]
    # All but the last, where there is nothing else; at one go, since there may be as many as the text has room for.
    found = _AMPERSANDS.match(name)
    assert found is not None
    name = name[found.end() - (4 if found.end() == len(name) else 0) :]
    if name[:1] != b"#":
        return _NAMED.get(name, unit)
    code = int(name[2:-1], 16) if name[1:2] in b"xX" else int(name[1:-1])
    return bytes([code]) if 0x20 <= code < 0x7F else unit
