"""
What kind of network an address or a host name belongs to, and the one spelling of a host.

The tables follow the IANA special-purpose address registries (RFC 6890 and its updates). They are
written out because the answers of `ipaddress.is_private` changed between Python releases.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from yarl import URL

from company_agents.errors import WrongUsage

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Kind(enum.Enum):
    """Where an address leads."""

    PUBLIC = "public"
    PRIVATE = "private"
    NEVER = "never"


class Reach(enum.Enum):
    """
    The addresses that a call may connect to.

    Plain HTTP is for private networks only (`PRIVATE`): a name that suddenly resolves to a public
    address must not carry the credential across the internet in the clear.
    """

    PUBLIC = frozenset({Kind.PUBLIC})
    WIDE = frozenset({Kind.PUBLIC, Kind.PRIVATE})
    PRIVATE = frozenset({Kind.PRIVATE})


_PRIVATE_4 = tuple(
    IPv4Network(net) for net in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
)
_PRIVATE_6 = tuple(IPv6Network(net) for net in ("::1/128", "fc00::/7"))

_NEVER_4 = tuple(
    IPv4Network(net)
    for net in (
        "0.0.0.0/8",  # "this network", unspecified
        "100.100.100.200/32",  # metadata service of Alibaba Cloud, inside the shared range
        "168.63.129.16/32",  # host service of Azure, a public number that never leaves the machine
        "169.254.0.0/16",  # link-local; metadata services of most clouds
        "192.0.0.0/24",  # protocol assignments; metadata service of Oracle Cloud
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_NEVER_6 = tuple(
    IPv6Network(net)
    for net in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
        "fd00:ec2::/32",  # metadata service of AWS, inside the private range
        "fd20:ce::/32",  # metadata service of Google Cloud, likewise
    )
)
_GLOBAL_6 = IPv6Network("2000::/3")  # all that IANA has given out as global unicast
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits


def kind_of(address: Address) -> Kind:
    """What kind of network `address` belongs to; one that carries an IPv4 address inside is judged by that."""
    address = _inner(address)
    if isinstance(address, IPv6Address):
        return _kind_of_6(address)
    if any(address in net for net in _NEVER_4):
        return Kind.NEVER
    return Kind.PRIVATE if any(address in net for net in _PRIVATE_4) else Kind.PUBLIC


def is_within(address: Address, networks: Iterable[Network]) -> bool:
    """Whether it belongs to one of these; judged by what it carries inside, like its kind."""
    return any(_inner(address) in net for net in networks)


def _inner(address: Address) -> Address:
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or (IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else address)


def _kind_of_6(address: IPv6Address) -> Kind:
    if address.scope_id or any(address in net for net in _NEVER_6):
        return Kind.NEVER
    if any(address in net for net in _PRIVATE_6):
        return Kind.PRIVATE
    return Kind.PUBLIC if address in _GLOBAL_6 else Kind.NEVER


def literal(host: str) -> Address | None:
    """The address that `host` spells, or None where it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


_NAME = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def canonical_host(text: str) -> str:
    """
    The one spelling of a host: lower case, ASCII (IDNA), no trailing dot; IPv6 without brackets.

    Two spellings of one host must not be two hosts to the predicate and one to the resolver. A name
    whose last label is a number is an IPv4 address to many resolvers, also as `0x7f.1` or
    `2130706433`; only the dotted form with four decimal numbers is taken.

    Raises:
        WrongUsage: this is not a host name or address.
    """
    if text.startswith("[") and text.endswith("]"):
        return _canonical_ipv6(text[1:-1])
    if ":" in text:
        return _canonical_ipv6(text)
    name = _ascii_name(text)
    if _NUMBER.fullmatch(name.rpartition(".")[2]) and literal(name) is None:
        raise WrongUsage("this address is spelled in an odd way", hint="write IPv4 as four decimal numbers: 192.0.2.1")
    return name


def _canonical_ipv6(text: str) -> str:
    address = literal(text)
    if not isinstance(address, IPv6Address) or address.scope_id:
        raise WrongUsage("this is not an IPv6 address", hint="write it in brackets and without a zone: [fd00::1]")
    if address.ipv4_mapped:
        raise WrongUsage("this is an IPv4 address in IPv6 clothes", hint="write it as IPv4")
    return str(address)


def _ascii_name(text: str) -> str:
    try:
        name = URL.build(scheme="https", host=text.lower()).raw_host or ""
    except ValueError:
        name = ""
    name = name.removesuffix(".")
    if not _NAME.fullmatch(name):
        raise WrongUsage("this is not a host name")
    return name
