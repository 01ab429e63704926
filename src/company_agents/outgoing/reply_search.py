"""
Replies are searched for the credential's own bytes in their common encodings, as they stream.

This is a second net. A provider that transforms what it was given in another way (compresses it,
deals it out in parts, writes it backwards) can still echo it; the first net is that the credential
goes to nobody else.
"""

from __future__ import annotations

import hmac
import html
import json
import re
import secrets
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from urllib.parse import quote_from_bytes
from weakref import WeakValueDictionary

from company_agents.errors import WrongUsage
from company_agents.outgoing.as_read import AsRead, ReadForms
from company_agents.outgoing.forms import SHORTEST, Forms
from company_agents.sensitive import Sensitive

__all__ = ["REMOVED", "SHORTEST", "Patterns", "Searcher", "encodings"]

REMOVED = b"[credential removed]"


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
    forms = set(_unescaped(value))
    forms.update([other for form in forms for other in (*_escaped(form), _wide(form))])
    forms.update(_escaped_throughout(value))
    forms.update(_padded(value))
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))


def _unescaped(value: bytes) -> Iterator[bytes]:
    """Plain, hex, base64."""
    yield from (value, value.hex().encode(), value.hex().upper().encode())
    yield from _base64(value)


def _base64(value: bytes) -> Iterator[bytes]:
    """
    `value` by itself, and what is the same of it wherever in a longer base64 text it stands.

    A character holds six bits. With 0, 1 or 2 bytes before the value, those characters are kept
    that hold bits of the value only.
    """
    for form in (b64encode(value).rstrip(b"="), *(_middle(value, before) for before in (0, 1, 2))):
        yield form
        yield form.translate(_URL_SAFE)


def _padded(value: bytes) -> tuple[bytes, bytes]:
    # Not forms of their own: what is found without it leaves "=" behind.
    return b64encode(value), urlsafe_b64encode(value)


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def _middle(value: bytes, before: int) -> bytes:
    first_bit, end_bit = 8 * before, 8 * (before + len(value))
    return b64encode(bytes(before) + value)[-(-first_bit // 6) : end_bit // 6]


def _wide(form: bytes) -> bytes:
    """ASCII in UTF-16, of either byte order: both have this in the middle."""
    return form.decode("latin-1").encode("utf-16-le")[:-1]


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


class Patterns:
    """
    What is searched for, prepared once and shared by the searches of headers and body, and by all calls that hold the same
    values at once; see `shared`.
    """

    __slots__ = ("__weakref__", "as_read", "written")

    def __init__(self, values: Iterable[Sensitive]) -> None:
        revealed = [value.reveal() for value in values]
        self.written = Forms(form for value in revealed for form in encodings(value))
        self.as_read = ReadForms(form for value in revealed for form in (*_unescaped(value), *_padded(value)))

    @classmethod
    def shared(cls, values: Iterable[Sensitive]) -> Patterns:
        """Those of a call that goes on with these values, or new ones. With the last of such calls they are forgotten."""
        values = tuple(values)
        named = hmac.new(_NAMING, digestmod="sha256")
        for value in values:
            named.update(len(value).to_bytes(8, "big") + value.reveal())
        found = _live.get(named.digest())
        if found is None:
            found = _live[named.digest()] = cls(values)
        return found

    def may_be_in(self, text: bytes) -> bool:
        """Whether it is worth to search a whole text; for most this is the cheapest way to say no."""
        return any(form in text for form in self.written.all) or self.as_read.may_be_in(text)


_live: WeakValueDictionary[bytes, Patterns] = WeakValueDictionary()
# Of this process alone: what they are found by says nothing of the values.
_NAMING = secrets.token_bytes(32)


class Searcher:
    """
    Removes the patterns from a stream of bytes, in one pass and with the same result for any chunking: first as they are
    written, and what is left of the stream as it is read.

    What is held back between chunks is the shortest suffix outside of which nothing can still turn out to be a match.
    """

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self._written = _AsWritten(patterns.written)
        self._read = AsRead(patterns.as_read, REMOVED)
        self._apart = 0

    @property
    def hits(self) -> int:
        """In how many places something was removed."""
        return self._written.hits + self._read.hits + self._apart

    def feed(self, chunk: bytes) -> bytes:
        """Take more; return what is safe to release."""
        return self._read.feed(self._written.feed(chunk))

    def finish(self, last: bytes = b"") -> bytes:
        """The stream has ended, with this: return the rest."""
        return self._read.finish(self._written.finish(last))

    def scrub(self, text: bytes) -> bytes:
        """A whole text, apart from the stream; its hits are counted with the others."""
        if not self._patterns.may_be_in(text):
            return text
        other = Searcher(self._patterns)
        clean = other.finish(text)
        self._apart += other.hits
        return clean


class _AsWritten:
    """Removes forms from a stream, byte for byte."""

    def __init__(self, forms: Forms) -> None:
        self.hits = 0
        self._forms = forms
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        return self._search(self._held + chunk, final=False)

    def finish(self, last: bytes) -> bytes:
        return self._search(self._held + last, final=True)

    def _search(self, text: bytes, *, final: bool) -> bytes:
        spans, undecided = self._forms.search(text, final=final)
        released: list[bytes] = []
        done = 0
        for start, end in spans:
            released += (text[done:start], REMOVED)
            done = end
        self.hits += len(spans)
        released.append(text[done:undecided])
        self._held = text[undecided:]
        return b"".join(released)
