"""
Look-ups that share a round trip: those that arrive while one is under way go together with the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
# Takes a list for each part of the keys.
Ask = Callable[..., Awaitable[list[Row]]]

# More in one statement would make the first wait for the last.
MOST_AT_ONCE = 64


@dataclass(slots=True)
class _Waiting:
    key: tuple[Any, ...]
    answer: asyncio.Future[Row | None]


class Gathered:
    """
    Rows by their keys, such as company and id. `ask` takes a list for each part of several keys, and gives the rows that it
    finds; `n`, counted from 1, says which each answers. Nothing is kept: a look-up never takes part in a statement that
    was sent before it was asked for, so it sees everything that was acknowledged by then.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._waiting: list[_Waiting] = []
        self._busy = False
        self._task: asyncio.Task[None] | None = None

    async def one(self, *key: Any) -> Row | None:
        """
        A row, or None where there is none of this key.

        Raises:
            CompanyAgentsError: what `ask` raised for all that went together.
        """
        if self._busy:
            answer: asyncio.Future[Row | None] = asyncio.get_running_loop().create_future()
            self._waiting.append(_Waiting(key, answer))
            return await answer
        self._busy = True
        try:
            found = await self._ask(*([part] for part in key))
            return found[0] if found else None
        finally:
            # In a task of its own, and not in that of one of them: who gives up must not take the others along.
            self._task = asyncio.create_task(self._answer()) if self._waiting else None
            self._busy = self._task is not None

    async def _answer(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
                await self._answer_these(batch)
        finally:
            self._busy = False
            # Cancelled, as when the process ends: nobody is left waiting.
            for entry in self._waiting:
                entry.answer.cancel()

    async def _answer_these(self, batch: list[_Waiting]) -> None:
        try:
            found = await self._ask(*map(list, zip(*(entry.key for entry in batch), strict=True)))
            rows = {row["n"]: row for row in found}
            for n, entry in enumerate(batch, start=1):
                if not entry.answer.done():
                    entry.answer.set_result(rows.get(n))
        except Exception as error:
            for entry in batch:
                if not entry.answer.done():
                    entry.answer.set_exception(error)
        finally:
            for entry in batch:
                entry.answer.cancel()
