"""
What of a provider's own words may be repeated: a short word that cannot be a secret, and none that was sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from company_agents.sensitive import MASK, Sensitive, harmless

_MOST = 60
# A shorter piece of a key is in ordinary words by chance.
_LEAST_PIECE = 6
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/!' -]*")
# The errors of RFC 6749, 6750, 7009, 7591 and 8628: always good to repeat, whatever a secret looks like.
_STANDARD = frozenset(
    {
        *("invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type"),
        *("invalid_scope", "access_denied", "unsupported_response_type", "server_error", "temporarily_unavailable"),
        *("invalid_token", "insufficient_scope", "unsupported_token_type", "invalid_redirect_uri"),
        *("invalid_client_metadata", "authorization_pending", "slow_down", "expired_token"),
    }
)


def said(word: object, sent: Iterable[Sensitive] = ()) -> str:
    """The word, or a mask in its place: it is long, odd, could be a token, or has to do with a secret that was sent."""
    text = str(word) if isinstance(word, (str, int)) else ""
    if text in _STANDARD:
        return text
    if len(text) > _MOST or not _WORD.fullmatch(text) or any(harmless(part) == MASK for part in text.split()):
        return MASK
    return MASK if any(_touches(text, secret) for secret in sent) else text


def _touches(text: str, secret: Sensitive) -> bool:
    value = secret.reveal().decode("utf-8", errors="replace")
    pieces = [part for part in text.split() if len(part) >= _LEAST_PIECE]
    return bool(value) and (value in text or any(piece in value for piece in pieces))
