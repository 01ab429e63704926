"""
Redirects are decided anew, by the predicate that decided the request.

One that the credential may follow is followed; any other is the caller's to see, as it came, and
the credential goes nowhere.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Callable, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urljoin, urlsplit

from multidict import CIMultiDict

from company_agents.errors import Refused, WrongUsage
from company_agents.outgoing.destination import Destination, origin, parse_origin
from company_agents.outgoing.match import Target, admit

MOST = 5
"""Redirects that are followed in one call; the next one is handed to the caller."""

_ABOUT_THE_BODY = ("Content-Type", "Content-Encoding", "Content-Language", "Content-Location")
_VISIBLE = re.compile(r"[\x21-\x5b\x5d-\x7e]+")  # no backslash: browsers and libraries disagree about it


@dataclass(frozen=True, slots=True)
class Hop:
    """One request of a call, without the credential."""

    target: Target
    headers: CIMultiDict[str] = field(repr=False)
    body: bytes | AsyncIterable[bytes] = field(repr=False)


Follows = Callable[[Target], bool]
"""Whether a redirect to there is followed, where the credential may go there."""


def anywhere(target: Target) -> bool:
    """Yes."""
    return True


def nowhere(target: Target) -> bool:
    """No: the redirect is the caller's to see."""
    return False


def following(
    hop: Hop, status: int, locations: Sequence[str], destination: Destination, follows: Follows = anywhere
) -> Hop | None:
    """The request that follows from this reply, or None where the reply is the end of it."""
    if status not in (301, 302, 303, 307, 308) or len(locations) != 1:
        return None
    try:
        target = _target(hop.target, locations[0])
        admit(destination, target)
    except (ValueError, Refused, WrongUsage):
        return None
    further = _rewritten(replace(hop, target=target), status)
    return further if further is not None and follows(further.target) else None


def _target(asked: Target, location: str) -> Target:
    if not _VISIBLE.fullmatch(location):
        raise ValueError("not an address")
    parts = urlsplit(urljoin(origin(asked.scheme, asked.host, asked.port) + asked.path, location))
    scheme, host, port = parse_origin(f"{parts.scheme}://{parts.netloc}")
    return Target(scheme, host, port, asked.method, parts.path or "/", parts.query)


def _rewritten(hop: Hop, status: int) -> Hop | None:
    """Method and body for the next request: RFC 9110, 15.4, with POST as browsers do it."""
    method = hop.target.method
    if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
        headers = CIMultiDict(hop.headers)
        for name in _ABOUT_THE_BODY:
            headers.popall(name, None)
        return Hop(replace(hop.target, method="GET"), headers, b"")
    # A streamed body is gone once it is sent.
    return hop if isinstance(hop.body, bytes) else None
