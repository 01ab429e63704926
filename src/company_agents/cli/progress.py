"""
How far a long command is: one line that is written over on a terminal, JSON lines for programs, a line per step else.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from company_agents.cli import terminal

# Seconds between two signs.
EVERY = 0.2

_SAID = {
    "opening": "opening every secret",
    "stage": "writing the new key to the source",
    "confirm": "waiting until every orchestrator holds it",
    "switch": "switching to it",
    "rewrap": "moving secrets",
    "verify": "looking for rows under the old key",
    "archive": "archiving the old key",
    "tables": "reading its tables",
    "backup": "copying every table",
    "wrapping": "wrapping the key ring",
    "restoring": "bringing every row in",
    "laying aside": "making the tables",
    "indexes": "making the indexes",
    "finishing": "setting right what is over",
    "reading": "reading the file",
    "writing": "writing what it holds",
}


@contextlib.contextmanager
def shown(as_json: bool) -> Iterator[Callable[[str, int, int], None]]:
    """What a command calls with its step, how much of it is done, and how much there is."""
    progress = _Progress(as_json)
    try:
        yield progress.say
    finally:
        progress.end()


class _Progress:
    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._over = not as_json and terminal.can_redraw()
        self._step = ""
        self._began = self._said = 0.0

    def say(self, step: str, done: int, total: int) -> None:
        """One sign; those that come too fast are left out."""
        now = time.monotonic()
        new = step != self._step
        if new:
            self._step, self._began = step, now
        if not new and now - self._said < EVERY and done < total:
            return
        self._said = now
        if self._as_json:
            terminal.progress_line({"step": step, "done": done, "total": total})
        elif self._over:
            terminal.redraw(self._line(now, done, total))
        elif new:
            terminal.note(_SAID.get(step, step))

    def end(self) -> None:
        """Leave the terminal as it was."""
        if self._over and self._step:
            terminal.redraw("")

    def _line(self, now: float, done: int, total: int) -> str:
        said = _SAID.get(self._step, self._step)
        if not total:
            return said
        passed = now - self._began
        line = f"{said}: {done:,} of {total:,}"
        if done and passed > 0.5:
            rate = done / passed
            line += f", {rate:,.0f} a second, {max(0, total - done) / rate:.0f} s left"
        return line
