"""
company-agents up
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from company_agents.cli import terminal
from company_agents.cli.command import settings_of_command
from company_agents.cli.help import PlainCommand
from company_agents.cli.options import AsJson, a_number
from company_agents.errors import MayNotStart

if TYPE_CHECKING:
    from company_agents.app import App
    from company_agents.settings import Settings

Host = Annotated[str | None, typer.Option("--host", metavar="HOST", help="the address to listen on")]
Port = Annotated[
    int | None, typer.Option("--port", parser=a_number(0, 65535), metavar="PORT", help="the port; 0 takes a free one")
]


def register(cli: typer.Typer) -> None:
    """Add the command."""

    @cli.command("up", cls=PlainCommand)
    def up(host: Host = None, port: Port = None, as_json: AsJson = False) -> None:
        """Start the orchestrator: dashboard, API and MCP, with everything embedded. Ctrl-C stops it."""
        settings = settings_of_command(host=host, port=port)
        from company_agents.app import hold_home

        with hold_home(settings.home), _bound(settings) as listening:
            # Here, because the doors are heavy, and no other command needs them.
            with imported_for_good():
                from company_agents.cli.server import serve

            settings = settings.model_copy(update={"port": listening.getsockname()[1]})

            async def when_ready(app: App) -> None:
                _say_ready(await _ready(app), as_json)

            with _noted(settings):
                asyncio.run(serve(settings, listening, when_ready))


@contextlib.contextmanager
def imported_for_good() -> Iterator[None]:
    """What is imported stays for good: to search it for garbage, now or ever, is time lost."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def running_url(settings: Settings) -> str | None:
    """The address of the `up` that runs on this home now, if any: it may have been given another port."""
    try:
        found = json.loads(_note(settings).read_text())
        os.kill(found["process"], 0)
        return str(found["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _noted(settings: Settings) -> Iterator[None]:
    note = _note(settings)
    note.write_text(json.dumps({"process": os.getpid(), "url": settings.url}))
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def _note(settings: Settings) -> Path:
    return settings.home / "locks" / "address"


@contextlib.contextmanager
def _bound(settings: Settings) -> Iterator[socket.socket]:
    """The socket, bound and not yet listening: nobody gets in before everything is ready."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise _not_bound(settings, "there is no such address") from error
    with listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
        except OSError as error:
            hint = "a port below 1024 needs a right that this user does not have; --port takes another"
            raise _not_bound(
                settings, (error.strerror or "no").lower(), hint if isinstance(error, PermissionError) else None
            ) from error
        yield listening


def _not_bound(settings: Settings, why: str, hint: str | None = None) -> MayNotStart:
    return MayNotStart(
        f"{settings.host} port {settings.port} cannot be listened on: {why}",
        hint=hint or "another program may be using it; --port takes another, 0 a free one",
        code="address",
    )


async def _ready(app: App) -> dict[str, Any]:
    # A sealed instance has no key to write the link down with; `operator link` makes one once it is open.
    link = None if app.held.sealed else await app.operators.first_link()
    url = app.settings.url
    return {
        "ready": True,
        "url": url,
        "mcp_url": f"{url}/mcp",
        "gateway_url": f"{url}/gateway",
        "sign_in_url": f"{url}/join?token={link.reveal_text()}" if link else None,
    }


def _say_ready(ready: dict[str, Any], as_json: bool) -> None:
    # Whoever started us may have read what it wanted and gone; that is no reason to stop.
    try:
        if as_json:
            terminal.line(ready)
            return
        terminal.text_line(f"company agents is ready at {ready['url']}")
        if ready["sign_in_url"]:
            terminal.text_line(f"become its owner, within 15 minutes: {ready['sign_in_url']}")
        terminal.text_line(f"agents connect to {ready['mcp_url']}")
        terminal.text_line(f"other clients have the base URL {ready['gateway_url']}/INTEGRATION")
        terminal.text_line("Ctrl-C stops it")
    except BrokenPipeError:
        terminal.abandon()
