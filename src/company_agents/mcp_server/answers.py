"""
What a tool gives back, as JSON that every client can read.
"""

from __future__ import annotations

import json
import math
from typing import Any

from company_agents.errors import CompanyAgentsError, Failed

# Deeper values would not pass the libraries on the way, here or at the client (their limits are 200 and more).
MOST_DEPTH = 100

UNEXPECTED = Failed(
    "something went wrong in the orchestrator", hint="try again; if it stays, an operator finds it in the log"
)


def good(value: dict[str, Any]) -> dict[str, Any]:
    """A result: the value itself, and the same as text for clients that read nothing else."""
    try:
        text = _text(value)
    except ValueError:
        # A provider's JSON may hold what JSON does not: NaN, half a surrogate pair.
        value = _mended(value)
        text = _text(value)
    return {**_said(text), "structuredContent": value, "isError": False}


def bad(error: CompanyAgentsError) -> dict[str, Any]:
    """A refusal or a failure, as the model sees it."""
    said: dict[str, Any] = {"code": error.reason, "message": error.sentence, "hint": error.hint}
    if error.facts:
        said["facts"] = error.facts
    return {**_said(_text(_mended({"error": said}))), "isError": True}


def _said(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "resultType": "complete"}


def _text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text.encode()
    return text


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {_mended(name): _mended(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_mended(entry) for entry in value]
    return value


def is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects lie in each other more than so many times. Looks no deeper than that."""
    level = [value]
    for _ in range(depth + 1):
        level = [
            inner
            for entry in level
            if isinstance(entry, (dict, list))
            for inner in (entry.values() if isinstance(entry, dict) else entry)
        ]
        if not level:
            return False
    return True
