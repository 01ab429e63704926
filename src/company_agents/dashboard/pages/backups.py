"""
Backups: what there is, what is known of each, and what needs somebody; made, verified, downloaded and given up. None is
restored by a page.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from company_agents.backup.background import Ended
from company_agents.backup.handing import Handed, handed_out, kept_back
from company_agents.backup.rows import FOUND_THERE, GONE, RUNNING, WHOLE, BackupRow
from company_agents.dashboard import words
from company_agents.dashboard.named import Names
from company_agents.dashboard.visit import Page, Visit, go
from company_agents.errors import CompanyAgentsError
from company_agents.identity.permissions import Permission
from company_agents.rotation.status import KeyState

HOME = "/backups"
# Seconds between two looks at what is being done, as on the page of the master key.
LOOK_AGAIN = 2
# How long it is said how the last one ended.
TOLD_FOR = timedelta(hours=1)
# Seconds that the place of backups has to say what lies there; what is known is shown anyway.
PLACE_MAY_TAKE = 5.0
# Bytes of a download that are read at once, and seconds in which somebody has to take them.
PIECE, TAKEN_IN = 256 * 1024, 300.0

# What is being done, by the step that it says of itself.
STEPS = {
    "": "Beginning",
    "backup": "Copying every table",
    "reading": "Reading it whole, and opening every secret in it",
}

# What to do about a concern, for somebody at a page.
ADVICE = {
    "key": "Make one now. The older ones restore nothing that was sealed.",
    "never": "Make one now. The schedule makes its own between 2 and 5 at night (UTC); when it has, this is gone.",
    "late": "Make one now. When the schedule has made its own, this is gone; the log says what keeps it from that.",
    "failed": "It is tried again after 15 minutes, then every hour. See to what it says.",
    "missing": "Is the disk mounted, and is it the right place? Otherwise make one now, and forget what is gone.",
    "verify": "Do not count on it. Verify it again, or make another one.",
    "unverified": "Verify it, below.",
    "drill": "`company-agents backup drill` tries the newest one again.",
}


@dataclass(frozen=True, slots=True)
class NeededKey:
    """A key that a backup needs: what is said of it, its tone and its sign."""

    key_id: str
    said: str
    tone: str
    sign: str


@dataclass(frozen=True, slots=True)
class Line:
    """A backup in the list. `kept_back` is why it is not downloaded; `command` restores it, of where it lies here."""

    row: BackupRow
    maker: str
    keys: list[NeededKey]
    kept_back: str
    where: str
    command: str


async def show_list(visit: Visit) -> Response:
    """All that is known of the backups, after a look at their place; while something is done, the page looks again."""
    again = visit.query("live") != "no"
    # Where the place is far away, it is not asked every two seconds.
    trouble = None if visit.app.backup_work.underway else await visit.app.backups.compared(PLACE_MAY_TAKE)
    about = await _about(visit)
    looks_again = about["runs"] and again
    response = visit.page("backups.html", **about, place_trouble=trouble, looks_again=looks_again)
    if looks_again:
        response.headers["Refresh"] = str(LOOK_AGAIN)
    return response


async def _about(visit: Visit) -> dict[str, Any]:
    rows = await visit.app.backups.rows()
    work, watch = visit.app.backup_work, visit.app.backup_watch
    place = _place(visit)
    names = Names(visit)
    await names.add(row.made_by for row in rows)
    status = await visit.app.keys.status(counted=False)
    states = {key.key_id: key for key in status.keys}
    return {
        "lines": [_line(row, names, states, place) for row in rows if row.state != GONE],
        "place": place,
        "concerns": [(concern, ADVICE.get(concern.kind, concern.hint)) for concern in watch.of(rows)],
        "scheduled": watch.scheduled,
        "underway": work.underway,
        "step": STEPS.get(work.underway.step, STEPS[""]) if work.underway else "",
        "runs": work.underway is not None or any(row.state == RUNNING for row in rows),
        "last": None if work.underway else _told(work.last),
    }


def _place(visit: Visit) -> str:
    """The address of the place of backups; empty where its setting cannot be used."""
    try:
        return visit.app.backups.place.address
    except CompanyAgentsError:
        return ""


def _told(last: Ended | None) -> Ended | None:
    return last if last is not None and datetime.now(UTC) - last.at < TOLD_FOR else None


def _line(row: BackupRow, names: Names, states: dict[str, KeyState], place: str) -> Line:
    path = _path(row)
    return Line(
        row=row,
        maker=_maker(row, names),
        keys=[_needed(key_id, states.get(key_id)) for key_id in row.key_ids],
        kept_back=kept_back(row, place),
        where=row.place.removeprefix("file://"),
        command=f"company-agents backup restore {shlex.quote(path)}"
        if path and row.state == WHOLE and row.missing_at is None
        else "",
    )


def _maker(row: BackupRow, names: Names) -> str:
    if row.scheduled:
        return "the schedule"
    return "" if row.made_by in ("", FOUND_THERE) else names.who(row.made_by)


def _path(row: BackupRow) -> str:
    """Where its file lies on this machine; of one in a store, its name, once it was fetched; empty: nobody knows."""
    folder = row.place.removeprefix("file://")
    if folder.startswith("/"):
        return f"{folder.rstrip('/')}/{row.file}"
    return row.name if "://" in folder else ""


def _needed(key_id: str, state: KeyState | None) -> NeededKey:
    if state is None:
        return NeededKey(key_id, "Not known here", "bad", "attention")
    if state.state == "destroyed":
        return NeededKey(key_id, "Destroyed", "bad", "attention")
    if not state.in_ring:
        return NeededKey(key_id, "Not in the source", "bad", "attention")
    return NeededKey(key_id, *words.KEY_STATES[state.state])


async def act_make(visit: Visit) -> Response:
    """Begin to make one."""
    form = await visit.form()
    try:
        await visit.app.backup_work.make(visit.me.label)
    except CompanyAgentsError as error:
        return visit.again(
            "backups.html", form, error, **{**await _about(visit), "last": None}, place_trouble=None, looks_again=False
        )
    return go(HOME)


async def act_verify(visit: Visit) -> Response:
    """Begin to verify one."""
    form = await visit.form()
    try:
        await visit.app.backup_work.verify(visit.id("backup"), visit.me.label)
    except CompanyAgentsError as error:
        return visit.again("backups.html", form, error, **await _about(visit), place_trouble=None, looks_again=False)
    return go(HOME)


async def show_download(visit: Visit) -> Response:
    """What it holds, and where it should not lie."""
    row = await visit.app.backups.get(visit.id("backup"))
    return visit.page("backup_download.html", row=row, kept_back=kept_back(row, _place(visit)))


async def act_download(visit: Visit) -> Response:
    """Hand it out; on record before the first byte."""
    form = await visit.form()
    backup = visit.id("backup")
    try:
        handed = await handed_out(visit.app.backups, visit.app.audit, backup, visit.me.label)
    except CompanyAgentsError as error:
        row = await visit.app.backups.get(backup)
        return visit.again("backup_download.html", form, error, row=row, kept_back=kept_back(row, _place(visit)))
    return _Download(handed)


class _Download(StreamingResponse):
    """A file as it lies, to somebody who takes it at their pace, but takes it."""

    def __init__(self, handed: Handed) -> None:
        super().__init__(
            self._pieces(),
            media_type="application/zstd",
            headers={
                "Content-Disposition": f"attachment; filename*=utf-8''{quote(handed.name, safe='')}",
                "Content-Length": str(handed.size),
                "Cache-Control": "no-store",
            },
        )
        self._handed = handed

    async def _pieces(self) -> Any:
        left = self._handed.size
        while left and (piece := await asyncio.to_thread(self._handed.file.read, min(PIECE, left))):
            left -= len(piece)
            yield piece

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(TAKEN_IN):
                await send(message)

        with self._handed.file:
            await super().__call__(scope, receive, send_in_time)


async def show_forget(visit: Visit) -> Response:
    """What giving it up means."""
    return visit.page("backup_forget.html", **await _forgetting(visit))


async def act_forget(visit: Visit) -> Response:
    """Give it up."""
    form = await visit.form()
    try:
        await visit.app.backups.forget(visit.id("backup"), visit.me.label)
    except CompanyAgentsError as error:
        return visit.again("backup_forget.html", form, error, **await _forgetting(visit))
    return go(HOME, done="backup-forgotten")


async def _forgetting(visit: Visit) -> dict[str, Any]:
    row = await visit.app.backups.get(visit.id("backup"))
    return {
        "row": row,
        "here": row.place == _place(visit),
        "only_one": row.good and not _others(row, await visit.app.backups.rows()),
    }


def _others(row: BackupRow, rows: Sequence[BackupRow]) -> list[BackupRow]:
    """Good ones beside this one."""
    return [other for other in rows if other.good and other.ours and other.id != row.id]


_ONE = f"{HOME}/{{backup:uuid}}"

PAGES = [
    Page(HOME, show_list, permission=Permission.BACKUP_READ),
    Page(f"{HOME}/make", act=act_make, permission=Permission.BACKUP_MAKE),
    Page(f"{_ONE}/verify", act=act_verify, permission=Permission.BACKUP_MAKE),
    Page(f"{_ONE}/download", show_download, act_download, permission=Permission.BACKUP_DOWNLOAD),
    Page(f"{_ONE}/forget", show_forget, act_forget, permission=Permission.BACKUP_FORGET),
]
