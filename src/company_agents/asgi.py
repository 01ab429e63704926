"""
Every door behind one address. `up` serves this; so can any ASGI server, as `company_agents.asgi:application`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import structlog

from company_agents.api import api_app
from company_agents.app import App, open_app
from company_agents.dashboard import dashboard_app, sealed_page
from company_agents.errors import CompanyAgentsError, Sealed, Unavailable
from company_agents.gateway import gateway_app, refused
from company_agents.hardening import harden, wipe_environment
from company_agents.logs import Redactor, start_logging
from company_agents.mcp_server import mcp_door
from company_agents.sensitive import harmless
from company_agents.settings import Settings, read_settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

log = structlog.stdlib.get_logger("company_agents.requests")

# For every answer; a door adds its own.
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Front:
    """
    Sends each request to its door, once it is for us: a page of another site that has its name resolve to
    our address (DNS rebinding) comes with that name in Host.
    """

    def __init__(self, app: App, mcp: Asgi) -> None:
        self._app = app
        self._doors: list[tuple[str, Asgi]] = [
            ("/mcp", mcp),
            ("/.well-known/oauth-protected-resource", mcp),
            ("/gateway", gateway_app(app)),
            ("/v1", api_app(app)),
            ("", dashboard_app(app)),
        ]
        self._sealed_page = sealed_page(app)
        self._name = (urlsplit(app.settings.url).hostname or "").lower()
        self._calls: set[asyncio.Task[Any]] = set()
        app.panic.followers.append(self._break_off)

    def _break_off(self) -> None:
        """The instance was sealed: what is under way ends now, streams too."""
        for call in self._calls - {asyncio.current_task()}:
            call.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return
        started = time.perf_counter()
        status = 500
        # A server of an operator's own may log addresses: it is not told what may hold a link's token, or a provider's code.
        given, scope = scope, {**scope}
        given["query_string"] = b""

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "websocket.accept":
                status = 101
            elif message["type"].endswith("http.response.start"):
                status = message["status"]
                names = {name.lower() for name, _ in message.get("headers", ())}
                added = [header for header in _HEADERS if header[0] not in names]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await (send if scope["type"] == "http" else denying)(message)

        async def denying(message: Message) -> None:
            # Whoever answers is not told what was asked for: a page, or a connection.
            if message["type"].startswith("http.response."):
                message = {**message, "type": f"websocket.{message['type']}"}
            if "websocket.http.response" in scope.get("extensions", {}) or "response" not in message["type"]:
                await send(message)
            elif message["type"].endswith("start"):
                await send({"type": "websocket.close"})

        call = asyncio.current_task()
        assert call is not None
        self._calls.add(call)
        try:
            await self._door(scope)(scope, receive, send_on)
        except asyncio.CancelledError:
            if not self._app.held.sealed or status != 500:
                raise
            await self._sealed(scope)(scope, receive, send_on)
        finally:
            self._calls.discard(call)
            milliseconds = round((time.perf_counter() - started) * 1000, 1)
            # Without the query, which may hold a sign-in link's token.
            path = "/".join(map(harmless, scope["path"].split("/")))[:200]
            log.info(
                "request", method=harmless(scope.get("method", "WEBSOCKET")), path=path, status=status, ms=milliseconds
            )

    def _door(self, scope: Scope) -> Asgi:
        path = scope["path"]
        if scope["type"] == "websocket" and not path.startswith("/gateway/"):
            return _answer(404, b"there is no WebSocket here\n")
        if path == "/healthz":
            return _answer(200, b"ok\n")
        if path == "/readyz":
            return self._ready
        if self._app.held.sealed and not path.startswith(("/unseal", "/static/")):
            return self._sealed(scope)
        if not self._is_for_us(scope):
            return _answer(421, b"this orchestrator has another name; COMPANY_AGENTS_PUBLIC_URL sets it\n")
        doors = (door for prefix, door in self._doors if path == prefix or path.startswith(f"{prefix}/"))
        # `OPTIONS *` has no path.
        return next(doors, _answer(404, b"there is nothing here\n"))

    def _sealed(self, scope: Scope) -> Asgi:
        if scope["path"].startswith("/gateway/"):
            return refused(Sealed())
        accepted = next((value for name, value in scope["headers"] if name == b"accept"), b"")
        return self._sealed_page if b"text/html" in accepted else _SEALED

    def _is_for_us(self, scope: Scope) -> bool:
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in ("localhost", self._name):
            return True
        # An address is not a name that somebody could point at us.
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name)
            return True
        return False

    async def _ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._app.held.sealed:
                raise Sealed
            await self._app.instance.ready()
            # A key that it should hold and does not: it cannot serve what is sealed under it.
            if self._app.replica is not None and self._app.replica.problem:
                raise Unavailable(self._app.replica.problem)
        except CompanyAgentsError as error:
            await _answer(503, f"{error.sentence}\n".encode())(scope, receive, send)
        else:
            await _answer(200, b"ready\n")(scope, receive, send)


def _answer(status: int, body: bytes) -> Asgi:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer


_SEALED = _answer(503, b"the instance is sealed; an owner unseals it\n")


@contextlib.asynccontextmanager
async def open_front(settings: Settings) -> AsyncIterator[tuple[App, Front]]:
    """
    The instance with its doors, and the log.

    Raises:
        MayNotStart: see `open_app`.
    """
    redactor = Redactor()
    start_logging(redactor, folder=settings.home / "logs", level=settings.log_level)
    async with open_app(settings, redactor=redactor, long_lived=True) as app:
        mcp = mcp_door(app)
        async with mcp.lifespan():
            yield app, Front(app, mcp.asgi)


class Application:
    """An ASGI application that opens the instance when its server starts it, with settings from the environment."""

    def __init__(self) -> None:
        self._front: Front | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif self._front is not None:
            await self._front(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            harden()
            settings = read_settings()
            wipe_environment(settings.secret_variables)
            async with open_front(settings) as (_, self._front):
                await send({"type": "lifespan.startup.complete"})
                await receive()
                self._front = None
        except CompanyAgentsError as error:
            await send({"type": "lifespan.startup.failed", "message": f"{error.sentence}; {error.hint}"})
        except asyncio.CancelledError:
            raise
        else:
            await send({"type": "lifespan.shutdown.complete"})


application = Application()
