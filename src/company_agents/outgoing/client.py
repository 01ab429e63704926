"""
The outgoing call: one call, one destination, the reply searched.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_plus

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from company_agents import __version__
from company_agents.errors import Refused, Unavailable
from company_agents.outgoing import guard, header_rules, redirects, websocket
from company_agents.outgoing.addresses import Reach
from company_agents.outgoing.destination import Destination, Placed
from company_agents.outgoing.failures import FOREIGN, explain
from company_agents.outgoing.match import Target, admit
from company_agents.outgoing.reply import Explain, StreamedReply
from company_agents.outgoing.reply_search import Patterns
from company_agents.sensitive import Sensitive

MEBIBYTE = 1024 * 1024
_LONGEST_HEADER = 32 * 1024

# Methods whose body has no meaning (RFC 9110, 9.3), so that servers may leave it unread.
_BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class OutgoingRequest:
    """
    What a caller asks for. `path` and `query` are as on the wire: percent-encoded, without `?`. `host` is one of the
    destination's; None: the first.

    A body that is an async iterable is streamed, cannot be sent twice, and so does not follow a
    redirect that asks for it again. `length` says how many bytes it has, where that is known; else it goes in chunks.

    `socket`: a WebSocket is asked for, with these subprotocols.
    """

    method: str
    path: str
    query: str = field(default="", repr=False)
    headers: header_rules.Headers = field(default=(), repr=False)
    body: bytes | AsyncIterable[bytes] = field(default=b"", repr=False)
    host: str | None = None
    length: int | None = None
    socket: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class OutgoingReply:
    """
    A whole reply, decoded and searched. `removed` counts the places where the credential stood.
    """

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes = field(repr=False)
    removed: int = 0


class Outgoing:
    """
    Makes outgoing calls; one for the whole process, between `start` and `close`.

    Args:
        networks: the private networks that a destination which may go to private ones may reach; None: all.
        ca_file: certificates of authorities that are trusted besides the system's.
        connect_time: seconds until a connection stands, look-up and handshake included.
        call_time: seconds for a whole buffered call.
        idle_time: seconds that a streamed reply may be silent.
        request_limit: bytes of a request's body.
        stream_limit: bytes of one that is streamed.
        message_limit: bytes of a message of a WebSocket.
        reply_limit: bytes of a buffered reply's body, before and after decoding.
        connections: open at once per kind of network. Far more than one company may have calls under way: who
            waits here would wait for another company's.
        resolve: another look-up of names.
        watched: entered with the credential while a call goes on, so that logs can be kept free of it.
    """

    def __init__(
        self,
        *,
        networks: guard.Networks = None,
        ca_file: Path | None = None,
        connect_time: float = 10,
        call_time: float = 60,
        idle_time: float = 300,
        request_limit: int = 10 * MEBIBYTE,
        stream_limit: int = 4096 * MEBIBYTE,
        message_limit: int = MEBIBYTE,
        reply_limit: int = 10 * MEBIBYTE,
        connections: int = 1000,
        resolve: guard.Resolve = guard.resolve,
        watched: Callable[[Sensitive], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        self._networks = networks
        self._ca_file = ca_file
        self._connect_time = connect_time
        self._call_time = call_time
        self._idle_time = idle_time
        self._request_limit = request_limit
        self._stream_limit = stream_limit
        self._message_limit = message_limit
        self._reply_limit = reply_limit
        self._connections = connections
        self._resolve = resolve
        self._watched = watched
        self._sessions: dict[tuple[Reach, bool], aiohttp.ClientSession] = {}
        self._socket_sessions: dict[Reach, aiohttp.ClientSession] = {}

    async def start(self) -> None:
        """
        Open the pools: one per reach, so that no connection is used by a call whose guard would refuse it; and one for
        connections that serve once.
        """
        tls = await asyncio.to_thread(tls_context, self._ca_file)
        for reach in Reach:
            for once in (False, True):
                pool = guard.connector(reach, tls, self._resolve, self._connections, networks=self._networks, once=once)
                session = self._sessions[reach, once] = self._session(pool)
                # aiohttp sends once more what may be sent twice, by its method, where a connection broke off: the server may
                # have closed it before. One that serves once was not closed before, so what went over it may have arrived.
                session._retry_connection = not once
                if not once:
                    self._socket_sessions[reach] = self._session(
                        pool, middlewares=(websocket.never_elsewhere,), connector_owner=False
                    )

    async def close(self) -> None:
        """Close all connections."""
        sessions = (*self._socket_sessions.values(), *self._sessions.values())
        self._sessions, self._socket_sessions = {}, {}
        for session in sessions:
            await session.close()

    async def call(self, request: OutgoingRequest, destination: Destination, credential: Sensitive) -> OutgoingReply:
        """
        Make one call and return the whole reply; a 4xx or 5xx is a reply like any other.

        Raises:
            WrongUsage: the request is not well-formed.
            Refused: it may not go there, or the reply cannot be searched or is too large.
            Unavailable: no connection, no TLS, no answer in time.
        """
        try:
            async with asyncio.timeout(self._call_time):
                return await self._buffered(request, destination, credential)
        except TimeoutError:
            pass
        raise Unavailable(
            f"{destination.host} did not answer within {self._call_time:g} seconds", hint="try again later"
        )

    async def _buffered(
        self, request: OutgoingRequest, destination: Destination, credential: Sensitive
    ) -> OutgoingReply:
        async with self.stream(request, destination, credential, limit=self._reply_limit) as reply:
            body = bytearray()
            async for chunk in reply.body():
                body += chunk
            return OutgoingReply(reply.status, reply.headers, bytes(body), reply.removed)

    @asynccontextmanager
    async def stream(
        self,
        request: OutgoingRequest,
        destination: Destination,
        credential: Sensitive | None,
        *,
        limit: int | None = None,
        follows: redirects.Follows = redirects.anywhere,
        fresh: bool = False,
    ) -> AsyncIterator[StreamedReply]:
        """
        Make one call; the reply's head is there, its body comes as it is read. Without a credential there is nothing to
        search it for.

        A WebSocket that was asked for is a `SocketReply`, unless the provider answers otherwise.

        Args:
            limit: bytes of the reply's body; None: any number.
            follows: which redirects are followed.
            fresh: over a connection of its own, so that none can turn out to have been closed meanwhile; and once, whatever
                the method.

        Raises: like `call`, also while the body is read. `NotSent` and `AddressRefused`: nothing was sent.
        """
        placed = destination.placement.place(credential) if credential else _NOTHING
        patterns = Patterns.shared(placed.searched)
        with ExitStack() as watching:
            for secret in ((credential, *placed.searched) if placed.signer else (credential,)) if credential else ():
                watching.enter_context(self._watched(secret))
            if placed.signer and not placed.signer.may_stream(destination.scheme, request.length):
                request = await self._at_hand(request)
            if request.socket is not None:
                async with self._socket(request, destination, placed, patterns) as socket:
                    yield socket
                return
            response, host, explain = await self._follow(request, destination, placed, follows, fresh)
            try:
                yield StreamedReply(response, host, patterns, limit, explain)
            finally:
                response.close()

    async def _follow(
        self,
        request: OutgoingRequest,
        destination: Destination,
        placed: Placed,
        follows: redirects.Follows,
        fresh: bool,
    ) -> tuple[aiohttp.ClientResponse, str, Explain]:
        """Send the request, and follow redirects as long as the same predicate says yes."""
        hop = self._first_hop(request, destination, placed)
        left = redirects.MOST
        while True:
            upload = _Upload(hop, self._stream_limit)
            response = await self._send(hop, destination, placed, upload, request.length, fresh=fresh)
            locations = response.headers.getall("Location", [])
            following = redirects.following(hop, response.status, locations, destination, follows) if left else None
            if following is None:
                return response, hop.target.host, upload.explain
            response.close()
            hop, left = following, left - 1

    def _socket(
        self, request: OutgoingRequest, destination: Destination, placed: Placed, patterns: Patterns
    ) -> AbstractAsyncContextManager[StreamedReply]:
        url, headers = _dressed(self._first_hop(request, destination, placed), destination, placed)
        session = self._socket_sessions.get(destination.reach)
        if session is None:
            raise Unavailable("outgoing calls are closed")
        limits = {"limit": self._message_limit, "reply_limit": self._reply_limit}
        return websocket.opened(session, url, headers, request.socket or (), patterns, **limits)

    async def _at_hand(self, request: OutgoingRequest) -> OutgoingRequest:
        """A request whose body is there whole, since it is signed."""
        if isinstance(request.body, bytes):
            return request
        body = bytearray()
        async for chunk in request.body:
            body += chunk
            if len(body) > self._request_limit:
                raise _too_large(self._request_limit)
        return replace(request, body=bytes(body), length=None)

    def _first_hop(self, request: OutgoingRequest, destination: Destination, placed: Placed) -> redirects.Hop:
        if isinstance(request.body, bytes) and len(request.body) > self._request_limit:
            raise _too_large(self._request_limit)
        if request.length is not None and request.length > self._stream_limit:
            raise _too_large(self._stream_limit)
        host = request.host or destination.host
        target = Target(destination.scheme, host, destination.port, request.method, request.path, request.query)
        return redirects.Hop(target, header_rules.for_request(request.headers, placed.header), request.body)

    async def _send(
        self,
        hop: redirects.Hop,
        destination: Destination,
        placed: Placed,
        upload: _Upload,
        length: int | None,
        *,
        fresh: bool,
    ) -> aiohttp.ClientResponse:
        url, headers = _dressed(hop, destination, placed)
        if length is not None and not isinstance(hop.body, bytes):
            headers["Content-Length"] = str(length)
        # A server that leaves a body unread takes it for the next request on this connection, another caller's.
        once = fresh or (bool(hop.body) and hop.target.method in _BODILESS)
        session = self._sessions.get((destination.reach, once))
        if session is None:
            raise Unavailable("outgoing calls are closed")
        try:
            return await session.request(
                hop.target.method, url, headers=headers, data=upload.data, allow_redirects=False
            )
        except FOREIGN as exc:
            failure = upload.explain(exc)
        raise failure

    def _session(self, connector: aiohttp.TCPConnector, **more: Any) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # neither proxies nor .netrc
            auto_decompress=False,
            skip_auto_headers=("Content-Type",),
            headers={"User-Agent": f"company-agents/{__version__}", "Accept-Encoding": "gzip, deflate"},
            timeout=aiohttp.ClientTimeout(
                total=None, connect=self._connect_time, sock_connect=self._connect_time, sock_read=self._idle_time
            ),
            max_field_size=_LONGEST_HEADER,
            max_line_size=_LONGEST_HEADER,
            **more,
        )


_NOTHING = Placed(None, None, Sensitive(b""), ())


class _Upload:
    """
    The body of one request, and why the request failed: aiohttp wraps what a streamed body raises.
    """

    def __init__(self, hop: redirects.Hop, limit: int) -> None:
        self._host = hop.target.host
        self._body = hop.body
        self._limit = limit
        self._failure: Exception | None = None

    @property
    def data(self) -> bytes | AsyncIterable[bytes] | None:
        """What aiohttp is to send; None for no body at all."""
        return (self._body or None) if isinstance(self._body, bytes) else self._bounded(self._body)

    async def _bounded(self, body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        size = 0
        try:
            async for chunk in body:
                size += len(chunk)
                if size > self._limit:
                    raise _too_large(self._limit)
                yield chunk
        except Exception as exc:
            self._failure = exc
            raise

    def explain(self, error: Exception) -> Exception:
        """What the body itself raised, or else the sentence for the library's error."""
        return self._failure or explain(error, self._host)


