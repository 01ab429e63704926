"""
One call whose reply is read as a whole: words in, words out.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from multidict import CIMultiDictProxy

from company_agents.errors import WrongUsage
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.integrations.relay import Relay
from company_agents.outgoing.client import OutgoingRequest

Query = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the provider answered: parsed JSON, else text, else `{"base64": …}`."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Requests:
    """Calls in the name of a company, by its agents."""

    relay: Relay

    async def request(
        self,
        caller: Caller,
        integration: str,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        wait: float = 0,
    ) -> Reply:
        """
        Make one call with an integration's credential.

        Args:
            integration: its id or its name.
            path: the absolute path on the provider's host, percent-encoded.
            body: an object or a list (sent as JSON), a string, or nothing.
            wait: seconds that the caller waits for a person's approval, where one is needed.

        Raises:
            NotFound: no such integration, or not for this agent; both read alike.
            Refused: the run was cut off from its version (`credential_cut`), the call may not go there, or its reply may not come back.
            TooMany: the company has as many calls under way as it may.
            Unavailable: the provider, or our own record, cannot be reached.
            WrongUsage: method, path, query, headers or body will not do.
        """
        # Decided before anything is opened: a request that cannot be made is no use of a credential.
        caller.require(Permission.INTEGRATION_USE)
        outgoing_headers, content = _encoded(headers or {}, body)
        request = OutgoingRequest(method.upper(), path, _query(query or {}), outgoing_headers, content)
        async with self.relay.open(caller, integration, request, wait=wait, whole=True) as relayed:
            return shown_reply(relayed.status, relayed.headers, await relayed.whole())


def _query(query: Query) -> str:
    pairs: list[tuple[str, str]] = []
    for name, value in query.items():
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, bool):
                pairs.append((name, "true" if entry else "false"))
            elif isinstance(entry, (str, int)) or (isinstance(entry, float) and math.isfinite(entry)):
                pairs.append((name, str(entry)))
            elif entry is not None:
                raise WrongUsage("a query parameter is neither text nor a number, nor a list of them")
    try:
        return urlencode(pairs)
    except UnicodeEncodeError:
        raise WrongUsage("the query is not text that can be sent") from None


def _encoded(headers: Mapping[str, str], body: Any) -> tuple[dict[str, str], bytes]:
    given = {str(name): str(value) for name, value in headers.items()}
    names = {name.lower() for name in given}
    if body is None:
        return given, b""
    if isinstance(body, str):
        if "content-type" not in names:
            given["Content-Type"] = "text/plain; charset=utf-8"
        return given, _utf8(body)
    if "content-type" not in names:
        given["Content-Type"] = "application/json"
    try:
        return given, _utf8(json.dumps(body, separators=(",", ":"), allow_nan=False))
    except ValueError:
        # Written as 1e400, it was a number; what Python makes of it is none that JSON has.
        raise WrongUsage("the body holds a number that is too large") from None


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise WrongUsage("the body is not text that can be sent") from None


def shown_reply(status: int, given: CIMultiDictProxy[str], body: bytes) -> Reply:
    """A reply that was read as a whole, in words."""
    headers: dict[str, str] = {}
    for name, value in given.items():
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return Reply(status, headers, _body(headers.get("content-type", ""), body))


def _body(content_type: str, body: bytes) -> Any:
    media_type = content_type.partition(";")[0].strip().lower()
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}
    if media_type == "application/json" or media_type.endswith("+json"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text
