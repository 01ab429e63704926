"""
The sealed destination: where a credential may go, and in which place of the call.

It is sealed together with the credential and is what the outgoing call obeys, whatever a provider
file or a database row says today. An instance that breaks a rule below cannot be made.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self
from urllib.parse import quote

from company_agents.errors import Failed, WrongUsage
from company_agents.outgoing.addresses import Kind, Reach, canonical_host, kind_of, literal
from company_agents.outgoing.header_rules import TOKEN, is_ours
from company_agents.outgoing.signing import NAME, Signer
from company_agents.sensitive import Sensitive

_FORMAT = 1
_DEFAULT_PORTS = {"https": 443, "http": 80}
_SLOT = "{token}"
_PRINTABLE = re.compile(r"[\x20-\x7e]+")


@dataclass(frozen=True, slots=True)
class Placed:
    """
    A credential, made ready for its place: a header or a query parameter, or what signs with it; and what replies are
    searched for.
    """

    header: str | None
    parameter: str | None
    value: Sensitive
    searched: tuple[Sensitive, ...]
    signer: Signer | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """
    The place of a credential in a call.

    `template` holds `{token}` once: the header's value for `header`, `user:password` for `basic`
    (RFC 7617) or nothing else where the token is such a pair itself, and nothing else for `query`. With `sigv4` the request is
    signed for AWS: `name` is the service, and `template` the region.
    """

    kind: Literal["header", "query", "basic", "sigv4"]
    name: str
    template: str = _SLOT

    @classmethod
    def header(cls, name: str = "Authorization", template: str = "Bearer {token}") -> Self:
        return cls("header", name, template)

    @classmethod
    def query(cls, name: str) -> Self:
        return cls("query", name)

    @classmethod
    def basic(cls, user: str = _SLOT, password: str = "") -> Self:
        if ":" in user:
            raise WrongUsage("the user of Basic authentication has no colon in it")
        return cls("basic", "Authorization", f"{user}:{password}")

    def __post_init__(self) -> None:
        if self.kind == "sigv4":
            if not NAME.fullmatch(self.name) or not NAME.fullmatch(self.template):
                raise WrongUsage("a signature for AWS names a service and a region, such as s3 and eu-central-1")
            return
        if self.kind not in ("header", "query", "basic"):
            raise WrongUsage("a credential goes into a header, a query parameter, Basic authentication or a signature")
        if not TOKEN.fullmatch(self.name):
            raise WrongUsage("this is not the name of a header or a query parameter")
        if self.kind == "header" and is_ours(self.name) and self.name.lower() not in ("authorization", "cookie"):
            raise WrongUsage(f"the header {self.name} cannot carry a credential")
        if self.template.count(_SLOT) != 1 or not _PRINTABLE.fullmatch(self.template):
            raise WrongUsage("the template holds {token} once, and printable ASCII around it")
        if self.kind == "query" and self.template != _SLOT:
            raise WrongUsage("a query parameter is the credential and nothing else")
        paired = ":" in self.template or self.template == _SLOT
        if self.kind == "basic" and (not paired or self.name != "Authorization"):
            raise WrongUsage("the template of Basic authentication is user:password")

    def place(self, credential: Sensitive) -> Placed:
        """
        The credential, made ready for its place.

        Raises:
            WrongUsage: it holds characters that cannot go there.
        """
        if self.kind == "sigv4":
            signer = Signer.of(self.name, self.template, credential)
            return Placed(None, None, Sensitive(b""), signer.searched, signer)
        text = _printable(credential)
        if self.kind == "query":
            return Placed(None, self.name, Sensitive(quote(text, safe="")), (credential,))
        filled = self.template.replace(_SLOT, text)
        if self.kind == "header":
            return Placed(self.name, None, Sensitive(filled), (credential,))
        pair = b64encode(filled.encode())
        searched = (credential, *self._password(text), Sensitive(pair))
        return Placed(self.name, None, Sensitive(b"Basic " + pair), searched)

    def _password(self, text: str) -> tuple[Sensitive, ...]:
        """The secret half of a pair, which an echo may have alone."""
        if self.template != _SLOT:
            return ()
        user, _, password = text.partition(":")
        if not user or not password:
            raise WrongUsage("this service takes a pair: user:password, with the colon between")
        return (Sensitive(password),)


def _printable(credential: Sensitive) -> str:
    # The decoder's own error would carry the bytes.
    text = credential.reveal().decode("ascii", errors="replace")
    if not _PRINTABLE.fullmatch(text) or text != text.strip():
        raise WrongUsage(
            "this credential holds characters that cannot be sent",
            hint="printable ASCII, no space or line end around it",
        )
    return text


@dataclass(frozen=True, slots=True)
class Destination:
    """
    Where a credential may go.

    `extra_hosts` are further hosts of the same provider, with the same scheme and port.
    """

    scheme: str
    host: str
    port: int
    placement: Placement
    allow_private: bool = False
    extra_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.scheme not in _DEFAULT_PORTS:
            raise WrongUsage("the address begins with https://, or with http:// on a private network")
        if self.scheme == "http" and not self.allow_private:
            raise WrongUsage(
                "http:// is for private networks only", hint="use https://, or give --allow-private-network"
            )
        if not 1 <= self.port <= 65535:
            raise WrongUsage("the port is a number from 1 to 65535")
        if len(set(self.hosts)) != len(self.hosts):
            raise WrongUsage("a host is named twice")
        for host in self.hosts:
            self._check_host(host)

    def _check_host(self, host: str) -> None:
        if canonical_host(host) != host:
            raise WrongUsage("a host is spelled in lower case, in ASCII and without a trailing dot")
        address = literal(host)
        if address is None or kind_of(address) in self.reach.value:
            return
        if kind_of(address) is Kind.PRIVATE:
            raise WrongUsage(f"{host} is a private address", hint="if that is meant, give --allow-private-network")
        if kind_of(address) is Kind.PUBLIC:
            raise WrongUsage("http:// is for private networks only", hint="use https://")
        raise WrongUsage(f"{host} is an address that no credential may go to")

    @classmethod
    def at(
        cls, url: str, placement: Placement, *, allow_private: bool = False, extra_hosts: Iterable[str] = ()
    ) -> Self:
        """
        The destination at a base URL: scheme, host and port, nothing else.

        Raises:
            WrongUsage: the URL holds more than that, or is not one. The URL is not repeated in the
                sentence: it might hold a password.
        """
        scheme, host, port = parse_origin(url)
        others = tuple(canonical_host(other) for other in extra_hosts)
        return cls(scheme, host, port, placement, allow_private, others)

    @property
    def hosts(self) -> tuple[str, ...]:
        """All hosts that may receive the credential."""
        return (self.host, *self.extra_hosts)

    @property
    def origin(self) -> str:
        """Scheme, host and port (RFC 6454), for people: `https://slack.com`."""
        return origin(self.scheme, self.host, self.port)

    @property
    def reach(self) -> Reach:
        """The addresses that a call to it may connect to."""
        if self.scheme == "http":
            return Reach.PRIVATE
        return Reach.WIDE if self.allow_private else Reach.PUBLIC

    def to_json(self) -> str:
        """The form that is sealed: one line, keys sorted, with a format number."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """
        Read back what `to_json` wrote, and nothing that merely looks like it.

        Raises:
            Failed: an unknown format or field, a wrong type, or a rule of this class that is broken.
        """
        try:
            return cls._read(text)
        except (ValueError, TypeError, KeyError, WrongUsage) as exc:
            raise Failed("the sealed destination cannot be read") from exc

    @classmethod
    def _read(cls, text: str | bytes) -> Self:
        fields = _typed(json.loads(text, object_pairs_hook=_unrepeated), _DESTINATION_FIELDS)
        if fields.pop("format") != _FORMAT:
            raise ValueError("unknown format")
        placement = Placement(**_typed(fields.pop("placement"), _PLACEMENT_FIELDS))
        hosts = tuple(fields.pop("extra_hosts"))
        if not all(isinstance(host, str) for host in hosts):
            raise TypeError("extra_hosts are texts")
        return cls(placement=placement, extra_hosts=hosts, **fields)


_PLACEMENT_FIELDS: dict[str, type] = {"kind": str, "name": str, "template": str}
_DESTINATION_FIELDS: dict[str, type] = {
    "format": int,
    "scheme": str,
    "host": str,
    "port": int,
    "placement": dict,
    "allow_private": bool,
    "extra_hosts": list,
}


def _typed(value: Any, fields: dict[str, type]) -> dict[str, Any]:
    # `type(...) is`: to isinstance, True is a port.
    if type(value) is not dict or value.keys() != fields.keys():
        raise ValueError("other fields than expected")
    if any(type(value[name]) is not kind for name, kind in fields.items()):
        raise TypeError("a field of another type")
    return value


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a field appears twice")
    return dict(pairs)


def origin(scheme: str, host: str, port: int) -> str:
    """`https://slack.com`, `http://[fd00::1]:8080`: the port is left out where the scheme implies it."""
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}" if _DEFAULT_PORTS.get(scheme) == port else f"{scheme}://{shown}:{port}"


_URL = re.compile(
    r"(?P<scheme>[a-z]+)://(?P<host>\[[^\]/?#@]*\]|[^\[\]:/?#@\\]+)(?::(?P<port>[0-9]{1,5}))?(?P<rest>.*)", re.I | re.S
)


def parse_origin(url: str) -> tuple[str, str, int]:
    """
    Scheme, canonical host and port of `url`, which holds nothing else.

    Raises:
        WrongUsage: it holds more than that, or is not one.
    """
    if "@" in url:
        raise WrongUsage("the address holds a user name or a password", hint="the credential is given apart from it")
    found = _URL.fullmatch(url)
    if not found:
        raise WrongUsage("this is not an address such as https://jira.example.com")
    if found["rest"] not in ("", "/"):
        raise WrongUsage(
            "the address is scheme, host and port, without path, query or fragment",
            hint="the path belongs to each request",
        )
    scheme = found["scheme"].lower()
    port = int(found["port"]) if found["port"] else _DEFAULT_PORTS.get(scheme, 0)
    if scheme not in _DEFAULT_PORTS:
        raise WrongUsage("the address begins with https://, or with http:// on a private network")
    return scheme, canonical_host(found["host"]), port
