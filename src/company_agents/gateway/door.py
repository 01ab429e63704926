"""
Who calls, what for, and the answer. Plain ASGI, because all that agents do with their clients comes this way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import structlog

from company_agents.app import App
from company_agents.errors import CompanyAgentsError, Unavailable, WrongUsage
from company_agents.gateway import address, passes, presented
from company_agents.gateway.address import Address, Base
from company_agents.gateway.answers import UNEXPECTED, refusal
from company_agents.gateway.callers import check
from company_agents.gateway.client import Client, HasGone, Receive, Send
from company_agents.gateway.presented import Presented
from company_agents.gateway.rewriting import Rewriting
from company_agents.gateway.websocket import SocketDoor
from company_agents.identity.principal import Caller
from company_agents.integrations.relayed import Relayed
from company_agents.integrations.uploads import Uploads
from company_agents.outgoing.client import OutgoingRequest
from company_agents.outgoing.reply import StreamedReply

Scope = MutableMapping[str, Any]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

LONGEST_WAIT = 300
# Bytes of an answer that goes as one: what was compressed may be long.
MOST_AT_ONCE = 256 * 1024

# What a provider tells browsers about its own site, which this is not; and what only we say.
_NOT_OURS = frozenset(
    {
        *(
            "alt-svc",
            "clear-site-data",
            "date",
            "nel",
            "public-key-pins",
            "refresh",
            "report-to",
            "reporting-endpoints",
        ),
        *("service-worker-allowed", "strict-transport-security", "x-content-type-options", "x-frame-options"),
    }
)
_NOT_OURS_PREFIXES = ("access-control-", "company-agents-", "content-security-policy")
# Should a person's browser show it after all: nothing in it runs, least of all on the dashboard's origin.
_HARMLESS = [(b"content-security-policy", b"sandbox; default-src 'none'")]

log = structlog.stdlib.get_logger("company_agents.gateway")


def gateway_app(app: App) -> Asgi:
    """The door, of an app."""
    return Gateway(app).serve


class Gateway:
    """The ASGI application."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._uploads = Uploads(app.relay)
        self._sockets = SocketDoor(app)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await self._sockets.serve(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        client = Client(scope["headers"], receive)
        answer = _Answer(scope, send, client)
        try:
            await self._answered(scope, client, answer)
        except HasGone:
            return
        except asyncio.CancelledError:
            call = asyncio.current_task()
            if not client.has_gone or (call is not None and call.uncancel()):
                raise
        except CompanyAgentsError as error:
            await answer.refused(error)
        except Exception:
            log.exception("a call failed")
            await answer.refused(UNEXPECTED)
        finally:
            client.close()

    async def _answered(self, scope: Scope, client: Client, answer: _Answer) -> None:
        check(scope, self._app.settings.url)
        asked = address.read(scope["raw_path"], scope["query_string"])
        presented.check_address(asked.path, asked.query)
        given = presented.read(scope["headers"])
        if asked.upload_pass is not None:
            await self._uploaded(asked, given, scope, client, answer)
            return
        token = given.token()
        caller = await self._app.identity.worker(token)
        wait = _wait(scope)
        request = await _request(scope, asked, given, client)
        async with self._app.relay.open(caller, asked.integration, request, wait=wait) as relayed:
            rewriting = self._rewriting(scope, asked, relayed, caller, token)
            headers = [(name, rewriting.header(name, value)) for name, value in relayed.headers.items()]
            kind = relayed.headers.get("Content-Type", "")
            await answer.given(relayed, headers, rewriting.body(kind, relayed.body()))

    def _rewriting(self, scope: Scope, asked: Address, relayed: Relayed, caller: Caller, token: str) -> Rewriting:
        destination = relayed.destination

        def passing(origin: str, path: str, query: str) -> str:
            made = passes.UploadPass.for_(
                caller, relayed.integration_id, origin, allow_private=destination.allow_private
            )
            return made.sealed(token, path, query)

        def based() -> Base:
            return Base.of(scope, self._app.settings.url, asked.integration)

        return Rewriting(destination, relayed.provider.addresses, based, passing)

    async def _uploaded(self, asked: Address, given: Presented, scope: Scope, client: Client, answer: _Answer) -> None:
        assert asked.upload_pass is not None
        caller, good_for = await passes.opened(self._app.identity, asked.upload_pass, asked.path, asked.query)
        request = await _request(scope, asked, given, client)
        upload = self._uploads.open(
            *(caller, asked.integration, good_for.integration_id, request, good_for.origin),
            private=good_for.allow_private,
        )
        async with upload as reply:
            await answer.given(reply, list(reply.headers.items()), reply.body())


class _Answer:
    """The answer to one request. What has begun is ended only when all of it was given."""

    def __init__(self, scope: Scope, send: Send, client: Client) -> None:
        self._scope = scope
        self._send = send
        self._client = client
        self._has_begun = False

    async def given(
        self, reply: Relayed | StreamedReply, headers: list[tuple[str, str]], body: AsyncIterator[bytes]
    ) -> None:
        """A provider's answer, as it comes; one that is short and here already goes as one."""
        status = reply.status
        if not 200 <= status <= 599:
            raise Unavailable("the service answered with a status that there is not")
        sent = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers if _is_for_client(name)
        ]
        sent += _HARMLESS
        first, is_all = await _at_once(body) if reply.has_arrived else (b"", False)
        if self._scope["method"] == "HEAD":
            sent += [] if reply.length is None else [(b"content-length", b"%d" % reply.length)]
        elif is_all and status not in (204, 304):
            sent.append((b"content-length", b"%d" % len(first)))
        await self._begin(status, sent)
        if first and not is_all:
            await self._send({"type": "http.response.body", "body": first, "more_body": True})
        if not is_all:
            first = b""
            async for piece in body:
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        self._client.is_answered = True
        await self._send({"type": "http.response.body", "body": first})

    async def refused(self, error: CompanyAgentsError) -> None:
        """An answer of our own. Where another has begun, it stays without an end, and the server breaks the connection."""
        if self._has_begun:
            log.warning("a reply broke off", code=error.reason, sentence=error.sentence)
            return
        if error.http_status >= 500:
            log.warning("failed", code=error.reason, sentence=error.sentence)
        status, headers, body = refusal(self._scope, error)
        await self._begin(status, headers)
        self._client.is_answered = True
        await self._send({"type": "http.response.body", "body": body})

    async def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        if not self._client.is_read:
            # What is left of the body is nothing that anybody waits for.
            headers = [*headers, (b"connection", b"close")]
        self._has_begun = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


async def _at_once(body: AsyncIterator[bytes]) -> tuple[bytes, bool]:
    """The first of a body that waits for nobody, and whether that is all."""
    first = b""
    async for piece in body:
        first += piece
        if len(first) > MOST_AT_ONCE:
            return first, False
    return first, True


def _is_for_client(name: str) -> bool:
    folded = name.lower()
    return folded not in _NOT_OURS and not folded.startswith(_NOT_OURS_PREFIXES)


def _wait(scope: Scope) -> float:
    """The seconds for which a client waits for a person's approval."""
    given = next((value for name, value in scope["headers"] if name == b"company-agents-wait"), b"0")
    if not given.isdigit() or len(given) > 3 or int(given) > LONGEST_WAIT:
        raise WrongUsage(f"Company-Agents-Wait is a number of seconds, {LONGEST_WAIT} at most")
    return float(given)


async def _request(scope: Scope, asked: Address, given: Presented, client: Client) -> OutgoingRequest:
    body = await client.body()
    return OutgoingRequest(scope["method"], asked.path, asked.query, given.headers, body, asked.host, client.length)
