"""
A value that will not print.
"""

from __future__ import annotations

import hmac
import re
from typing import Never

MASK = "…"
"""What stands where something does not show."""

_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_MAY_BE_SECRET = re.compile(r"(?=.*\d).{12,}|.{32,}", re.DOTALL)


def harmless(word: str) -> str:
    """
    A word of a caller's, to be repeated in an error or put on record: masked where it could be a token that went
    where none belongs, which is long and has a digit in it, or is very long, and is none of our ids.
    """
    return MASK if _MAY_BE_SECRET.fullmatch(word) and not _ID.fullmatch(word) else word


class Sensitive:
    """
    Bytes that do not show in `str`, `repr`, formatting, logs, JSON or pickles.

    `reveal()` is the only exit, and each use of it is something to defend in review. Equality is
    decided in constant time, so that comparing two of them tells nothing by how long it takes.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes | str) -> None:
        self._value = value.encode() if isinstance(value, str) else bytes(value)

    def reveal(self) -> bytes:
        """The value, as bytes."""
        return self._value

    def reveal_text(self) -> str:
        """The value, as text (UTF-8)."""
        return self._value.decode()

    def __len__(self) -> int:
        return len(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sensitive):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    # A hash would be a digest of the value in every dict that holds it.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Sensitive(…)"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return MASK

    def __reduce__(self) -> Never:
        raise TypeError("a sensitive value is not serialised")
