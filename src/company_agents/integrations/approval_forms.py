"""
What is sealed of a request that a person has to approve, and of the reply to it: a line of JSON, and the body as it is.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from multidict import CIMultiDict, CIMultiDictProxy

from company_agents.errors import Failed, Refused, Tampered
from company_agents.integrations.provider import Provider
from company_agents.outgoing import header_rules
from company_agents.outgoing.client import OutgoingRequest
from company_agents.outgoing.destination import Destination, Placement, origin, parse_origin
from company_agents.outgoing.match import well_formed
from company_agents.sensitive import Sensitive

FORMAT = 1
# Bytes. A secret has 64 KiB: the body, and what stands before it.
MOST_BODY = 48 * 1024
MOST_HEAD = 15 * 1024
MOST_REPLY = 63 * 1024
_LABEL = b"company-agents/approval/v1\n"

# What a client makes anew for each attempt, so that it does not make another request of the same one.
_ANEW = re.compile(
    r"idempotency-key|traceparent|tracestate|baggage|x-request-id|x-correlation-id|x-amzn-trace-id|x-b3-.*|date"
    r"|x-stainless-.*|x-stripe-client-telemetry|x-cloud-trace-context|newrelic|sentry-trace"
)

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class AsSent:
    """One request exactly as it is shown, and as it is sent once it is approved; the credential is added then."""

    approval: UUID
    integration: UUID
    version: int
    method: str
    scheme: str
    host: str
    port: int
    path: str
    query: str
    headers: Pairs = field(repr=False)
    body: bytes = field(repr=False)

    @classmethod
    async def of(
        cls, approval: UUID, found: Mapping[str, Any], request: OutgoingRequest, carrier: str | None
    ) -> AsSent:
        """
        A request with what was found of its integration. `carrier` is the header that the credential goes into.

        Raises:
            WrongUsage: it could not be sent.
            Refused: it is larger than what can be kept.
        """
        well_formed(request.method, request.path, request.query)
        headers = header_rules.for_request(request.headers, carrier)
        scheme, host, port = parse_origin(found["destination"])
        asked = cls(
            approval,
            found["id"],
            found["version"],
            request.method,
            scheme,
            request.host or host,
            port,
            request.path,
            request.query,
            tuple(headers.items()),
            await _whole(request.body),
        )
        if len(asked._head()) > MOST_HEAD:
            raise Refused(
                f"a request that a person has to approve has at most {MOST_HEAD // 1024} KiB of path, query and headers",
                code="too_large_to_ask",
            )
        return asked

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return origin(self.scheme, self.host, self.port)

    def goes_to(self, destination: Destination) -> bool:
        """Whether that is where the credential goes."""
        there = (self.scheme, self.port) == (destination.scheme, destination.port)
        return there and self.host in destination.hosts

    def request(self) -> OutgoingRequest:
        """As it goes out."""
        return OutgoingRequest(self.method, self.path, self.query, self.headers, self.body, self.host)

    @property
    def url(self) -> str:
        """Where it goes: exactly as on the wire."""
        return f"{self.origin}{self.path}{f'?{self.query}' if self.query else ''}"

    @property
    def text(self) -> str | None:
        """The body as text; None where it is none."""
        try:
            return self.body.decode()
        except UnicodeDecodeError:
            return None

    @property
    def sha256(self) -> str:
        """Of the body, in hex: for a person to compare."""
        return hashlib.sha256(self.body).hexdigest()

    def digest(self, key: Sensitive) -> bytes:
        """HMAC-SHA256 of all of it, 32 bytes."""
        return hmac.digest(key.reveal(), _LABEL + b"all\n" + self._head() + b"\n" + self.body, "sha256")

    def likeness(self, key: Sensitive) -> bytes:
        """The same, of what makes it the same request when it is made again."""
        same = [[name.lower(), value] for name, value in self.headers if not _ANEW.fullmatch(name.lower())]
        text = json.dumps([*self._place(), same], separators=(",", ":"))
        return hmac.digest(key.reveal(), _LABEL + b"like\n" + text.encode() + b"\n" + self.body, "sha256")

    def sealed_form(self) -> Sensitive:
        """The value that goes to the secret store."""
        return Sensitive(self._head() + b"\n" + self.body)

    @classmethod
    def opened(cls, value: Sensitive) -> AsSent:
        """
        Raises:
            Failed: a format that this version does not know.
            Tampered: another kind of secret.
        """
        found, body = _parts(value, "request")
        integration, version, method, scheme, host, port, path, query = found["place"]
        headers = tuple((name, text) for name, text in found["headers"])
        approval = UUID(found["approval"])
        return cls(approval, UUID(integration), version, method, scheme, host, port, path, query, headers, body)

    def _place(self) -> list[Any]:
        where = [self.method, self.scheme, self.host, self.port, self.path, self.query]
        return [str(self.integration), self.version, *where]

    def _head(self) -> bytes:
        head = {
            "format": FORMAT,
            "kind": "request",
            "approval": str(self.approval),
            "place": self._place(),
            "headers": [list(pair) for pair in self.headers],
        }
        return json.dumps(head, sort_keys=True, separators=(",", ":")).encode()


async def _whole(body: bytes | AsyncIterable[bytes]) -> bytes:
    """
    A body that is kept.

    Raises:
        Refused: it is larger than that.
    """
    if isinstance(body, bytes):
        pieces = body
    else:
        taken = bytearray()
        async for piece in body:
            taken += piece
            if len(taken) > MOST_BODY:
                break
        pieces = bytes(taken)
    if len(pieces) > MOST_BODY:
        raise Refused(
            f"the body of a request that a person has to approve has at most {MOST_BODY // 1024} KiB",
            hint="make it smaller; or an operator lets this agent make it without being asked",
            code="too_large_to_ask",
        )
    return pieces


@dataclass(frozen=True)
class KeptReply:
    """A reply as it was kept for the agent; `is_cut`: it was longer. In the place of one that is on its way."""

    status: int
    headers: CIMultiDictProxy[str]
    content: bytes = field(repr=False)
    is_cut: bool = False
    removed: int = 0

    @classmethod
    def of(
        cls, status: int, headers: Mapping[str, str], content: bytes, *, is_cut: bool = False, removed: int = 0
    ) -> KeptReply:
        """As much of a reply as can be kept."""
        kept: CIMultiDict[str] = CIMultiDict()
        size = 0
        for name, value in headers.items():
            size += len(json.dumps([name, value])) + 2
            if size <= MOST_HEAD:
                kept.add(name, value)
        room = MOST_REPLY - min(size, MOST_HEAD)
        is_cut = is_cut or len(content) > room or size > MOST_HEAD
        return cls(status, CIMultiDictProxy(kept), content[:room], is_cut, removed)

    async def body(self) -> AsyncIterator[bytes]:
        """The body, in one piece."""
        if self.content:
            yield self.content

    def sealed_form(self) -> Sensitive:
        """The value that goes to the secret store."""
        head = {
            "format": FORMAT,
            "kind": "reply",
            "status": self.status,
            "cut": self.is_cut,
            "headers": [[name, value] for name, value in self.headers.items()],
        }
        return Sensitive(json.dumps(head, sort_keys=True, separators=(",", ":")).encode() + b"\n" + self.content)

    @classmethod
    def opened(cls, value: Sensitive) -> KeptReply:
        """
        Raises:
            Failed, Tampered: as for `AsSent.opened`.
        """
        found, body = _parts(value, "reply")
        headers = CIMultiDictProxy(CIMultiDict((name, text) for name, text in found["headers"]))
        return cls(found["status"], headers, body, found["cut"])


def kept_destination(found: Mapping[str, Any], provider: Provider) -> Destination:
    """Where a reply that was kept came from, for who rewrites addresses in it. No credential goes there."""
    extra = provider.extra_hosts if provider.base_url == found["destination"] else ()
    return Destination.at(found["destination"], Placement.header(), allow_private=True, extra_hosts=extra)


def _parts(value: Sensitive, kind: str) -> tuple[dict[str, Any], bytes]:
    head, _, body = value.reveal().partition(b"\n")
    try:
        found = json.loads(head)
    except ValueError:
        # Not as a cause: that error holds the whole text.
        found = None
    if not isinstance(found, dict) or found.get("kind") != kind:
        raise Tampered("what was kept of this approval is another secret", hint="refuse it, and have it asked again")
    if found.get("format") != FORMAT:
        raise Failed("this was kept by another version", hint="refuse it, and have it asked again")
    return found, body
