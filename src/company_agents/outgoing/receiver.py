"""
A receiver of signed messages: its address, which may lead where any outgoing call may, and what its answer means.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from company_agents.errors import CompanyAgentsError, WrongUsage
from company_agents.outgoing.destination import Destination, Placement
from company_agents.outgoing.exchange import Answer, admitted

MOST_URL = 2000
_MOST_WAIT = 24 * 3600
_PARTS = re.compile(r"([A-Za-z]+://[^/?#\s]+)([/?]\S*)?")


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of an attempt: the HTTP status, and what is wrong (nothing, where it was delivered)."""

    answer: int | None
    error: str = ""
    retry_after: int = 0

    @property
    def delivered(self) -> bool:
        """Whether the receiver took it."""
        return not self.error


def judged(answer: Answer) -> Sent:
    """What an answer means: a 2xx, and nothing else, that the message was taken."""
    if 200 <= answer.status < 300:
        return Sent(answer.status)
    if 300 <= answer.status < 400:
        return Sent(answer.status, f"it answered with a redirect ({answer.status}), and none is followed")
    said = answer.headers.get("Retry-After", "")
    wait = min(int(said), _MOST_WAIT) if said.isascii() and said.isdigit() and len(said) < 9 else 0
    return Sent(answer.status, f"it answered {answer.status}", wait)


def check_url(url: str, *, allow_private: bool, what: str = "a webhook") -> str:
    """
    The address as it is stored: scheme and host in one spelling, path and query as they were given. `what` is to
    receive there.

    Raises:
        WrongUsage: not an address, with a user or a password in it, or http:// to anything but a private network. The
            address is not repeated: it may hold a token.
    """
    found = _PARTS.fullmatch(url)
    if len(url) > MOST_URL or found is None:
        raise _not_one(what)
    rest = found[2] or "/"
    checked = Destination.at(found[1], Placement.header(), allow_private=allow_private).origin + (
        rest if rest.startswith("/") else f"/{rest}"
    )
    try:
        admitted("POST", checked, allow_private=allow_private)
    except CompanyAgentsError:
        raise _not_one(what) from None
    return checked


def _not_one(what: str) -> WrongUsage:
    return WrongUsage(
        f"this is not the address of {what}", hint="one looks like https://hooks.example.com/company-agents"
    )


def host_of(url: str) -> str:
    """Scheme, host and port of a checked address: what may be said of it, where the rest may hold a token."""
    found = _PARTS.fullmatch(url)
    return found[1] if found else ""
