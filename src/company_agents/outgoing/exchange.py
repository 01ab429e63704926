"""
One exchange with a server that is told secrets of its own: an authorization server, or a receiver of ours.

The same guard, certificates and addresses as the outgoing call; unlike it, no redirect is followed, no connection serves
twice, and the answer is not searched: a token endpoint answers with secrets, and they are wanted.
"""

from __future__ import annotations

import asyncio
import json as json_text
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from company_agents import __version__
from company_agents.errors import CompanyAgentsError, Refused, Unavailable, WrongUsage
from company_agents.outgoing import decoding, guard
from company_agents.outgoing.addresses import Reach
from company_agents.outgoing.client import MEBIBYTE, tls_context
from company_agents.outgoing.destination import Destination, Placement, parse_origin
from company_agents.outgoing.failures import FOREIGN, explain
from company_agents.outgoing.header_rules import TOKEN
from company_agents.outgoing.match import Target, admit
from company_agents.sensitive import Sensitive

Value = str | Sensitive
Fields = Mapping[str, Value]

_BEFORE_IT_WAS_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_LONGEST_HEADER = 32 * 1024


class NotSent(Unavailable):
    """no connection came about; nothing was sent"""

    code = "not_sent"


class Lost(Unavailable):
    """it was sent, and no whole answer came back"""

    code = "answer_lost"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, decoded. It may hold secrets: neither its headers nor its body are for a log."""

    status: int
    headers: CIMultiDictProxy[str] = field(repr=False)
    body: bytes = field(repr=False)


class Exchange:
    """
    Makes exchanges; one for the whole process, between `start` and `close`.

    Args:
        networks: the private networks that may be reached where private ones may; None: all.
        ca_file: certificates of authorities that are trusted besides the system's.
        connect_time: seconds until a connection stands, look-up and handshake included.
        call_time: seconds for all of one exchange; more than `connect_time`.
        answer_limit: bytes of an answer's body, before and after decoding.
        connections: open at once per kind of network.
        resolve: another look-up of names.
        watched: entered with each secret that is sent, so that logs can be kept free of it.
    """

    def __init__(
        self,
        *,
        networks: guard.Networks = None,
        ca_file: Path | None = None,
        connect_time: float = 10,
        call_time: float = 20,
        answer_limit: int = MEBIBYTE,
        connections: int = 200,
        resolve: guard.Resolve = guard.resolve,
        watched: Callable[[Sensitive], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        self._networks = networks
        self._ca_file = ca_file
        self._connect_time = min(connect_time, call_time / 2)
        self._call_time = call_time
        self._answer_limit = answer_limit
        self._connections = connections
        self._resolve = resolve
        self._watched = watched
        self._sessions: dict[Reach, aiohttp.ClientSession] = {}

    async def start(self) -> None:
        """Open the pools: one per reach, so that no connection is used by a call whose guard would refuse it."""
        tls = await asyncio.to_thread(tls_context, self._ca_file)
        self._sessions = {reach: self._session(reach, tls) for reach in Reach}

    async def close(self) -> None:
        """Close all connections."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Fields | None = None,
        form: Fields | None = None,
        json: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        allow_private: bool = False,
        basic: tuple[str, Sensitive] | None = None,
    ) -> Answer:
        """
        Send one request and return the whole answer; a redirect, a 4xx or 5xx is an answer like any other.

        Args:
            form, json, body: at most one of them. A `Sensitive` in a form, or on the first level of `json`, is written out.
            basic: user and password, as they go into the header (RFC 7617): encoded already, where that is asked for.

        Raises:
            WrongUsage: the address or a header will not do; nothing was sent.
            Refused: the name leads to an address that may not be connected to; nothing was sent.
            NotSent: no connection; nothing was sent.
            Lost: it may have been received, and what came back is no whole answer.
        """
        target, reach = admitted(method, url, allow_private=allow_private)
        session = self._sessions.get(reach)
        if session is None:
            raise NotSent("outgoing calls are closed")
        content, kind = _content(form, json, body)
        dressed = _headers(headers or {}, kind)
        if basic:
            dressed["Authorization"] = _basic(*basic)
        with ExitStack() as watching:
            for secret in _secrets(headers, form, json, dict([basic]) if basic else None):
                watching.enter_context(self._watched(secret))
            return await self._exchanged(session, method, target, dressed, content)

    async def _exchanged(
        self, session: aiohttp.ClientSession, method: str, url: URL, headers: CIMultiDict[str], content: bytes | None
    ) -> Answer:
        host = url.raw_host or ""
        failure: CompanyAgentsError
        try:
            async with (
                asyncio.timeout(self._call_time),
                session.request(method, url, headers=headers, data=content, allow_redirects=False) as response,
            ):
                return await self._read(response, host)
        except FOREIGN as exc:
            failure = _failure(exc, host)
        raise failure

    async def _read(self, response: aiohttp.ClientResponse, host: str) -> Answer:
        decoder = decoding.decoder(response.headers.getall("Content-Encoding", []))
        if decoder is None:
            raise Lost(f"{host} answered in a content encoding that it was not asked for")
        taken, body = 0, bytearray()
        try:
            async for data in response.content.iter_any():
                taken += len(data)
                for piece in decoder.feed(data):
                    body += piece
                    if max(taken, len(body)) > self._answer_limit:
                        raise Lost(f"the answer of {host} is larger than {self._answer_limit} bytes")
            decoder.finish()
        except decoding.Undecodable:
            raise Lost(f"what {host} answered is not what its content encoding says") from None
        return Answer(response.status, response.headers, bytes(body))

    def _session(self, reach: Reach, tls: ssl.SSLContext) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # A connection that serves once cannot be found closed by the time that the second request goes out, and
            # then nobody could tell whether that request arrived.
            connector=guard.connector(reach, tls, self._resolve, self._connections, networks=self._networks, once=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # neither proxies nor .netrc
            auto_decompress=False,
            skip_auto_headers=("Content-Type",),
            headers={"User-Agent": f"company-agents/{__version__}", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_time, sock_connect=self._connect_time),
            max_field_size=_LONGEST_HEADER,
            max_line_size=_LONGEST_HEADER,
        )


