"""
One question to a model, over the gateway: asked again where that helps, and the answer read as it streams.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from company_agents.errors import CompanyAgentsError, Failed, Refused
from company_agents.runs.adapters.llm_talk import (
    Answer,
    Broken,
    Overloaded,
    Tool,
    TooLong,
    Turn,
    Wire,
    line_of,
)
from company_agents.sensitive import Sensitive

# Seconds in which a connection has to stand, and in which something has to come over it.
CONNECT_TIME = 10.0
IDLE_TIME = 300.0
# Attempts of one question, and the longest wait that is taken for granted, where a provider names one.
MOST_ATTEMPTS = 8
MOST_WAIT = 900.0
# Bytes of an error, of one event, and of one answer with all that is around it.
MOST_ERROR = 64 * 1024
MOST_EVENT = 16 * 1024 * 1024
MOST_ANSWER = 32 * 1024 * 1024
# Characters of what an error says.
MOST_SAID = 1000
# What the gateway says of its own refusals; what it only cannot do just now.
OURS = "Company-Agents-Error"
OURS_THAT_PASS = frozenset({"too_many", "unavailable", "not_sent", "answer_lost", "busy"})
OVER_BUDGET = "budget_spent"
_AGAIN = frozenset({408, 409, 429})
_LOST = (aiohttp.ClientError, TimeoutError, OSError)

OnText = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds until the second attempt, doubled with each, and how long at most; each a little shorter, by chance."""

    first: float = 1.0
    most: float = 60.0

    def after(self, attempts: int) -> float:
        """After so many attempts."""
        wait = min(self.first * 2.0 ** (attempts - 1), self.most)
        return wait * random.uniform(0.75, 1)  # noqa: S311 — nothing hangs on its being unguessable


class _Passing(Exception):
    """It may work when it is asked again, after so many seconds, where those are known."""

    def __init__(self, sentence: str, wait: float = 0) -> None:
        super().__init__(sentence)
        self.wait = wait


@dataclass
class Model:
    """A model behind the gateway."""

    http: aiohttp.ClientSession
    url: str
    wire: Wire
    token: Sensitive = field(repr=False)
    system: str = field(repr=False)
    tools: Sequence[Tool]
    waits: Waits

    async def ask(self, turns: Sequence[Turn], on_text: OnText, on_again: OnText) -> Answer:
        """
        The next answer. `on_text` gets its text as it comes; `on_again` is told why all of it is asked for again.

        Raises:
            TooLong: the conversation is longer than the model can hold.
            Refused: our own gateway does not let it out: the budget is spent, a rule, the credential is cut off.
            Failed: the provider refuses it, or it did not work as often as it was tried, or the answer has no end.
        """
        attempts = 0
        while True:
            attempts += 1
            try:
                return await self._asked(turns, on_text)
            except _Passing as problem:
                said, wait = str(problem), problem.wait
            except (Broken, Overloaded) as problem:
                said, wait = str(problem), 0.0
            except _LOST:
                said, wait = "the connection was lost", 0.0
            if attempts >= MOST_ATTEMPTS:
                raise Failed(f"the model did not answer in {attempts} attempts; at last: {said}")
            if wait > MOST_WAIT:
                raise Failed(f"the model is to be asked again in {wait:.0f} seconds, which is too long: {said}")
            wait = max(wait, self.waits.after(attempts))
            await on_again(f"{said}; asked again in {wait:.0f} s")
            await asyncio.sleep(wait)

    async def _asked(self, turns: Sequence[Turn], on_text: OnText) -> Answer:
        body = json.dumps(self.wire.body(self.system, self.tools, turns), separators=(",", ":")).encode()
        headers = {
            **self.wire.headers(self.token.reveal_text()),
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
        }
        async with self.http.post(self.url, data=body, headers=headers, allow_redirects=False) as reply:
            if reply.status != 200:
                await self._refused(reply)
            kind = reply.headers.get("Content-Type", "")
            if not kind.startswith("text/event-stream"):
                raise Broken("what it answered is no stream of events")
            reader = self.wire.reader()
            async for data in events(reply.content.iter_any()):
                text = reader.feed(data)
                if text:
                    await on_text(text)
            return reader.answer()

    async def _refused(self, reply: aiohttp.ClientResponse) -> None:
        code, message = _said(await _beginning(reply))
        ours, status = reply.headers.get(OURS), reply.status
        if ours is not None:
            if ours in OURS_THAT_PASS:
                raise _Passing(message or ours, _retry_after(reply.headers))
            raise _refusal(ours, message)
        if self.wire.is_too_long(status, code, message):
            raise TooLong(message)
        if status in (400, 422) and self.wire.adapts(message):
            raise _Passing("it does not take one of the fields, and is asked without it")
        told = f"the model's provider answered {status}" + (f": {message[:300]}" if message else "")
        if status in _AGAIN or status >= 500:
            raise _Passing(told, _retry_after(reply.headers))
        raise Failed(told)


def _refusal(code: str, message: str) -> CompanyAgentsError:
    if code == OVER_BUDGET:
        return Refused(f"budget: {message or 'it is spent'}", code=code)
    return Refused(f"the gateway refused the call to the model: {message or code}", code=code)


async def events(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """
    The data of each event of a stream, as it comes (https://html.spec.whatwg.org/multipage/server-sent-events.html).

    Raises:
        Broken: one is larger than any that would be sent.
        Failed: all of them together are.
    """
    # A line that has not ended; the data of an event that has not, and the bytes of its lines; the bytes of all.
    line, data, size, total = bytearray(), list[str](), 0, 0
    returned = False
    async for piece in pieces:
        total += len(piece)
        if total > MOST_ANSWER:
            raise Failed(f"an answer of the model is larger than {MOST_ANSWER // 2**20} MiB", code="too_large")
        # A carriage return at the very end may have been the first half of a line's end.
        new = piece[1:] if returned and piece.startswith(b"\n") else piece
        returned = new.endswith(b"\r")
        *ends, rest = new.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for end in ends:
            line += end
            if not line and data:
                yield "\n".join(data)
                data, size = [], 0
            elif line.startswith(b"data:"):
                data.append(line[5:].decode(errors="replace").removeprefix(" "))
                size += len(line)
            line.clear()
        line += rest
        if len(line) + size > MOST_EVENT:
            raise Broken("an event is larger than any that would be sent")


async def _beginning(reply: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in reply.content.iter_any():
        body += piece
        if len(body) >= MOST_ERROR:
            break
    return bytes(body[:MOST_ERROR])


def _said(body: bytes) -> tuple[str, str]:
    """Code and message of an error, as both interfaces and our gateway have them."""
    try:
        found: Any = json.loads(body)
        error = found["error"]
        if isinstance(error, str):
            return "", line_of(error, MOST_SAID)
        return str(error.get("code") or error.get("type") or ""), line_of(str(error.get("message") or ""), MOST_SAID)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "", ""


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds; 0 where nothing is said of it."""
    said = headers.get("Retry-After", "").strip()
    try:
        return max(float(said), 0.0) if said and float(said) < 1e9 else 0.0
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(said)
        now = parsedate_to_datetime(headers.get("Date", said))
        return max((at - now).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return 0.0
