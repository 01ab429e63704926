"""
What the authorization server of the tests knows: clients, codes, tokens, devices; in memory, under one lock.
"""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from authlib.oauth2.rfc6749 import AuthorizationCodeMixin, ClientMixin, TokenMixin
from authlib.oauth2.rfc6749.util import scope_to_list
from authlib.oauth2.rfc8628 import DeviceCredentialMixin

SCOPES = ("read", "write", "admin")
PERSON = "ada"


@dataclass
class RegisteredClient(ClientMixin):
    id: str
    secret: str
    # client_secret_post, client_secret_basic, none, private_key_jwt
    auth: str = "client_secret_post"
    redirect_uris: list[str] = field(default_factory=list)
    # Of private_key_jwt: the public key, as PEM.
    public_key: bytes = b""

    def get_client_id(self):
        return self.id

    def get_default_redirect_uri(self):
        return None

    def get_allowed_scope(self, scope):
        return " ".join(part for part in scope_to_list(scope or "") or [] if part in SCOPES)

    def check_redirect_uri(self, redirect_uri):
        return redirect_uri in self.redirect_uris

    def check_client_secret(self, client_secret):
        return secrets.compare_digest(self.secret.encode(), client_secret.encode())

    def check_endpoint_auth_method(self, method, endpoint):
        return method == ("client_assertion_jwt" if self.auth == "private_key_jwt" else self.auth)

    def check_response_type(self, response_type):
        return response_type == "code"

    def check_grant_type(self, grant_type):
        return True


@dataclass
class Code(AuthorizationCodeMixin):
    code: str
    client_id: str
    redirect_uri: str
    scope: str
    code_challenge: str | None
    code_challenge_method: str | None
    family: str
    expires_at: float
    used: bool = False

    def get_redirect_uri(self):
        return self.redirect_uri

    def get_scope(self):
        return self.scope


@dataclass
class Token(TokenMixin):
    """
    One access token, with the refresh token that came with it (None where none came). All that stems from one consent
    is a family.
    """

    access: str
    refresh: str | None
    client_id: str
    scope: str
    family: str
    issued_at: float
    expires_in: float
    user: str | None = None
    revoked: bool = False
    # When its refresh token was first used, where that makes it useless.
    rotated_at: float | None = None

    def check_client(self, client):
        return self.client_id == client.id

    def get_scope(self):
        return self.scope

    def get_expires_in(self):
        return self.expires_in

    def is_expired(self):
        return time.time() >= self.issued_at + self.expires_in

    def is_revoked(self):
        return self.revoked


@dataclass
class Device(DeviceCredentialMixin):
    device_code: str
    user_code: str
    client_id: str
    scope: str
    expires_at: float
    # None until a person said yes or no.
    approved: bool | None = None
    asked_at: float | None = None
    used: bool = False

    def get_client_id(self):
        return self.client_id

    def get_scope(self):
        return self.scope

    def get_user_code(self):
        return self.user_code

    def is_expired(self):
        return time.time() >= self.expires_at


@dataclass
class State:
    """All of it. The settings may be changed at any time."""

    # Each refresh brings a new refresh token, and the old one is good for `reuse_window` seconds more; used after that, the
    # whole family dies.
    rotate: bool = True
    reuse_window: float = 0.0
    # The old access token dies with a refresh.
    kills_access: bool = False
    # A new consent of the same person for the same client kills the old one.
    one_consent: bool = False
    lifetime: float = 3600.0
    code_life: float = 60.0
    device_interval: float = 0.0
    # Assertions are good for these, beside the token endpoint.
    takes_issuer_as_audience: bool = True

    lock: threading.RLock = field(default_factory=threading.RLock)
    clients: dict[str, RegisteredClient] = field(default_factory=dict)
    codes: dict[str, Code] = field(default_factory=dict)
    by_access: dict[str, Token] = field(default_factory=dict)
    by_refresh: dict[str, Token] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)
    seen_jti: set[str] = field(default_factory=set)
    dead_families: set[str] = field(default_factory=set)
    refreshes: dict[str, int] = field(default_factory=dict)

    def save(
        self, given: dict[str, Any], *, client_id: str, user: str | None, family: str | None, renewed: bool = False
    ) -> Token:
        token = Token(
            access=given["access_token"],
            refresh=given.get("refresh_token"),
            client_id=client_id,
            scope=given.get("scope") or "",
            family=family or secrets.token_hex(8),
            issued_at=time.time(),
            expires_in=given["expires_in"],
            user=user,
        )
        if self.one_consent and not renewed and user:
            for other in list(self.by_access.values()):
                if (other.client_id, other.user) == (client_id, user):
                    self.kill(other.family)
        self.by_access[token.access] = token
        if token.refresh:
            self.by_refresh[token.refresh] = token
        return token

    def kill(self, family: str) -> None:
        self.dead_families.add(family)
        for token in self.by_access.values():
            if token.family == family:
                token.revoked = True

    def refreshable(self, refresh: str) -> Token | None:
        """The token whose refresh token this is; one that was used before its time is up kills its family."""
        token = self.by_refresh.get(refresh)
        if token is None or token.family in self.dead_families:
            return None
        if token.rotated_at is not None and time.time() > token.rotated_at + self.reuse_window:
            self.kill(token.family)
            return None
        return token

    def refreshed(self, token: Token) -> None:
        self.refreshes[token.family] = self.refreshes.get(token.family, 0) + 1
        if self.rotate and token.rotated_at is None:
            token.rotated_at = time.time()
        if self.kills_access:
            for other in self.by_access.values():
                if other.family == token.family and other.refresh == token.refresh:
                    other.revoked = True

    def bearer(self, access: str) -> Token | None:
        token = self.by_access.get(access)
        if token is None or token.revoked or token.is_expired() or token.family in self.dead_families:
            return None
        return token
