"""
The address of a webhook: where it may lead is decided by the rules of every outgoing call.
"""

from __future__ import annotations

import re

from company_agents.errors import CompanyAgentsError, WrongUsage
from company_agents.outgoing.destination import Destination, Placement
from company_agents.outgoing.exchange import admitted

MOST_URL = 2000
_PARTS = re.compile(r"([A-Za-z]+://[^/?#\s]+)([/?]\S*)?")


def check_url(url: str, *, allow_private: bool) -> str:
    """
    The address as it is stored: scheme and host in one spelling, path and query as they were given.

    Raises:
        WrongUsage: not an address, with a user or a password in it, or http:// to anything but a private network. The
            address is not repeated: it may hold a token.
    """
    found = _PARTS.fullmatch(url)
    if len(url) > MOST_URL or found is None:
        raise _not_one()
    rest = found[2] or "/"
    checked = Destination.at(found[1], Placement.header(), allow_private=allow_private).origin + (
        rest if rest.startswith("/") else f"/{rest}"
    )
    try:
        admitted("POST", checked, allow_private=allow_private)
    except CompanyAgentsError:
        raise _not_one() from None
    return checked


def _not_one() -> WrongUsage:
    return WrongUsage(
        "this is not the address of a webhook", hint="one looks like https://hooks.example.com/company-agents"
    )


def host_of(url: str) -> str:
    """Scheme, host and port of a checked address: what may be said of it, where the rest may hold a token."""
    found = _PARTS.fullmatch(url)
    return found[1] if found else ""
