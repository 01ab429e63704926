"""
How runs, approvals and tasks read: states, money, times, and what a program put out.
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta

# A state: what is said of it, its tone and its sign.
RUN_STATES = {
    "queued": ("Queued", "still", "clock"),
    "running": ("Running", "now", "run"),
    "finished": ("Finished", "good", "check"),
    "failed": ("Failed", "bad", "attention"),
    "expired": ("Expired", "warn", "clock"),
    "cancelled": ("Cancelled", "still", "refused"),
}

APPROVAL_STATES = {
    "waiting": ("Waiting", "now", "clock"),
    "approved": ("Approved", "warn", "check"),
    "sending": ("Being sent", "warn", "send"),
    "done": ("Sent", "good", "check"),
    "failed": ("Not sent", "bad", "attention"),
    "uncertain": ("Uncertain", "bad", "attention"),
    "refused": ("Refused", "still", "refused"),
    "expired": ("Expired", "still", "clock"),
}

TASK_STATUSES = {
    "open": "Open",
    "in_progress": "In progress",
    "blocked": "Blocked",
    "done": "Done",
    "cancelled": "Cancelled",
}

ADAPTERS = {
    "process": "A program on this machine",
    "http": "A remote agent",
    "llm": "A language model, in this process",
}

# What a terminal would obey, and other characters that show nothing.
_CODES = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()*+][0-9A-Za-z]|\x1b[@-Z\\-_]")
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """What a program put out, without colours and other codes for a terminal."""
    return _UNSEEN.sub("", _CODES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def money(micros: int) -> str:
    """
    Millionths of a US dollar, for people: whole cents of what was spent, so that no budget looks spent before it is; and as
    far as it takes where there is less than one.
    """
    if 0 < micros < 10_000:
        return f"$0.{micros:06d}".rstrip("0")
    return f"${micros // 1_000_000:,}.{micros % 1_000_000 // 10_000:02d}"


def lasted(seconds: float | timedelta) -> str:
    """How long something takes, or took."""
    left = int(seconds.total_seconds() if isinstance(seconds, timedelta) else seconds)
    if left < 60:
        return f"{left} s"
    if left < 3600:
        return f"{left // 60} min {left % 60} s" if left % 60 else f"{left // 60} min"
    return f"{left // 3600} h {left % 3600 // 60} min" if left % 3600 // 60 else f"{left // 3600} h"


def lasted5(seconds: float | timedelta) -> str:
    """The same in steps of five seconds: what is told again and again need not be told each second."""
    left = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    return lasted(max(left, 0) // 5 * 5)


def thousands(count: int) -> str:
    """A number that can be read."""
    return f"{count:,}"


def short(count: int) -> str:
    """A number that may be large, for a headline."""
    for size, name in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if count >= size:
            whole = count / (1000 if name == "k" else size)
            return f"{whole:.1f} {name}" if whole < 100 else f"{whole:.0f} {name}"
    return f"{count:,}"


def size(count: int) -> str:
    """Bytes, for people."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def day(at: date) -> str:
    """A day, for people."""
    return f"{at:%-d %b %Y}"


def local(at: datetime) -> str:
    """A time in its own zone, for people."""
    return f"{at:%A, %-d %B %Y, %H:%M}"
