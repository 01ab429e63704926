"""
The setting that says where the audit chains go out to: addresses, separated by commas, each with `required` before it where
no credential is to be used while it cannot be written.
"""

from __future__ import annotations

import hashlib
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from company_agents.errors import CompanyAgentsError, MayNotStart
from company_agents.outgoing.receiver import check_url, host_of

FILE, UDP, TCP, TLS, UNIX, WEBHOOK = "file", "udp", "tcp", "tls", "unix", "webhook"
_KINDS = {
    "file": FILE,
    "syslog": UDP,
    "syslog+tcp": TCP,
    "syslog+tls": TLS,
    "syslog+unix": UNIX,
    "https": WEBHOOK,
    "http": WEBHOOK,
}
# RFC 5426, RFC 6587 and RFC 5425.
_PORTS = {UDP: 514, TCP: 601, TLS: 6514}
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")


@dataclass(frozen=True, slots=True)
class SinkAddress:
    """Where the chains go out to."""

    kind: str
    address: str = field(repr=False)
    required: bool = False
    path: Path = Path()
    host: str = ""
    port: int = 0

    @property
    def id(self) -> str:
        """What its rows are found by: made from the address; a file is one on this machine."""
        place = f"{socket.gethostname()} {self.address}" if self.kind == FILE else self.address
        return hashlib.sha256(place.encode()).hexdigest()[:32]

    @property
    def shown(self) -> str:
        """What may be said of it: the path and the query of a receiver may hold a token."""
        return host_of(self.address) if self.kind == WEBHOOK else self.address


def read_sinks(setting: str) -> tuple[SinkAddress, ...]:
    """
    The addresses of the setting.

    Raises:
        MayNotStart: one that cannot be used. It is not repeated.
    """
    found = tuple(_read(n, part.strip()) for n, part in enumerate(setting.split(","), start=1) if part.strip())
    if len({sink.id for sink in found}) != len(found):
        raise _unusable(0, "one address stands there twice")
    return found


def _read(n: int, text: str) -> SinkAddress:
    first, _, rest = text.partition(" ")
    required = first == "required"
    address = rest.strip() if required else text
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise _unusable(n, "it is not an address") from None
    kind = _KINDS.get(parts.scheme)
    if kind is None or " " in address:
        raise _unusable(n, f"an address begins with one of {', '.join(f'{scheme}://' for scheme in _KINDS)}")
    if kind == WEBHOOK:
        try:
            return SinkAddress(kind, check_url(address, allow_private=True), required)
        except CompanyAgentsError as error:
            raise _unusable(n, error.sentence) from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise _unusable(n, "it holds more than a place")
    if kind in (FILE, UNIX):
        path = Path(unquote(parts.path))
        if parts.netloc or not path.is_absolute() or path.name in ("", "..") or ".." in path.parts:
            raise _unusable(n, "a path begins with a slash: file:///var/log/company-agents/audit.jsonl")
        return SinkAddress(kind, address, required, path=path)
    if kind == UDP and required:
        raise _unusable(n, "nobody knows of a datagram whether it arrived; `required` needs another kind of sink")
    host = parts.hostname or ""
    if not _HOST.fullmatch(host) or parts.path not in ("", "/"):
        raise _unusable(n, "it holds no host, or more than host and port")
    return SinkAddress(kind, address, required, host=host, port=port or _PORTS[kind])


def _unusable(n: int, why: str) -> MayNotStart:
    which = f", number {n}," if n else ""
    return MayNotStart(
        f"the setting audit_sinks{which} cannot be used: {why}", hint="docs/audit-sinks.md says what it may be"
    )