def admitted(method: str, url: str, *, allow_private: bool) -> tuple[URL, Reach]:
    """
    An absolute address, ready to be asked, and the addresses that it may lead to.

    Raises:
        WrongUsage: it is none, or not https (http, where private networks are allowed). The sentence does not
            repeat it.
    """
    if not url.isascii() or not url.isprintable() or any(sign in url for sign in ' \\#"<>'):
        raise WrongUsage("this is not an address such as https://auth.example.com/token")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise WrongUsage("this is not an address such as https://auth.example.com/token") from None
    scheme, host, port = parse_origin(f"{parts.scheme}://{parts.netloc}")
    destination = Destination(scheme, host, port, Placement.header(), allow_private)
    return admit(destination, Target(scheme, host, port, method, parts.path or "/", parts.query)), destination.reach


def _content(form: Fields | None, json: Mapping[str, Any] | None, body: bytes | None) -> tuple[bytes | None, str]:
    if form is not None:
        return urlencode({name: _text(value) for name, value in form.items()}).encode(), (
            "application/x-www-form-urlencoded"
        )
    if json is not None:
        written = {name: _text(value) if isinstance(value, Sensitive) else value for name, value in json.items()}
        return json_text.dumps(written, separators=(",", ":"), allow_nan=False).encode(), "application/json"
    return body, ""


def _headers(given: Fields, content_type: str) -> CIMultiDict[str]:
    headers = CIMultiDict({"Content-Type": content_type} if content_type else {})
    for name, value in given.items():
        text = _text(value)
        if not TOKEN.fullmatch(name) or not text.isprintable():
            raise WrongUsage("this is not a header that can be sent")
        headers[name] = text
    return headers


def _basic(user: str, password: Sensitive) -> str:
    if ":" in user:
        raise WrongUsage("the user of Basic authentication has no colon in it")
    return "Basic " + b64encode(f"{user}:{password.reveal_text()}".encode()).decode()


def _text(value: Value) -> str:
    return value.reveal_text() if isinstance(value, Sensitive) else value


def _secrets(*given: Mapping[str, Any] | None) -> Iterable[Sensitive]:
    return [value for fields in given for value in (fields or {}).values() if isinstance(value, Sensitive)]


def _failure(error: Exception, host: str) -> CompanyAgentsError:
    """
    The error of the house. Only what is known to be before the first byte counts as not sent.
    """
    said = explain(error, host)
    if isinstance(said, Refused):
        return said
    kind = NotSent if isinstance(error, _BEFORE_IT_WAS_SENT) else Lost
    return kind(said.sentence, hint=said.hint)
