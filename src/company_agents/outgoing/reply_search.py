"""
Replies are searched for the credential's own bytes in their common encodings, as they stream.

This is a second net. A provider that transforms what it was given in another way (compresses it,
cuts it, writes it backwards) can still echo it; the first net is that the credential goes to
nobody else.
"""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from urllib.parse import quote_from_bytes

from company_agents.errors import WrongUsage
from company_agents.sensitive import Sensitive

REMOVED = b"[credential removed]"

SHORTEST = 8
"""Bytes; anything shorter would be found by chance."""


def encodings(value: bytes) -> tuple[bytes, ...]:
    """
    What `value` looks like in its common encodings, longest first.

    Plain; hex; base64, standard and URL-safe, also in the middle of a longer text; each of these
    percent-encoded, JSON-escaped and HTML-escaped the way common libraries do it, or in UTF-16; and the
    plain value with every byte percent-encoded and every character as `\\uXXXX`.

    Raises:
        WrongUsage: `value` is shorter than eight bytes.
    """
    if len(value) < SHORTEST:
        raise WrongUsage(f"a value under {SHORTEST} bytes cannot be searched for")
    forms = {value, value.hex().encode(), value.hex().upper().encode(), *_base64(value)}
    forms.update([other for form in forms for other in (*_escaped(form), _wide(form))])
    forms.update(_escaped_throughout(value))
    # Not a form of its own: what is found without it leaves "=" behind.
    forms.update((b64encode(value), urlsafe_b64encode(value)))
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))


