"""
Pages that stay up to date: server-sent events, one stream per page. A page without a stream shows the same after a reload.

A stream looks once a second, with one statement, and holds no connection in between. Whoever signs out, is disabled or has
another role loses it within seconds: at each third look the session is looked at in place of the page.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from company_agents.dashboard.guard import cookie_name
from company_agents.dashboard.visit import Visit
from company_agents.errors import CompanyAgentsError, TooMany

MEDIA_TYPE = "text/event-stream"
# Seconds between two looks. Each third is at the session: together less than the five seconds that are promised.
EVERY = 1.0
SESSION_AT = 3
# At each fifteenth something is sent although there is nothing to tell: a proxy ends what is silent for a minute.
SIGN_AT = 15
# Seconds after which a stream ends and the browser begins another: a browser that is gone may not be noticed.
LONGEST = 300.0
# Seconds until the browser tries again.
RETRY = 2
# Of one session: over HTTP/1.1 a browser has six connections to one host, and its pages need one. Of all in this process.
MOST_OF_SESSION = 4
MOST = 200


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the page by its id, as it is now."""

    id: str
    html: str


@dataclass(frozen=True, slots=True)
class Lines:
    """What is to be put at the end of a log."""

    pieces: list[dict[str, Any]]


class Feed(Protocol):
    """
    What changes on one page. `at` says how far it has told, as the browser brings it back (`Last-Event-ID`); once `over`,
    nothing changes any more.
    """

    at: str
    over: bool

    async def look(self) -> list[Part | Lines]:
        """What has changed since the last look: one statement."""


@dataclass
class Streams:
    """Those that are open in this process."""

    _of_session: Counter[UUID] = field(default_factory=Counter)

    @contextlib.contextmanager
    def one(self, session: UUID) -> Iterator[None]:
        """
        One more, for as long as the block takes.

        Raises:
            TooMany: of this session, or of all.
        """
        if self._of_session[session] >= MOST_OF_SESSION or self._of_session.total() >= MOST:
            raise TooMany(
                "too many pages are open", retry_after=10, hint="close some; this one works without being live"
            )
        self._of_session[session] += 1
        try:
            yield
        finally:
            self._of_session[session] -= 1
            self._of_session += Counter()


def seen_at(visit: Visit) -> str:
    """How far the browser has been told, by the page or by the stream before this one."""
    return visit.request.headers.get("last-event-id") or visit.query("after") or ""


def streamed(visit: Visit, feed: Feed) -> Response:
    """
    The answer to a page that wants to stay up to date.

    Raises:
        TooMany: too many are open.
    """
    if visit.request.method == "HEAD":
        return Response(media_type=MEDIA_TYPE)
    place = contextlib.ExitStack()
    place.enter_context(visit.request.app.state.streams.one(visit.session.id))
    return _Stream(_events(visit, feed), place)


class _Stream(StreamingResponse):
    def __init__(self, events: AsyncIterator[str], place: contextlib.ExitStack) -> None:
        # A proxy that gathers a reply before it hands it on would make a stream of no use.
        super().__init__(events, media_type=MEDIA_TYPE, headers={"X-Accel-Buffering": "no"})
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Whoever does not read what is sent to them keeps their place no longer than others.
        with self._place, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONGEST + 10 * EVERY):
                await super().__call__(scope, receive, send)


async def _events(visit: Visit, feed: Feed) -> AsyncIterator[str]:
    yield f"retry: {RETRY * 1000}\n\n"
    ends = time.monotonic() + LONGEST
    looks = 0
    # One that stops waits for nobody who only watches: the browser comes back, here or to another.
    while time.monotonic() < ends and not (visit.app.dispatcher and visit.app.dispatcher.closing):
        looks += 1
        try:
            if looks % SESSION_AT == 0:
                if not await _is_still(visit):
                    yield _event("over", {"why": "session"})
                    return
                if looks % SIGN_AT == 0:
                    yield ":\n\n"
            else:
                for found in await feed.look():
                    yield _event(*_told(found), at=feed.at)
                if feed.over:
                    yield _event("over", {"why": "end"})
                    return
        except CompanyAgentsError:
            # The database is away, or what the page shows is gone: the browser asks again, and is told.
            return
        await asyncio.sleep(EVERY)


async def _is_still(visit: Visit) -> bool:
    """Whether the session is good, and its person has the role that the page was made for."""
    token = visit.request.cookies.get(cookie_name(visit.app.settings), "")
    return await visit.app.sessions.watched(token, visit.caller.scope.company_id) is visit.caller.role


def _told(found: Part | Lines) -> tuple[str, dict[str, Any]]:
    if isinstance(found, Part):
        return "part", {"id": found.id, "html": found.html}
    return "lines", {"pieces": found.pieces}


def _event(name: str, data: dict[str, Any], at: str = "") -> str:
    # As JSON it is one line, whatever it holds.
    told = f"id: {at}\n" if at else ""
    return f"event: {name}\n{told}data: {json.dumps(data)}\n\n"
