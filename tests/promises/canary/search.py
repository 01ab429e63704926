"""
Known values that are put into every secret field, and the search for them in anything that can be read.

A value is found in its common encodings, also when only a part of it is there: what is looked for are the first
and the last sixteen bytes of what is secret in it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from company_agents.outgoing.reply_search import encodings

PIECE = 16
_GRAM = 8
# Any text of this length has all of an aligned gram in it.
_SHORTEST = 2 * _GRAM - 1


def made_up(label: str) -> str:
    """A value of a test: 32 characters that no encoding changes."""
    return hashlib.blake2s(label.encode(), digest_size=16).hexdigest()


def token_like(label: str) -> str:
    """A provider's token: such a value, among characters that every encoding changes in its own way."""
    return f"xoxb-17\"<&>'{made_up(label)}+/=\\~-x"


@dataclass(frozen=True)
class Place:
    """Something that can be read. `shown` are the canaries that their owner is shown here, this once."""

    name: str
    data: bytes = field(repr=False)
    shown: frozenset[str] = frozenset()


class Canaries:
    """What is looked for, by what it is."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._spelled: list[tuple[str, bytes]] = []
        self._needles: dict[bytes, str] = {}
        self._grams: dict[int, set[bytes]] = {}

    def plant(self, name: str, *secrets: str | bytes) -> None:
        """A canary: its secret part, or several spellings of it that no encoding leads to."""
        self.names.add(name)
        for secret in secrets:
            data = secret.encode() if isinstance(secret, str) else secret
            self._spelled.append((name, data))
            for form in {form for piece in _pieces(data) for form in _forms(piece)}:
                self._needles[form] = name
                for at in range(len(form) - _GRAM + 1):
                    gram = int.from_bytes(form[at : at + _GRAM], sys.byteorder)
                    self._grams.setdefault(gram, set()).add(form)

    def spelled(self) -> Iterator[tuple[str, bytes]]:
        """Each with its name, as it is looked for."""
        yield from self._spelled

    def plant_token(self, name: str, token: str) -> None:
        """A token of ours: what is secret in it are the last 32 bytes of its payload; the rest is ids and a checksum."""
        payload = token.split("_", 2)[2][:-6]
        random = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))[-32:]
        self.plant(name, payload[-42:], random)

    def found(self, place: Place) -> list[str]:
        """Which of them stand there, as sentences that do not repeat them."""
        whole = len(place.data) // _GRAM * _GRAM
        candidates: set[bytes] = set()
        # Over the whole text in C: nearly every place has none of the grams.
        with memoryview(place.data)[:whole].cast("Q") as words:
            if self._grams.keys().isdisjoint(words):
                return []
            for gram in self._grams.keys() & set(words):
                candidates |= self._grams[gram]
        names = {self._needles[needle] for needle in candidates if needle in place.data}
        return sorted(f"{name} in {place.name}" for name in names - place.shown)

    def found_in(self, places: Iterable[Place]) -> list[str]:
        """The same for many places."""
        return [found for place in places for found in self.found(place)]


def _pieces(secret: bytes) -> set[bytes]:
    assert len(secret) >= PIECE, "too short to be looked for"
    return {secret[:PIECE], secret[-PIECE:]}


def _forms(piece: bytes) -> Iterator[bytes]:
    for form in _encoded(piece):
        # A needle that is too short to be found would be a promise that nobody keeps.
        assert len(form) >= _SHORTEST
        yield form


def _encoded(piece: bytes) -> Iterator[bytes]:
    yield from encodings(piece)
    yield repr(piece)[2:-1].encode()
    yield base64.b32encode(piece).rstrip(b"=")[:-1]
    yield from (between.join(map(str, piece)).encode() for between in (", ", ",", " "))
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        # Bytes that went through a text: each as the character of its number.
        text = piece.decode("latin-1")
        yield text.encode()
        yield from (json.dumps(text, ensure_ascii=ascii_only)[1:-1].encode() for ascii_only in (False, True))
        return
    yield text.upper().encode()
    yield text.encode("utf-16-le")
    yield text.encode("utf-16-be")
