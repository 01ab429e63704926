"""
A page's stream, as a browser that is no browser hears it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2

from company_agents.dashboard.guard import cookie_name
from tests.dashboard.people import Person


@dataclass(frozen=True)
class Heard:
    """One event."""

    name: str
    id: str
    data: dict[str, Any]


@dataclass
class Stream:
    """An answer that is still coming."""

    response: httpx2.Response
    _lines: AsyncIterator[str]

    async def next(self) -> Heard | None:
        """The next event, or None: the stream has ended."""
        fields: dict[str, str] = {}
        async for line in self._lines:
            if not line and "event" in fields:
                return Heard(fields["event"], fields.get("id", ""), json.loads(fields["data"]))
            name, _, value = line.partition(": ")
            fields[name] = value
        return None

    async def until(self, text: str) -> list[Heard]:
        """Every event up to the one in which this stands."""
        heard = []
        while (event := await self.next()) is not None:
            heard.append(event)
            if text in json.dumps(event.data, ensure_ascii=False):
                return heard
        raise AssertionError(f"the stream ended without {text}; heard {[event.name for event in heard]}")

    async def rest(self) -> list[Heard]:
        """Every event up to the end."""
        heard = []
        while (event := await self.next()) is not None:
            heard.append(event)
        return heard


@contextlib.asynccontextmanager
async def listening(person: Person, address: str, path: str, **headers: str) -> AsyncIterator[Stream]:
    """Ask for a stream as somebody who is signed in, over a real connection."""
    cookies = {cookie_name(person.app.settings): person.session.reveal_text()}
    async with (
        httpx2.AsyncClient(base_url=address, cookies=cookies, timeout=20) as client,
        client.stream("GET", path, headers={"Accept": "text/event-stream", **headers}) as response,
    ):
        yield Stream(response, response.aiter_lines())
