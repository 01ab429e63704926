"""
company-agents up
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Annotated, Any

import typer
import uvicorn
from uvicorn._types import ASGIApplication

from company_agents.app import App, hold_home
from company_agents.cli import terminal
from company_agents.cli.command import settings_of_command
from company_agents.errors import MayNotStart
from company_agents.settings import Settings

# How long open requests may go on after a stop was asked for (seconds).
GRACE = 5


def register(cli: typer.Typer) -> None:
    """Add the command."""

    @cli.command("up")
    def up(
        host: Annotated[str | None, typer.Option("--host", help="the address to listen on")] = None,
        port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help="the port; 0 takes a free one")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print JSON lines")] = False,
    ) -> None:
        """Start the orchestrator: dashboard, API and MCP, with everything embedded. Ctrl-C stops it."""
        settings = settings_of_command(host=host, port=port)
        with hold_home(settings.home), _bound(settings) as listening:
            settings = settings.model_copy(update={"port": listening.getsockname()[1]})
            asyncio.run(_serve(settings, listening, as_json))


@contextlib.contextmanager
def _bound(settings: Settings) -> Iterator[socket.socket]:
    """The socket, bound and not yet listening: nobody gets in before everything is ready."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((settings.host, settings.port))
        except OSError as error:
            raise MayNotStart(
                f"{settings.host} port {settings.port} cannot be listened on: {(error.strerror or 'no').lower()}",
                hint="another program may be using it; --port takes another, 0 a free one",
            ) from error
        yield listening


class _Server(uvicorn.Server):
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


async def _serve(settings: Settings, listening: socket.socket, as_json: bool) -> None:
    # Here, because the doors are heavy and no other command needs them.
    from company_agents.asgi import open_front

    async with open_front(settings) as (app, front):
        server = _server(front)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)
        if server.started:
            _say_ready(await _ready(app), as_json)
        await serving


def _server(front: ASGIApplication) -> _Server:
    return _Server(
        uvicorn.Config(
            front,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE,
        )
    )


async def _ready(app: App) -> dict[str, Any]:
    link = await app.operators.first_link()
    url = app.settings.url
    return {
        "ready": True,
        "url": url,
        "mcp_url": f"{url}/mcp",
        "gateway_url": None,
        "sign_in_url": f"{url}/join?token={link.reveal_text()}" if link else None,
    }


def _say_ready(ready: dict[str, Any], as_json: bool) -> None:
    if as_json:
        terminal.line(ready)
        return
    terminal.text_line(f"company agents is ready at {ready['url']}")
    if ready["sign_in_url"]:
        terminal.text_line(f"become its owner, within 15 minutes: {ready['sign_in_url']}")
    terminal.text_line(f"agents connect to {ready['mcp_url']}")
    terminal.text_line("Ctrl-C stops it")
