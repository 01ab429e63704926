"""
Signed proofs of who a client is: RFC 7523 assertions, and the JWT of a GitHub App.

A clock that is some minutes off must not lock anybody out: `iat` lies a minute back, and where a server refuses while its
`Date` shows another time than ours, the proof is made once more with the server's time.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

if TYPE_CHECKING:
    from joserfc import jwk

from company_agents.errors import WrongUsage
from company_agents.integrations.oauth.model import Client
from company_agents.sensitive import Sensitive

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_BACK = 60
_LIFE = 180
# A difference that cannot be the way of the reply, and one that is no clock any more.
_LEAST_OFF = 30.0
_MOST_OFF = 86_400.0
_LEAST_RSA = 2048


def client_assertion(client: Client, audience: str, *, now: float) -> Sensitive:
    """
    An assertion of RFC 7523, 3: good for three minutes, for one audience.

    Raises:
        WrongUsage: the client's key cannot sign.
    """
    moment = int(now)
    claims = {
        "iss": client.id,
        "sub": client.id,
        "aud": audience,
        "jti": secrets.token_urlsafe(24),
        "iat": moment - _BACK,
        "exp": moment + _LIFE,
    }
    return _signed(client, claims)


def app_assertion(client: Client, *, now: float) -> Sensitive:
    """
    The JWT by which a GitHub App shows who it is.

    Raises:
        WrongUsage: the App's key cannot sign.
    """
    moment = int(now)
    return _signed(client, {"iss": client.id, "iat": moment - _BACK, "exp": moment + _LIFE})


def check_key(secret: Sensitive) -> None:
    """
    Whether a private key can sign, before it is kept.

    Raises:
        WrongUsage: it cannot.
    """
    _key(secret)


def clock_offset(date: str | None, now: float) -> float | None:
    """Seconds by which the server's clock, as it told it, is ahead of ours; None where that is nothing to mend."""
    moment = server_time(date)
    if moment is None:
        return None
    return moment - now if _LEAST_OFF < abs(moment - now) < _MOST_OFF else None


def server_time(date: str | None) -> float | None:
    """The moment in a `Date` header, in seconds since 1970."""
    try:
        return parsedate_to_datetime(date).timestamp() if date else None
    except (ValueError, TypeError, OverflowError):
        return None


def _signed(client: Client, claims: Mapping[str, Any]) -> Sensitive:
    # Here, since few processes sign, and every start would take a tenth of a second longer.
    from joserfc import jwt

    if client.secret is None:
        raise WrongUsage("this client has no private key", hint="configure it again, with the key as PEM")
    key, algorithm = _key(client.secret)
    header = {"alg": algorithm, **({"kid": client.key_id} if client.key_id else {})}
    return Sensitive(jwt.encode(header, dict(claims), key, algorithms=[algorithm]))


def _key(secret: Sensitive) -> tuple[jwk.RSAKey | jwk.ECKey, str]:
    from joserfc import jwk

    wrong = WrongUsage(
        "this is no private key that can sign", hint="an RSA key of 2048 bits or more, or an EC key on P-256, as PEM"
    )
    try:
        # The library's own errors might show a piece of the key: they end here.
        raw = load_pem_private_key(secret.reveal().strip() + b"\n", None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise wrong from None
    if isinstance(raw, rsa.RSAPrivateKey) and raw.key_size >= _LEAST_RSA:
        return jwk.RSAKey.import_key(raw), "RS256"
    if isinstance(raw, ec.EllipticCurvePrivateKey) and isinstance(raw.curve, ec.SECP256R1):
        return jwk.ECKey.import_key(raw), "ES256"
    raise wrong
