"""
What stands before the protocol: the path, the Origin, the token. In front of the SDK and not as its plug-in: its
own layer would look the identity up to wrap it into a token of OAuth, and it answers a bad token in words of its own.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult, urlsplit

import structlog
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from company_agents.app import App
from company_agents.errors import CompanyAgentsError, NotFound, Refused, Unauthenticated, WrongUsage
from company_agents.mcp_server.answers import UNEXPECTED
from company_agents.mcp_server.server import CALLER, protocol_server

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

PATH = "/mcp"
# RFC 9728, section 3.1: with and without the path of the resource.
METADATA = "/.well-known/oauth-protected-resource"

# Bytes of a request: room for a body of the largest outgoing call (10 MiB), escaped as JSON in JSON.
MOST_BODY = 12 * 1024 * 1024

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

log = structlog.stdlib.get_logger("company_agents.mcp_server")


class Gate:
    """The ASGI application."""

    def __init__(self, app: App) -> None:
        self._app = app
        # Answers whom the gate lets through; there is one while the door is open.
        self.protocol: Asgi | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path in (METADATA, METADATA + PATH):
            await self._metadata(scope)(scope, receive, send)
        elif path.removesuffix("/") == PATH:
            await (await self._admitted(scope))(scope, receive, send)
        else:
            nothing = NotFound("there is nothing here", hint=f"the MCP server is at {PATH}")
            await _problem(404, nothing)(scope, receive, send)

    async def _admitted(self, scope: Scope) -> Asgi:
        """What answers: the protocol, once the request may be made and by whom is known; else the refusal."""
        if not all(self._is_ours(origin, scope) for origin in _values(scope, b"origin")):
            return _problem(403, Refused("a page of another site may not call this", hint="agents send no Origin"))
        given = _values(scope, b"authorization")
        # Two of them are as good as a bad one: which one counts is not for us to guess.
        scheme, _, token = (given[0] if len(given) == 1 else "Bearer").partition(" ")
        if not given or scheme.lower() != "bearer":
            return self._unauthenticated(Unauthenticated("this needs an agent's token", hint=_HOW), "")
        try:
            caller = await self._app.identity.worker(token.strip())
        except Unauthenticated as error:
            return self._unauthenticated(error, ', error="invalid_token"')
        except CompanyAgentsError as error:
            return _problem(error.http_status, error)
        except Exception:
            log.exception("a token could not be checked")
            return _problem(500, UNEXPECTED)
        if scope["method"] != "POST":
            # Nothing is sent but answers, and there is no session to end: GET and DELETE have nothing to do.
            only = WrongUsage("only POST is served here", hint="there are no sessions and no streams")
            return _problem(405, only, (b"allow", b"POST"))
        assert self.protocol is not None, "the door is used outside its lifespan"
        scope[CALLER] = caller
        return self.protocol

    def _unauthenticated(self, error: Unauthenticated, more: str) -> Asgi:
        where = f"{self._app.settings.url}{METADATA}{PATH}"
        return _problem(401, error, (b"www-authenticate", f'Bearer resource_metadata="{where}"{more}'.encode()))

    def _is_ours(self, origin: str, scope: Scope) -> bool:
        ours = self._app.settings.url
        if origin == _origin(ours):
            return True
        # On one's own machine the same place has three names. A public address has none of them: a page at the
        # reader's own localhost is another site.
        theirs, mine = _split(origin), _split(ours)
        # Told to take a free port, only the socket knows which.
        port = scope["server"][1] if mine.port == 0 else mine.port
        alike = (theirs.scheme, theirs.port) == (mine.scheme, port)
        return alike and {theirs.hostname, mine.hostname} <= _LOOPBACK

    def _metadata(self, scope: Scope) -> Asgi:
        if scope["method"] not in ("GET", "HEAD"):
            return _problem(405, WrongUsage("only GET is served here"), (b"allow", b"GET, HEAD"))
        # No authorization server: tokens are handed out by the company's operator.
        found = {
            "resource": f"{self._app.settings.url}{PATH}",
            "resource_name": "Company Agents",
            "bearer_methods_supported": ["header"],
        }
        return _json(200, found, b"application/json", (b"cache-control", b"max-age=300"))


class McpDoor:
    """`asgi` serves `/mcp` and its metadata, under their full paths, while `lifespan` is entered."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._gate = Gate(app)
        self.asgi: Asgi = self._gate

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Serve; what is still being answered at the end is given up."""
        manager = StreamableHTTPSessionManager(
            protocol_server(self._app), stateless=True, json_response=True, max_request_body_size=MOST_BODY
        )
        async with manager.run():
            self._gate.protocol = manager.handle_request
            try:
                yield
            finally:
                self._gate.protocol = None


def mcp_door(app: App) -> McpDoor:
    """The door for agents, of an app."""
    return McpDoor(app)


_HOW = "send `Authorization: Bearer ca_agent_…` or a run's `ca_run_…`; an operator can issue one"


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for given, value in scope["headers"] if given == name]


def _split(origin: str) -> SplitResult:
    try:
        parts = urlsplit(origin)
        # Asking is what checks it.
        _ = parts.port
    except ValueError:
        return urlsplit("")
    return parts


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def _problem(status: int, error: CompanyAgentsError, *headers: tuple[bytes, bytes]) -> Asgi:
    """RFC 9457, as the REST door has it."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error.sentence,
        "code": error.reason,
        "hint": error.hint,
    }
    return _json(status, body, b"application/problem+json", (b"cache-control", b"no-store"), *headers)


def _json(status: int, value: dict[str, Any], media_type: bytes, *headers: tuple[bytes, bytes]) -> Asgi:
    body = json.dumps(value, ensure_ascii=False).encode()
    length = str(len(body)).encode()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        sent = [(b"content-type", media_type), (b"content-length", length), *headers]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return answer
