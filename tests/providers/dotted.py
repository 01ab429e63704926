"""
JSON values by dotted paths, as provider files name them.
"""

from __future__ import annotations

from typing import Any


def put(path: str | None, value: Any, into: Any) -> Any:
    """A JSON value with this one at a dotted path; numbers make lists."""
    if path is None:
        return into
    first, _, rest = path.partition(".")
    if first.isdigit():
        entries: list[Any] = into if isinstance(into, list) else [None]
        entries[int(first)] = put(rest, value, entries[int(first)]) if rest else value
        return entries
    fields: dict[str, Any] = into if isinstance(into, dict) else {}
    fields[first] = put(rest, value, fields.get(first)) if rest else value
    return fields
