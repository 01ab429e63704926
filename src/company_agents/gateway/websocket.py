"""
WebSockets: the same identity, rules and record as any call, and then messages both ways until one side closes, or whoever
opened it is no longer allowed to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import MutableMapping
from typing import Any

import structlog

from company_agents.app import App
from company_agents.ending import ended
from company_agents.errors import CompanyAgentsError, Refused, Unavailable
from company_agents.gateway import address, presented
from company_agents.gateway.answers import UNEXPECTED, refusal
from company_agents.gateway.callers import check
from company_agents.gateway.client import Receive, Send
from company_agents.integrations.relayed import Relayed
from company_agents.outgoing.client import OutgoingRequest
from company_agents.outgoing.websocket import BROKE_OFF, GOING_AWAY, NOT_ALLOWED, TOO_BIG, Closed, SocketReply, fitting

Scope = MutableMapping[str, Any]

# What the two ends of this connection agree on, and no browser's page.
_OF_THE_HANDSHAKE = "sec-websocket-"
# Seconds for which a client that reads nothing is told that it is over.
LAST_WORD = 2.0

log = structlog.stdlib.get_logger("company_agents.gateway")


class SocketDoor:
    """The part of the door that serves WebSockets."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one handshake, and relay what follows it."""
        client = _Client(scope, receive, send)
        try:
            await receive()
            await self._served(scope, client)
        except CompanyAgentsError as error:
            await client.refused(error)
        except OSError:
            # Nobody is there any more.
            return
        except Exception:
            log.exception("a connection failed")
            await client.refused(UNEXPECTED)

    async def _served(self, scope: Scope, client: _Client) -> None:
        check(scope, self._app.settings.url)
        asked = address.read(scope["raw_path"], scope["query_string"])
        presented.check_address(asked.path, asked.query)
        if asked.upload_pass is not None:
            raise Refused("an upload is sent with POST or PUT")
        given = presented.read(scope["headers"])
        protocols, tokens = presented.of_protocols(scope.get("subprotocols", ()))
        given.tokens.update(tokens)
        caller = await self._app.identity.worker(given.token())
        headers = [(name, value) for name, value in given.headers if not _is_of_this_end(name)]
        request = OutgoingRequest("GET", asked.path, asked.query, headers, b"", asked.host, socket=tuple(protocols))
        async with self._app.relay.open(caller, asked.integration, request) as relayed:
            if isinstance(relayed.reply, SocketReply):
                await client.accepted(relayed.reply.protocol)
                await self._relay(relayed, relayed.reply, client)
            else:
                # It says why not, or something else altogether.
                await client.answered(relayed.status, list(relayed.headers.items()), await relayed.whole())

    async def _relay(self, relayed: Relayed, socket: SocketReply, client: _Client) -> None:
        ways = {asyncio.create_task(_up(relayed, socket, client)), asyncio.create_task(_down(relayed, socket, client))}
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await ended(*ways)
        for way in done:
            way.result()
        relayed.ended = True


async def _up(relayed: Relayed, socket: SocketReply, client: _Client) -> None:
    """From the client to the provider, one message after the other: the next is read when this one is on its way."""
    while not isinstance(message := await client.next(), Closed):
        await _go_on(relayed)
        await socket.send(message)
    await socket.close(message.code, message.reason)


async def _down(relayed: Relayed, socket: SocketReply, client: _Client) -> None:
    """From the provider to the client."""
    while not isinstance(message := await socket.receive(), Closed):
        await _go_on(relayed)
        relayed.size += len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())
        spent = await relayed.costs.heard(message) if relayed.costs is not None else None
        await client.sent(message)
        if spent is not None:
            raise spent
    if not message.is_whole:
        raise Unavailable("the connection with the provider broke off")
    await client.closed(message.code, message.reason)


async def _go_on(relayed: Relayed) -> None:
    if relayed.hold is not None and relayed.hold.must_ask:
        await relayed.hold.go_on()


class _Client:
    """The client's end."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._is_open = self._is_answered = False

    async def next(self) -> str | bytes | Closed:
        """What it says next."""
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._is_answered = True
                return Closed(message.get("code") or GOING_AWAY, message.get("reason") or "", is_whole=True)
            said: str | bytes | None = message.get("text")
            if said is None:
                said = message.get("bytes")
            if said is not None:
                return said

    async def accepted(self, protocol: str | None) -> None:
        """The connection is open."""
        await self._send({"type": "websocket.accept", "subprotocol": protocol})
        self._is_open = True

    async def sent(self, message: str | bytes) -> None:
        """One message; waits while it takes no more."""
        kind = "text" if isinstance(message, str) else "bytes"
        await self._send({"type": "websocket.send", kind: message})

    async def closed(self, code: int, reason: str) -> None:
        """It is over, once."""
        if not self._is_answered:
            self._is_answered = True
            await self._send({"type": "websocket.close", "code": code, "reason": fitting(reason)})

    async def answered(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """What the provider answers in place of a connection."""
        kinds = [(name.lower(), value) for name, value in headers if name.lower() in ("content-type", "retry-after")]
        await self._answer(status, [(name.encode("latin-1"), value.encode("latin-1")) for name, value in kinds], body)

    async def refused(self, error: CompanyAgentsError) -> None:
        """Our own no: an answer like any other before the connection is open, and never a clean end after."""
        if error.http_status >= 500:
            log.warning("failed", code=error.reason, sentence=error.sentence)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(LAST_WORD):
                if self._is_open:
                    await self.closed(_code_of(error), error.reason)
                else:
                    status, headers, body = refusal(self._scope, error)
                    await self._answer(status, headers, body)

    async def _answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        if self._is_answered:
            return
        self._is_answered = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _code_of(error: CompanyAgentsError) -> int:
    if error.reason == "message_too_large":
        return TOO_BIG
    return NOT_ALLOWED if isinstance(error, Refused) else BROKE_OFF


def _is_of_this_end(name: str) -> bool:
    return name.startswith(_OF_THE_HANDSHAKE) or name in ("origin", "cache-control", "pragma")
