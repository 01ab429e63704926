"""
The words of the OAuth rooms: endpoints, client, grant, consent; and how a token endpoint can fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from company_agents.errors import CompanyAgentsError, Refused, Unavailable
from company_agents.sensitive import Sensitive


@dataclass(frozen=True, slots=True)
class Endpoints:
    """
    An authorization server. Absolute URLs: https, or http where `allow_private` and the host is in a private network.
    `iss_in_reply`: its authorization replies carry `iss` (RFC 9207).
    """

    token: str
    issuer: str | None = None
    authorization: str | None = None
    device: str | None = None
    revocation: str | None = None
    introspection: str | None = None
    registration: str | None = None
    iss_in_reply: bool = False
    allow_private: bool = False


@dataclass(frozen=True, slots=True)
class Client:
    """
    What a company is to a provider. `secret` is the client secret, or the private key (PEM) where `auth` is
    `private_key_jwt`; None for a public client. It is sealed with its endpoints, and goes nowhere else.
    """

    id: str
    auth: str
    endpoints: Endpoints
    secret: Sensitive | None = None
    key_id: str | None = None
    # The server that an operator named in place of the provider's own, and empty for that.
    issuer: str = ""


@dataclass(frozen=True, slots=True)
class Granted:
    """
    What a token endpoint gave. `expires_in` and `refresh_expires_in` are seconds from now, None where it did not say.
    `refresh` is None where no new one came: the old one stays good.
    """

    access: Sensitive
    refresh: Sensitive | None = None
    expires_in: float | None = None
    refresh_expires_in: float | None = None
    scopes: tuple[str, ...] = ()
    account: str | None = None


@dataclass(frozen=True, slots=True)
class Consent:
    """
    What is sealed beside an access token: everything that a refresh and a revocation need, so that nobody who can write
    to the database or to a provider file sends a refresh token elsewhere. `flow`: code, client, device, github_app.
    """

    flow: str
    client_id: str
    endpoints: Endpoints
    refresh: Sensitive | None = None
    expires_at: datetime | None = None
    refresh_expires_at: datetime | None = None
    scopes: tuple[str, ...] = ()
    # Of a GitHub App: which installation.
    installation: str | None = None


class Gone(Refused):
    """the provider says that this consent is gone for good"""

    code = "consent_gone"


class Rejected(Refused):
    """the provider did not accept the request"""

    code = "oauth_rejected"


class Ended(Rejected):
    """the person said no, or the code is no longer good"""

    code = "consent_ended"


class NotNow(Unavailable):
    """
    the provider is busy or broken; nothing was changed there
    """

    code = "oauth_not_now"

    def __init__(self, sentence: str | None = None, *, retry_after: float | None = None, hint: str = "") -> None:
        super().__init__(sentence, hint=hint)
        self.retry_after = retry_after


class Uncertain(Unavailable):
    """the provider was asked, and its reply was lost: whether it changed anything is not known"""

    code = "oauth_uncertain"


OAUTH_FAILURES: tuple[type[CompanyAgentsError], ...] = (Gone, Rejected, NotNow, Uncertain)