def _base64(value: bytes) -> Iterator[bytes]:
    """
    `value` by itself, and what is the same of it wherever in a longer base64 text it stands.

    A character holds six bits. With 0, 1 or 2 bytes before the value, those characters are kept
    that hold bits of the value only.
    """
    for form in (b64encode(value).rstrip(b"="), *(_middle(value, before) for before in (0, 1, 2))):
        yield form
        yield form.translate(_URL_SAFE)


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def _middle(value: bytes, before: int) -> bytes:
    first_bit, end_bit = 8 * before, 8 * (before + len(value))
    return b64encode(bytes(before) + value)[-(-first_bit // 6) : end_bit // 6]


def _wide(form: bytes) -> bytes:
    """ASCII in UTF-16, of either byte order: both have this in the middle."""
    return b"\0".join(bytes([byte]) for byte in form)


_NEVER_ESCAPED = re.compile(rb"[A-Za-z0-9._-]+")


def _escaped(form: bytes) -> Iterator[bytes]:
    """`form` as libraries escape it, each with its own idea of what needs it."""
    if _NEVER_ESCAPED.fullmatch(form):
        return
    yield from _percent_encoded(form)
    try:
        text = form.decode()
    except UnicodeDecodeError:
        return
    yield from _json_escaped(text)
    yield from _html_escaped(text)


# Left alone by: RFC 3986 · Python · JavaScript's encodeURIComponent and encodeURI · Go's PathEscape · HTML forms
_LEFT_ALONE = ("", "/", "!*'()", ";,/?:@&=+$!*'()#", "$&+=:@", "*")


def _percent_encoded(form: bytes) -> Iterator[bytes]:
    present = set(form.decode("latin-1"))
    for safe in {"".join(char for char in safe if char in present) for safe in _LEFT_ALONE}:
        strict = quote_from_bytes(form, safe=safe).encode()
        for upper in {strict, strict.replace(b"~", b"%7E")}:
            for cased in {upper, _lower_escapes(upper)}:
                yield cased
                yield cased.replace(b"%20", b"+")


def _lower_escapes(text: bytes) -> bytes:
    return re.sub(rb"%[0-9A-F]{2}", lambda found: found[0].lower(), text)


# Beyond what JSON demands: nothing · Go, Rails · PHP with JSON_HEX_* · .NET · Gson · JavaScript for use in a page
_ESCAPED_TOO = ("", "<>&", "<>&'", "<>&'+`", "<>&'=", "<>/")


def _json_escaped(text: str) -> Iterator[bytes]:
    present = set(text)
    for base in {json.dumps(text, ensure_ascii=only_ascii)[1:-1] for only_ascii in (True, False)}:
        for characters in {"".join(char for char in more if char in present) for more in _ESCAPED_TOO}:
            form = base.translate({ord(char): f"\\u{ord(char):04x}" for char in characters})
            for quoted in {form, form.replace('\\"', "\\u0022")}:
                for slashed in {quoted, quoted.replace("/", "\\/")}:
                    yield slashed.encode()
                    yield _upper_escapes(slashed).encode()


def _upper_escapes(text: str) -> str:
    return re.sub(r"\\u[0-9a-f]{4}", lambda found: "\\u" + found[0][2:].upper(), text)


# Python · PHP, Django before 3 · Go · JavaScript's mustache
_ENTITIES = (
    {'"': "&quot;", "'": "&#x27;"},
    {'"': "&quot;", "'": "&#039;"},
    {'"': "&quot;", "'": "&#39;"},
    {'"': "&quot;", "'": "&apos;"},
    {'"': "&#34;", "'": "&#39;"},
    {'"': "&#34;", "'": "&#39;", "+": "&#43;"},
    {'"': "&quot;", "'": "&#39;", "/": "&#x2F;", "`": "&#x60;", "=": "&#x3D;"},
)


def _html_escaped(text: str) -> Iterator[bytes]:
    base = html.escape(text, quote=False)
    yield base.encode()
    for entities in _ENTITIES:
        yield base.translate({ord(char): entity for char, entity in entities.items()}).encode()


def _escaped_throughout(value: bytes) -> Iterator[bytes]:
    percents = "%" + value.hex("%")
    yield percents.encode()
    yield percents.upper().encode()
    try:
        units = value.decode().encode("utf-16-be").hex(" ", 2)
    except UnicodeDecodeError:
        return
    yield ("\\u" + units.replace(" ", "\\u")).encode()
    yield ("\\u" + units.upper().replace(" ", "\\u")).encode()


_LINE_END = rb"(?:\r?\n|(?:\\r)?\\n)?"

_HEAD = 8
"""Bytes of a pattern that a search in C looks for before Python looks closer; every pattern has them."""


class Patterns:
    """
    What is searched for, prepared once per call and shared by the searches of headers and body.
    """

    __slots__ = ("base64", "heads", "patterns", "starts")

    def __init__(self, values: Iterable[Sensitive]) -> None:
        values = tuple(values)
        found = {form for value in values for form in encodings(value.reveal())}
        self.base64 = tuple(
            sorted({form for value in values for form in _base64(value.reveal())}, key=len, reverse=True)
        )
        self.patterns = tuple(sorted(found, key=len, reverse=True))
        self.heads = tuple((pattern[:_HEAD], pattern) for pattern in self.patterns)
        self.starts = frozenset(pattern[:length] for pattern in self.patterns for length in range(1, _HEAD))


class Searcher:
    """
    Removes the patterns from a stream of bytes, in one pass and with the same result for any chunking.

    The match that starts earliest counts, and of those the longest. What is held back between
    chunks is the shortest suffix outside of which nothing can still turn out to be a match.
    """

    def __init__(self, patterns: Patterns) -> None:
        self.hits = 0
        self._patterns = patterns
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Take more; return what is safe to release."""
        return self._search(self._held + chunk, final=False)

    def finish(self) -> bytes:
        """The stream has ended: return the rest."""
        return self._search(self._held, final=True)

    def scrub(self, text: bytes) -> bytes:
        """A whole text, apart from the stream; its hits are counted with the others."""
        other = Searcher(self._patterns)
        clean = other._search(text, final=True)
        self.hits += other.hits
        return clean

    def scrub_wrapped(self, text: bytes) -> bytes:
        """
        A whole text, in which base64 was broken into lines, as MIME has it and Ruby and Python do; also where the text is
        JSON, and the line ends are `\\n`.
        """
        joined = text
        for line_end in (b"\r", b"\n", b"\\r", b"\\n"):
            joined = joined.replace(line_end, b"")
        if len(joined) == len(text):
            return text
        for form in self._patterns.base64:
            if form in joined:
                broken = _LINE_END.join(re.escape(bytes([byte])) for byte in form)
                text, hits = re.subn(broken, REMOVED, text)
                self.hits += hits
        return text

    def _search(self, text: bytes, *, final: bool) -> bytes:
        matches = _Matches(self._patterns.patterns, text)
        released: list[bytes] = []
        done = 0
        undecided = len(text) if final else self._undecided(text, done)
        while (match := matches.first(done)) and match[0] < undecided:
            released += (text[done : match[0]], REMOVED)
            done = match[1]
            self.hits += 1
            if not final and undecided < done:
                undecided = self._undecided(text, done)
        released.append(text[done:undecided])
        self._held = text[undecided:]
        return b"".join(released)

    def _undecided(self, text: bytes, done: int) -> int:
        """The first place from `done` on where a match could begin that this text does not show the end of."""
        end = len(text)
        earliest = end
        for length in range(1, min(_HEAD, end - done + 1)):
            if text[end - length :] in self._patterns.starts:
                earliest = end - length
        rest = memoryview(text)
        for head, pattern in self._patterns.heads:
            at = text.find(head, max(done, end - len(pattern) + 1))
            while -1 < at < earliest:
                if pattern.startswith(rest[at:]):
                    earliest = at
                    break
                at = text.find(head, at + 1)
        return earliest


class _Matches:
    """
    The matches in one text. Each pattern's next place is remembered until it is passed, so that the
    text is scanned once per pattern however many matches there are.
    """

    def __init__(self, patterns: tuple[bytes, ...], text: bytes) -> None:
        self._text = text
        self._next = [(at, pattern) for pattern in patterns if (at := text.find(pattern)) != -1]

    def first(self, done: int) -> tuple[int, int] | None:
        """Start and end of the first match at or after `done`, the longest of those that start there."""
        if not self._next:
            return None
        if any(at < done for at, _ in self._next):
            again = ((at if at >= done else self._text.find(pattern, done), pattern) for at, pattern in self._next)
            self._next = [(at, pattern) for at, pattern in again if at != -1]
        if not self._next:
            return None
        start, pattern = min(self._next, key=lambda place: (place[0], -len(place[1])))
        return start, start + len(pattern)
