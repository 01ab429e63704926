"""
What a token endpoint gave, from the fields of its reply (RFC 6749, 5.1) and the provider's rules.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from company_agents.integrations.credential import LEAST_TOKEN, MOST_TOKEN
from company_agents.integrations.oauth.model import Granted
from company_agents.integrations.oauth.replies import Fields, at
from company_agents.integrations.provider import OAuth
from company_agents.sensitive import Sensitive

# Beyond it, nothing is planned; it is also the most that is believed.
LONGEST_LIFE = 10 * 365 * 86400.0
# A number as large as that is no lifetime: it is a moment, in seconds or milliseconds since 1970.
_MOMENT = 1_000_000_000
_MOMENT_MS = 100_000_000_000
_NUMBER = re.compile(r"[0-9]{1,16}(\.[0-9]{1,9})?")
_MOST_SCOPES = 500
_LONGEST_SCOPE = 500
_LONGEST_ACCOUNT = 200
_BEARER = frozenset({"bearer", "bearertoken"})
# Of a refresh token there is no standard for it.
_REFRESH_EXPIRES = ("refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in")


class Unusable(Exception):
    """the reply is one, and cannot be used; the words are ours and hold nothing of it"""


def granted(fields: Fields, oauth: OAuth, *, now: float, token_types: frozenset[str] = frozenset()) -> Granted:
    """
    Args:
        now: the moment of the reply, by the server's clock where it told it; seconds since 1970.
        token_types: kinds of token that are bearer tokens under a name of the provider's.

    Raises:
        Unusable: no token, or none that can be sent as a bearer token.
    """
    kind = fields.get("token_type")
    if kind is not None and (not isinstance(kind, str) or kind.casefold() not in _BEARER | token_types | {""}):
        raise Unusable("the token in it is no bearer token")
    access = _token(at(fields, oauth.access_field), "access token")
    if access is None:
        raise Unusable("there is no access token in it")
    refresh = _token(at(fields, oauth.refresh_field), "refresh token")
    tokens = [token.reveal_text() for token in (access, refresh) if token is not None]

    def told(path: str | None) -> Any:
        # Account and scopes are shown and kept as they are: nothing that has a token in it.
        value = at(fields, path) if path else None
        parts = value if isinstance(value, list) else [value]
        return None if any(token in str(part) for part in parts for token in tokens) else value

    expires_in = lifetime(at(fields, oauth.expires_field), now)
    return Granted(
        access=access,
        refresh=refresh,
        expires_in=float(oauth.lifetime) if expires_in is None and oauth.lifetime else expires_in,
        refresh_expires_in=next(
            (life for name in _REFRESH_EXPIRES if (life := lifetime(fields.get(name), now)) is not None), None
        ),
        scopes=scopes(told(oauth.scope_field), oauth.scope_separator),
        account=_account(told(oauth.account_field)),
    )


def _token(value: Any, name: str) -> Sensitive | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or value != value.strip():
        raise Unusable(f"the {name} in it has characters that no token has")
    if not LEAST_TOKEN <= len(value) <= MOST_TOKEN:
        raise Unusable(f"the {name} in it does not have {LEAST_TOKEN} to {MOST_TOKEN} characters")
    return Sensitive(value)


def lifetime(value: Any, now: float) -> float | None:
    """
    Seconds from now, at most ten years. None where it does not say: nothing, no number, zero or less (which is how some
    write "does not expire"), or a moment that is past.
    """
    seconds = _number(value)
    if seconds is None:
        moment = _moment(value) if isinstance(value, str) else None
        seconds = moment - now if moment is not None else 0.0
    elif seconds >= _MOMENT_MS:
        seconds = seconds / 1000 - now
    elif seconds >= _MOMENT:
        seconds -= now
    return min(seconds, LONGEST_LIFE) if seconds > 0 else None


def _number(value: Any) -> float | None:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value)
    # To isinstance, True is a number of seconds.
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e16:
        return float(value)
    return None


def _moment(value: str) -> float | None:
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def scopes(value: Any, separator: str) -> tuple[str, ...]:
    """Scopes as a list, or as a text with spaces, commas or the provider's own sign between them."""
    if isinstance(value, str):
        signs = {" ", ",", separator or " "}
        parts = re.split("|".join([r"\s", *map(re.escape, sorted(signs))]), value)
    else:
        parts = [part for part in value if isinstance(part, str)] if isinstance(value, list) else []
    good = [part for part in parts if part and part.isprintable() and len(part) <= _LONGEST_SCOPE]
    return tuple(dict.fromkeys(good))[:_MOST_SCOPES]


def _account(value: Any) -> str | None:
    text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    return text[:_LONGEST_ACCOUNT] if text.isprintable() and text.strip() else None
