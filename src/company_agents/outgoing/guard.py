"""
The guard at connect time: what a name resolved to is judged, and connected to, once.

A name is looked up for each new connection; the addresses that come back are judged, and the
connection goes to one of exactly these, so that an answer which changes in between changes nothing.
Addresses written in a URL do not pass the resolver of aiohttp: the socket factory judges again
whatever is about to be connected to, wherever it came from.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from company_agents.outgoing.addresses import Kind, Network, Reach, is_within, kind_of, literal

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to addresses, as text. Raises OSError where there are none."""


Networks = tuple[Network, ...] | None


class ForbiddenAddress(OSError):
    """
    The name leads to an address that the call may not connect to.

    An OSError, because aiohttp and its connection race hand on no other kind.
    """


async def resolve(host: str, port: int) -> Sequence[str]:
    """The system's own look-up."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [str(sockaddr[0]) for _, _, _, _, sockaddr in found]


def connector(
    reach: Reach,
    tls: ssl.SSLContext,
    resolve: Resolve,
    connections: int,
    *,
    networks: Networks = None,
    once: bool = False,
) -> aiohttp.TCPConnector:
    """
    A pool of connections of which none leads outside of `reach`, and of private networks into these only (None: any).
    One reach, one pool: never share it. `once`: none is kept for a second call.
    """

    def guarded_socket(info: tuple[Any, ...]) -> socket.socket:
        family, kind, proto, _, sockaddr = info
        _judge(str(sockaddr[0]), reach, networks)
        return socket.socket(family, kind, proto)

    return aiohttp.TCPConnector(
        ssl=tls,
        resolver=_Resolver(reach, resolve, networks),
        use_dns_cache=False,
        socket_factory=guarded_socket,
        limit=connections,
        force_close=once,
    )


class _Resolver(AbstractResolver):
    def __init__(self, reach: Reach, resolve: Resolve, networks: Networks) -> None:
        self._reach = reach
        self._networks = networks
        self._resolve = resolve

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await self._resolve(host, port)
        if not addresses:
            raise OSError("the name has no address")
        # One bad address refuses all: an honest name has none.
        for address in addresses:
            _judge(address, self._reach, self._networks)
        return [_result(host, address, port) for address in dict.fromkeys(addresses)]

    async def close(self) -> None:
        pass


def _judge(address: str, reach: Reach, networks: Networks) -> None:
    parsed = literal(address)
    kind = Kind.NEVER if parsed is None else kind_of(parsed)
    closed = kind is Kind.PRIVATE and networks is not None and not (parsed and is_within(parsed, networks))
    if kind not in reach.value or closed:
        raise ForbiddenAddress(f"not an address to connect to: {address}")


def _result(host: str, address: str, port: int) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=socket.AF_INET6 if ":" in address else socket.AF_INET,
        proto=socket.IPPROTO_TCP,
        flags=socket.AI_NUMERICHOST,
    )
