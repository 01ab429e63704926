"""
How a key source fails, in one set of words for all kinds. No sentence holds what an address may hide.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from company_agents.errors import Busy, MayNotStart, Refused, Unavailable


class SourceUnavailable(Unavailable):
    """the key source cannot be reached"""

    code = "key_source_unavailable"


class SourceReadOnly(Refused):
    """the key source may be read, and not written"""

    code = "key_source_read_only"


class SourceChanged(Busy):
    """the key source was changed by somebody else meanwhile"""

    code = "key_source_changed"


def unreachable(address: str, error: BaseException) -> SourceUnavailable:
    """Why a source was not reached, from whatever a client library made of it."""
    causes = list(_causes(error))
    # Words are for libraries that leave no more than words: they may stand in the address too.
    telling = any(isinstance(cause, (socket.gaierror, ssl.SSLError, TimeoutError, ConnectionError)) for cause in causes)
    text = "" if telling else " ".join(str(cause) for cause in causes)
    if _any(causes, text, (socket.gaierror,), r"NameResolution|getaddrinfo|Name or service|[Dd]omain name|DNS"):
        return _failed(address, "name", "its host's name does not resolve", "check the host in its address, and DNS")
    if _any(causes, text, (ssl.SSLError,), r"SSL|CERTIFICATE|certificate|TLS"):
        return _failed(
            address, "tls", "its TLS certificate is not trusted, or it does not speak TLS", "check its CA settings"
        )
    if _any(causes, text, (TimeoutError,), r"[Tt]imed? ?out|[Dd]eadline"):
        return _failed(address, "timeout", "it does not answer in time", "is it up, and reachable from here?")
    if _any(causes, text, (ConnectionError,), r"[Rr]efused|[Uu]nreachable|[Cc]onnect"):
        return _failed(address, "refused", "nothing takes the connection", "is it up, and is its port right?")
    return _failed(address, "unavailable", "the call failed", "is it up?")


def forbidden(address: str, what: str = "reads it") -> MayNotStart:
    """A 401 or 403."""
    return MayNotStart(
        f"the key source {address} refuses the one who {what} (403)",
        hint="check the credentials of this machine, and what they may do",
        code="key_source_forbidden",
    )


def not_found(address: str) -> MayNotStart:
    """A 404, or a path that is not there."""
    return MayNotStart(
        f"there is nothing at the key source {address} (404)",
        hint="check the address; `company-agents key init` makes a key there for a new instance",
        code="key_source_not_found",
    )


def sealed(address: str) -> SourceUnavailable:
    """A Vault that is sealed."""
    return _failed(address, "sealed", "it is sealed", "have it unsealed")


def throttled(address: str) -> SourceUnavailable:
    """A 429."""
    return _failed(address, "throttled", "it asks to slow down (429)", "try again in a minute")


def broken(address: str, status: object) -> SourceUnavailable:
    """A 5xx."""
    return _failed(address, "error", f"it fails ({status})", "look at the service; then try again")


def read_only(address: str) -> SourceReadOnly:
    """A write that is refused where a read is not."""
    return SourceReadOnly(
        f"the key source {address} may be read, and not written",
        hint="let this machine write there, or use a source that can be written: docs/master-key.md",
    )


def changed(address: str) -> SourceChanged:
    """A check-and-set that found another version."""
    return SourceChanged(f"the key source {address} was changed by somebody else meanwhile", hint="try again")


def is_private(url: str) -> bool:
    """Whether what is sent there can be read by nobody on the way: TLS, or this machine."""
    try:
        parts = urlsplit(url)
        local = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
        return bool(parts.hostname) and "@" not in parts.netloc and (parts.scheme == "https" or local)
    except ValueError:
        return False


def malformed(kind: str, form: str) -> MayNotStart:
    """An address that does not parse. It is not repeated."""
    return MayNotStart(f"the address of the key source {kind} is malformed", hint=f"it is {form}", code="key_address")


@contextlib.contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Around the import of a client library that is not always installed."""
    try:
        yield
    except ImportError as error:
        raise MayNotStart(
            f"the key source {extra} needs a client library that is not installed",
            hint=f"pip install 'company-agents[{extra}]', or in a checkout: make up SOURCES=1",
            code="key_source_extra",
        ) from error


def _failed(address: str, code: str, what: str, hint: str) -> SourceUnavailable:
    return SourceUnavailable(f"the key source {address} is out of reach: {what}", hint=hint, code=f"key_source_{code}")


def _any(causes: list[BaseException], text: str, kinds: tuple[type[BaseException], ...], words: str) -> bool:
    return any(isinstance(cause, kinds) for cause in causes) or re.search(words, text) is not None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what lies below it: as its cause, or as libraries hide it, in an argument or a `reason`."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting and len(seen) < 20:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or found in seen:
            continue
        seen.append(found)
        yield found
        waiting += [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]