def _dressed(hop: redirects.Hop, destination: Destination, placed: Placed) -> tuple[URL, CIMultiDict[str]]:
    """URL and headers with the credential in its place: added last, and only to what the predicate admits."""
    target, headers = hop.target, hop.headers.copy()
    if placed.parameter:
        target = replace(target, query=_with_parameter(target.query, placed.parameter, placed.value.reveal_text()))
    if placed.signer:
        # A sign that some read as a blank and others as itself would make it another signature.
        target = replace(target, query=target.query.replace("+", "%20"))
    url = admit(destination, target)
    if placed.header:
        headers[placed.header] = placed.value.reveal_text()
    if placed.signer:
        placed.signer.sign(target.method, url, headers, hop.body if isinstance(hop.body, bytes) else None)
    return url, headers


def _with_parameter(query: str, name: str, value: str) -> str:
    """`query` with this one parameter; the caller's own of that name goes, however it is spelled."""
    others = [part for part in query.split("&") if part and not _is_named(part, name)]
    return "&".join([*others, f"{quote(name, safe='')}={value}"])


def _is_named(part: str, name: str) -> bool:
    return unquote_plus(part.partition("=")[0]).casefold() == name.casefold()


def _too_large(limit: int) -> Refused:
    return Refused(f"the body of the request is larger than {limit} bytes")


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """What a connection of ours demands of TLS; `ca_file`: authorities that are trusted besides the system's."""
    # Not `create_default_context`: that one writes session keys where SSLKEYLOGFILE says.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # certificates and host names are checked
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_default_certs()
    if ca_file:
        context.load_verify_locations(ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context
