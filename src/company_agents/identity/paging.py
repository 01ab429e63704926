"""
Paging by key: a page starts after the last entry of the one before it, so nothing is skipped or shown twice
while rows come and go.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from company_agents.errors import WrongUsage

MOST = 200


class Entry(Protocol):
    """What can be paged over."""

    @property
    def id(self) -> UUID: ...
    @property
    def created_at(self) -> datetime: ...


T = TypeVar("T")
E = TypeVar("E", bound=Entry)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some entries, and the cursor of the next page (None: this is the last)."""

    items: list[T]
    next: str | None = None


def cursor_params(after: str | None, limit: int) -> dict[str, Any]:
    """
    The parameters `after_at`, `after_id` and `limit` of a paged statement, which asks for one row more.

    Raises:
        WrongUsage: a cursor that is not ours, or a limit out of 1 to 200.
    """
    if not 1 <= limit <= MOST:
        raise WrongUsage(f"limit is {limit}; it may be 1 to {MOST}")
    if after is None:
        return {"after_at": None, "after_id": None, "limit": limit + 1}
    try:
        at, entry = json.loads(base64.urlsafe_b64decode(after.encode("ascii")))
        return {"after_at": datetime.fromisoformat(at), "after_id": UUID(entry), "limit": limit + 1}
    except (binascii.Error, ValueError, TypeError, AttributeError, RecursionError):
        raise WrongUsage("this cursor is not one of ours", hint="use the `next` of the page before") from None


def page(entries: Sequence[E], limit: int) -> Page[E]:
    """A page of the rows that such a statement gave."""
    if len(entries) <= limit:
        return Page(list(entries))
    last = entries[limit - 1]
    text = json.dumps([last.created_at.isoformat(), str(last.id)])
    return Page(list(entries[:limit]), base64.urlsafe_b64encode(text.encode()).decode())
