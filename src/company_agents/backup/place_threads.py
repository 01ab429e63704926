"""
The threads of a place of backups. A place may not answer for minutes: a store that is silent, a disk of the network that is
gone. Whoever asked gives up; the thread cannot. So a place has threads of its own, which are few, and nobody else's work
waits for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

# How many wait for a place at most: those who ask for something short, and transfers.
LOOKS, TRANSFERS = 3, 3
# Seconds that a transfer has to end after nobody waits for it any more, and between two looks whether it has.
WIND_UP, LOOK_EVERY = 3.0, 0.05

T = TypeVar("T")


class Stopped(Exception):
    """Nobody waits for this transfer any more."""


class PlaceThreads:
    """
    The threads of one place. `backup.threads.in_thread` waits for its work, however long that takes, in a thread of all; nobody
    waits here who has given up, and the process ends without them.
    """

    def __init__(self) -> None:
        self._looks = _Few("place-look", LOOKS)
        self._transfers = _Few("place-transfer", TRANSFERS)
        self._listings = _Few("place-listing", 1)
        self._coming: Future[Any] | None = None

    async def short(self, work: Callable[[], T]) -> T:
        """What is short, where the place answers. Where nobody waits for it any more before it began, it never does."""
        future = self._looks.begin(work)
        try:
            return await _result(future)
        except asyncio.CancelledError:
            future.cancel()
            raise

    async def listing(self, work: Callable[[], T]) -> T:
        """
        The same for a look at all there is. One at a time; those who ask while one is under way share the next: what they
        know may be younger than the beginning of that one.
        """
        if self._coming is None or self._coming.running() or self._coming.done():
            self._coming = self._listings.begin(work)
        return await _result(self._coming)

    async def transfer(self, work: Callable[[threading.Event], T]) -> T:
        """Where whoever waits gives up, the event is set, and the transfer has a moment to end at its next piece."""
        stop = threading.Event()
        future = self._transfers.begin(lambda: work(stop))
        try:
            return await _result(future)
        except asyncio.CancelledError:
            stop.set()
            future.cancel()
            await _wound_up(future)
            raise


class _Few:
    """
    Runs work in threads: so many at once, the rest in order. A thread ends when there is nothing to do, so there is none to
    close; the end of the process waits for none, as it would for those of `concurrent.futures`.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._lock = threading.Lock()
        self._threads = 0
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def begin(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            self._waiting.append((future, work))
            if self._threads < self._most:
                try:
                    threading.Thread(target=self._run, name=self._name, daemon=True).start()
                except RuntimeError:  # the system has no thread more
                    if not self._threads:
                        self._waiting.pop()
                        raise
                else:
                    self._threads += 1
        return future

    def _run(self) -> None:
        while (found := self._next()) is not None:
            future, work = found
            if future.set_running_or_notify_cancel():
                try:
                    result = work()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
            # Not kept while the next one waits for its place.
            del found, future, work

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._threads -= 1
            return None


async def _result(future: Future[T]) -> T:
    """What came of it. Whoever waits here may give up, and takes it from nobody."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def wake(_: Future[T]) -> None:
        with contextlib.suppress(RuntimeError):  # nobody waits: the loop was closed meanwhile
            loop.call_soon_threadsafe(ended.set)

    future.add_done_callback(wake)
    await ended.wait()
    return future.result()


async def _wound_up(future: Future[T]) -> None:
    """After its end, or after a moment, also for one who is told twice to give up: a whole upload is undone in it."""
    loop = asyncio.get_running_loop()
    until = loop.time() + WIND_UP
    while not future.done() and loop.time() < until:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(LOOK_EVERY)
