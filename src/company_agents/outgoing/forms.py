"""
Many byte strings, searched for at once, in a text that comes in pieces.
"""

from __future__ import annotations

from collections.abc import Iterable

SHORTEST = 8
"""Bytes; anything shorter would be found by chance."""

_HEAD = SHORTEST
"""Bytes of a form that a search in C looks for before Python looks closer; every form has them."""

Span = tuple[int, int]


class Forms:
    """
    What is searched for; none is shorter than `SHORTEST`.

    The match that starts earliest counts, and of those the longest.
    """

    __slots__ = ("all", "heads", "longest", "starts")

    def __init__(self, forms: Iterable[bytes]) -> None:
        self.all = tuple(sorted(set(forms), key=len, reverse=True))
        self.longest = len(self.all[0]) if self.all else 0
        self.heads = tuple((form[:_HEAD], form) for form in self.all)
        self.starts = frozenset(form[:length] for form in self.all for length in range(1, _HEAD))

    def search(self, text: bytes, *, final: bool) -> tuple[list[Span], int]:
        """
        The matches in a text, and the place up to which it is decided: a match could begin there of which this text does
        not show the end. Where the text is the last (`final`), that is its end.
        """
        matches = _Matches(self.all, text)
        found: list[Span] = []
        done = 0
        undecided = len(text) if final else self.undecided(text, done)
        while (match := matches.first(done)) and match[0] < undecided:
            found.append(match)
            done = match[1]
            if not final and undecided < done:
                undecided = self.undecided(text, done)
        return found, undecided

    def undecided(self, text: bytes, done: int = 0) -> int:
        """The first place from `done` on where a match could begin that this text does not show the end of."""
        end = len(text)
        earliest = end
        for length in range(1, min(_HEAD, end - done + 1)):
            if text[end - length :] in self.starts:
                earliest = end - length
        rest = memoryview(text)
        for head, form in self.heads:
            at = text.find(head, max(done, end - len(form) + 1))
            while -1 < at < earliest:
                if form.startswith(rest[at:]):
                    earliest = at
                    break
                at = text.find(head, at + 1)
        return earliest


class _Matches:
    """
    The matches in one text. Each form's next place is remembered until it is passed, so that the text is scanned once
    per form however many matches there are.
    """

    def __init__(self, forms: tuple[bytes, ...], text: bytes) -> None:
        self._text = text
        self._next = [(at, form) for form in forms if (at := text.find(form)) != -1]

    def first(self, done: int) -> Span | None:
        """Start and end of the first match at or after `done`, the longest of those that start there."""
        if not self._next:
            return None
        if any(at < done for at, _ in self._next):
            again = ((at if at >= done else self._text.find(form, done), form) for at, form in self._next)
            self._next = [(at, form) for at, form in again if at != -1]
        if not self._next:
            return None
        start, form = min(self._next, key=lambda place: (place[0], -len(place[1])))
        return start, start + len(form)
