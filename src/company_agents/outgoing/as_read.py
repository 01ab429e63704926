"""
A stream, searched as whoever parses it will read it; see `spelling`. What is removed is removed as it is spelled, and all
the rest passes byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from company_agents.outgoing.forms import SHORTEST, Forms, Span
from company_agents.outgoing.spelling import (
    ROUGH,
    Places,
    boundary,
    has_line_ends,
    is_plain,
    read,
    read_roughly,
    unfinished,
)

_LARGE = 2048
"""Bytes of a text from which on it is looked at roughly first."""

_NOT_ROUGH = re.compile(rb"[\\%&;# ]")


class ReadForms(Forms):
    """What is searched for in a text as it is read: the forms of a value before anybody escapes them."""

    __slots__ = ("most", "rough")

    def __init__(self, forms: Iterable[bytes]) -> None:
        # Whatever in them looks like an escape is read like one; what would be lost in that is not looked for.
        readable = (read(form) for form in forms if not has_line_ends(form))
        super().__init__(form for form in readable if len(form) >= SHORTEST)
        # One for which there is no rough look is always looked for.
        self.rough = frozenset(b"" if _NOT_ROUGH.search(form) else read_roughly(form)[ROUGH:] for form in self.all)
        # Twelve bytes for each character, and line ends.
        self.most = 16 * self.longest + 4096

    def may_be_in(self, text: bytes) -> bool:
        """Whether it is worth to look closer at a text; most are not."""
        rough = text if is_plain(text) else read_roughly(text)
        return any(form in rough for form in self.rough)


class AsRead:
    """
    Removes forms from a stream of bytes as it is read, with the same result for any chunking: what is held back between
    chunks is the suffix outside of which nothing can still turn out to be a match.

    Not so where a match would take many times more bytes than its characters: so many are not held back.
    """

    __slots__ = ("_forms", "_held", "_removed", "_shown", "hits")

    def __init__(self, forms: ReadForms, removed: bytes) -> None:
        self.hits = 0
        self._forms = forms
        self._removed = removed
        self._held = b""
        # How much at the beginning of what is held was released already: the line end that it follows.
        self._shown = 0

    def feed(self, chunk: bytes) -> bytes:
        """Take more; return what is safe to release."""
        return self._search(self._held + chunk, final=False) if chunk else b""

    def finish(self, last: bytes) -> bytes:
        """The stream has ended, with this: return the rest."""
        return self._search(self._held + last, final=True)

    def _search(self, text: bytes, *, final: bool) -> bytes:
        whole = text if final else text[: unfinished(text)]
        spans, undecided = self._spans(whole, final=final)
        if len(text) - undecided > self._forms.most:
            undecided = max(len(whole), len(text) - self._forms.most)
        released: list[bytes] = []
        done = self._shown
        for start, end in spans:
            released += (text[done:start], self._removed)
            done = end
        self.hits += len(spans)
        released.append(text[done:undecided])
        self._hold(text, undecided)
        return b"".join(released)

    def _hold(self, text: bytes, undecided: int) -> None:
        if undecided == len(text) and text[-1:] in (b"\r", b"\n"):
            self._held, self._shown = text[-1:], 1
        else:
            self._held, self._shown = text[undecided:], max(0, self._shown - undecided)

    def _spans(self, text: bytes, *, final: bool) -> tuple[list[Span], int]:
        """Where the text has matches, and up to where it is decided."""
        if is_plain(text):
            return self._forms.search(text, final=final)
        if len(text) > _LARGE and not self._forms.may_be_in(text):
            return [], len(text) if final else self._undecided(text)
        was_read = read(text)
        spans, undecided = self._forms.search(was_read, final=final)
        if not spans and undecided == len(was_read):
            return [], len(text)
        places = Places(text)
        found = [(places.start(start), places.end(end - 1)) for start, end in spans]
        return found, len(text) if undecided == len(was_read) else places.start(undecided)

    def _undecided(self, text: bytes) -> int:
        """The place at the end of a text from which on a match could begin."""
        size = 2 * self._forms.longest
        while True:
            start = boundary(text, size)
            was_read = read(text[start:])
            if start == 0 or len(was_read) >= self._forms.longest:
                break
            size *= 4
        undecided = self._forms.undecided(was_read)
        return len(text) if undecided == len(was_read) else start + Places(text[start:]).start(undecided)
