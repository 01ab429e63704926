"""
The one predicate: may this credential go there?

It is asked for a request, for each redirect, and it makes the URL that is connected to and sent:
there is no other way from a path to a URL in this package. What was judged is what is sent, byte
for byte; nothing is normalised afterwards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from yarl import URL

from company_agents.errors import Refused, WrongUsage
from company_agents.outgoing.destination import Destination, origin
from company_agents.outgoing.header_rules import TOKEN


@dataclass(frozen=True, slots=True)
class Target:
    """
    What is asked for. `path` and `query` are as on the wire: percent-encoded, without `?`.
    """

    scheme: str
    host: str
    port: int
    method: str
    path: str
    query: str = field(default="", repr=False)


def admit(destination: Destination, target: Target) -> URL:
    """
    The URL of `target`, if the credential of `destination` may go there.

    Raises:
        Refused: it is another scheme, host or port, or a method that is never sent.
        WrongUsage: the path, the query or the method is not well-formed.
    """
    same_server = (target.scheme, target.port) == (destination.scheme, destination.port)
    if not same_server or target.host not in destination.hosts:
        there = origin(target.scheme, target.host, target.port)
        raise Refused(f"the credential is for {destination.origin} and does not go to {there}")
    well_formed(target.method, target.path, target.query)
    return _url(target)


def well_formed(method: str, path: str, query: str) -> None:
    """
    Whether a credential could go along with such a request at all.

    Raises:
        Refused: a method that is never sent.
        WrongUsage: the path, the query or the method is not well-formed.
    """
    _check_method(method)
    _check_path(path)
    _check_query(query)


def _url(target: Target) -> URL:
    host = f"[{target.host}]" if ":" in target.host else target.host
    url = URL.build(
        scheme=target.scheme,
        host=host,
        port=target.port,
        path=target.path,
        query_string=target.query,
        encoded=True,
    )
    sent = (url.scheme, url.raw_host, url.port, url.raw_path, url.raw_query_string)
    # Should the library ever take to tidying, the call stops here instead of going elsewhere.
    if sent != (target.scheme, target.host, target.port, target.path, target.query):
        raise WrongUsage("this path cannot be sent exactly as it is written")
    return url


# TRACE and its older sibling answer with the request, credential and all (RFC 9110, 9.3.8); CONNECT opens a tunnel.
_NEVER_SENT = frozenset({"CONNECT", "TRACE", "TRACK"})


def _check_method(method: str) -> None:
    if not TOKEN.fullmatch(method) or method != method.upper():
        raise WrongUsage("this is not an HTTP method", hint="write it in capitals: GET, POST, …")
    if method in _NEVER_SENT:
        raise Refused(f"the method {method} is never sent with a credential")


_PATH = re.compile(r"/(?!/)(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")  # RFC 3986, 3.3
_QUERY = re.compile(r"[\x21\x22\x24-\x7e]*")  # printable ASCII but "#": what clients send is wider than RFC 3986
_LONGEST_PATH = 8 * 1024
_LONGEST_QUERY = 32 * 1024
_MOST_DECODINGS = 8
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


def _check_query(query: str) -> None:
    if len(query) > _LONGEST_QUERY:
        raise WrongUsage(f"the query is longer than {_LONGEST_QUERY} characters")
    if not _QUERY.fullmatch(query):
        raise WrongUsage("the query holds characters that must be percent-encoded")


def _check_path(path: str) -> None:
    if len(path) > _LONGEST_PATH:
        raise WrongUsage(f"the path is longer than {_LONGEST_PATH} characters")
    if not path.startswith("/"):
        raise WrongUsage("the path begins with /")
    if "?" in path or "#" in path:
        raise WrongUsage("the path holds a query or a fragment", hint="the query is given apart from it")
    if not _PATH.fullmatch(path):
        raise WrongUsage(
            "the path holds characters that must be percent-encoded, or begins with //",
            hint="percent-encode spaces, backslashes and everything outside of ASCII",
        )
    decoded = _fully_decoded(path)
    if _CONTROL.search(decoded):
        raise WrongUsage("the path holds an encoded control character")
    # `..;x` is `..` to servers that know path parameters.
    segments = (segment.partition(b";")[0] for segment in decoded.replace(b"\\", b"/").split(b"/"))
    if any(segment in (b".", b"..") for segment in segments):
        raise WrongUsage("the path holds a dot segment", hint="write the path that is meant, without . and ..")


def _fully_decoded(path: str) -> bytes:
    """The path after as many decodings as a chain of servers could apply."""
    decoded = path.encode()
    for _ in range(_MOST_DECODINGS):
        before, decoded = decoded, unquote_to_bytes(decoded)
        if before == decoded:
            return decoded
    raise WrongUsage("the path is percent-encoded too many times over")
