"""
The server under `up`: one process, stopped by a signal, with everything written late written at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType

import uvicorn

from company_agents.app import App
from company_agents.asgi import open_front
from company_agents.cli.connections import Connection, Socket, make_room
from company_agents.errors import Failed
from company_agents.settings import Settings

# How long open requests may go on after a stop was asked for (seconds).
GRACE = 5
# How long a connection that nobody uses is kept (seconds): longer than clients and proxies keep theirs, which are 60 at
# most as a rule. One that is closed here just when it is used there looks like a failed call.
KEPT = 75


class _Server(uvicorn.Server):
    # What is to end while there is still somebody who answers: runs that are executed here speak to this server.
    before_exit: Callable[[], Awaitable[None]] | None = None
    _ending: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Asked to stop. Asked again, it stops at once."""
        if self._ending is None and self.before_exit is not None:
            self._ending = asyncio.create_task(self._end(self.before_exit, sig))
        else:
            super().handle_exit(sig, frame)

    async def _end(self, before_exit: Callable[[], Awaitable[None]], sig: int) -> None:
        try:
            await before_exit()
        finally:
            super().handle_exit(sig, None)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The original ends the process with the signal before what is written late has been written.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


async def serve(settings: Settings, listening: socket.socket, when_ready: Callable[[App], Awaitable[None]]) -> None:
    """
    Open the instance, answer on the socket until a signal asks to stop, and close it.

    Raises:
        MayNotStart: see `open_app`.
    """
    make_room()
    async with open_front(settings) as (app, front):
        server = _Server(
            uvicorn.Config(
                front,
                http=Connection,
                ws=Socket,
                ws_max_size=settings.message_limit,
                ws_per_message_deflate=False,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACE,
                timeout_keep_alive=KEPT,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        # The server has no event for it.
        while not server.started and not serving.done():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        if not server.started:
            await serving
            raise Failed("the server did not start")
        if app.dispatcher is not None:
            server.before_exit = app.dispatcher.close
        await when_ready(app)
        await serving
