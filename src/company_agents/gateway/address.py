"""
What the address of a request says. Nothing of it is decoded but the integration's name, and nothing tidied: the path that the
client sent is the path that the provider is sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from company_agents.errors import NotFound

PREFIX = "/gateway/"
# Below an integration, in front of a path: another host of the same provider, and a pass for one upload.
_AT = "/~at:"
_PASS = "/~pass:"

_LONGEST_NAME = 600
_HOST = re.compile(r"[A-Za-z0-9._-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Address:
    """
    `integration` is an id or a name; `path` and `query` are as on the wire. `host`: not the provider's first one.
    """

    integration: str
    path: str
    query: str
    host: str | None = None
    upload_pass: str | None = None


def read(raw_path: bytes, query: bytes) -> Address:
    """
    Raises:
        NotFound: this is no address of an integration.
    """
    path = raw_path.decode("latin-1")
    if not path.startswith(PREFIX):
        # `/%67ateway/…` is the same to whoever decodes it; here it is somewhere else.
        raise _nowhere()
    name, slash, rest = path[len(PREFIX) :].partition("/")
    try:
        integration = unquote_to_bytes(name).decode()
    except UnicodeDecodeError:
        raise _nowhere() from None
    if not integration or len(name) > _LONGEST_NAME:
        raise _nowhere()
    path, host, upload_pass = slash + rest, None, None
    if path.startswith(_AT):
        host, path = _first(path[len(_AT) :])
    elif path.startswith(_PASS):
        upload_pass, path = _first(path[len(_PASS) :])
    return Address(integration, path or "/", query.decode("latin-1"), host, upload_pass)


def _first(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if not first:
        raise _nowhere()
    return first, slash + rest


def _nowhere() -> NotFound:
    return NotFound("there is nothing here", hint=f"{PREFIX}INTEGRATION/PATH, with the integration's id or its name")


@dataclass(frozen=True, slots=True)
class Base:
    """The address under which a client has reached an integration, without a trailing slash."""

    url: str

    @classmethod
    def of(cls, scope: Mapping[str, Any], public_url: str, integration: str) -> Base:
        """As the client wrote it, which need not be how others reach us: many clients stay on the host that they know."""
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        ours = urlsplit(public_url)
        # In front of a public name there may be a proxy that speaks TLS; an address is reached as it is.
        same = not _HOST.fullmatch(host) or host.lower() == ours.netloc.lower()
        root = public_url if same else f"{scope.get('scheme', 'http')}://{host}"
        return cls(f"{root}{PREFIX}{quote(integration, safe='')}")

    def at(self, host: str) -> str:
        """Another host of the provider."""
        return f"{self.url}{_AT}{host}"

    def passing(self, upload_pass: str) -> str:
        """With a pass for one upload."""
        return f"{self.url}{_PASS}{upload_pass}"
