"""
The device flow (RFC 8628): a code for a person, and asking whether they consented.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from company_agents.errors import WrongUsage
from company_agents.integrations.oauth.grants import lifetime
from company_agents.integrations.oauth.replies import Fields
from company_agents.outgoing.exchange import admitted
from company_agents.sensitive import Sensitive

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
# RFC 8628, 3.2 and 3.5.
INTERVAL = 5.0
SLOWER = 5.0
_LONGEST_INTERVAL = 120.0
_LIFE = 900.0
_USER_CODE = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,62}[\x21-\x7e])?")


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """
    What a person is shown: `user_code`, to be entered at `verification_uri`, or already in `complete_uri`. Seconds:
    `expires_in` from now, `interval` between two questions.
    """

    device_code: Sensitive
    user_code: str
    verification_uri: str
    complete_uri: str | None
    expires_in: float
    interval: float


@dataclass(frozen=True, slots=True)
class Pending:
    """Nobody has consented yet: ask again after `interval` seconds."""

    interval: float


class NoDeviceCode(Exception):
    """the reply holds no code for a device; the words are ours"""


def device_code(fields: Fields, *, allow_private: bool, now: float) -> DeviceCode:
    """
    Raises:
        NoDeviceCode: a code, or an address that a person could be sent to, is missing.
    """
    code, user_code = fields.get("device_code"), fields.get("user_code")
    if not isinstance(code, str) or not code.isascii() or not code.isprintable() or not 8 <= len(code) <= 16_384:
        raise NoDeviceCode("there is no device code in it")
    if not isinstance(user_code, str) or not _USER_CODE.fullmatch(user_code):
        raise NoDeviceCode("there is no code for a person in it")
    # Google's name for it, from before the standard.
    page = _page(fields.get("verification_uri") or fields.get("verification_url"), allow_private)
    if page is None:
        raise NoDeviceCode("there is no address in it that a person could be sent to")
    return DeviceCode(
        device_code=Sensitive(code),
        user_code=user_code,
        verification_uri=page,
        complete_uri=_page(fields.get("verification_uri_complete"), allow_private),
        expires_in=lifetime(fields.get("expires_in"), now) or _LIFE,
        interval=interval(fields.get("interval"), now) or INTERVAL,
    )


def interval(value: Any, now: float) -> float | None:
    """Seconds between two questions, from one to two minutes' worth; None where it does not say."""
    seconds = lifetime(value, now)
    return None if seconds is None else min(max(seconds, 1.0), _LONGEST_INTERVAL)


def slower(fields: Fields, before: float, now: float) -> Pending:
    """After `slow_down`: what the server says (GitHub does), at least five seconds more."""
    return Pending(min(max(before + SLOWER, interval(fields.get("interval"), now) or 0.0), _LONGEST_INTERVAL))


def _page(value: Any, allow_private: bool) -> str | None:
    """An address for a person's browser: as safe to show and to open as one that we call."""
    if not isinstance(value, str) or len(value) > 2000:
        return None
    try:
        admitted("GET", value, allow_private=allow_private)
    except WrongUsage:
        return None
    return value
