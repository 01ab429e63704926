"""
JSON as people read it, and as it stands: nothing of it is left away, as a second field of the same name would be by a parser.
"""

from __future__ import annotations

import json
import re

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+')
# Deeper, it is no more readable than in one line.
_DEEPEST = 50


def indented(text: str) -> str | None:
    """A text of JSON over several lines; None where it is none. Texts are shown without their escapes, numbers as they stand."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return None
    lines, depth, before = [""], 0, ""
    for token in _TOKEN.findall(text):
        closes = token in "]}"
        depth -= closes
        if before and (before in "[{," or closes) and not (closes and before in "[{"):
            lines.append("  " * min(depth, _DEEPEST))
        lines[-1] += {":": ": "}.get(token) or (_plain(token) if token[0] == '"' else token)
        depth += token in "[{"
        before = token
    return "\n".join(lines)


def _plain(token: str) -> str:
    return json.dumps(json.loads(token), ensure_ascii=False)


def visible(text: str) -> str:
    """A text in which every character shows, but for line ends and tabs: no other letter, no other order."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in text
    )
