"""
Everything that is said to an authorization server. docs/spec/oauth.md says by which rules, and what each failure means.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from company_agents.errors import WrongUsage
from company_agents.integrations.oauth import discover, quirks
from company_agents.integrations.oauth.assertion import app_assertion
from company_agents.integrations.oauth.device import (
    GRANT,
    INTERVAL,
    DeviceCode,
    NoDeviceCode,
    Pending,
    device_code,
    slower,
)
from company_agents.integrations.oauth.endpoint import Asked, Endpoint, Heard, failure, request_headers, unusable
from company_agents.integrations.oauth.grants import Unusable, granted
from company_agents.integrations.oauth.model import Client, Ended, Endpoints, Granted, Rejected
from company_agents.integrations.oauth.replies import Fields
from company_agents.integrations.oauth.standard import rules
from company_agents.integrations.provider import OAuth, Provider
from company_agents.outgoing.exchange import Exchange, Value
from company_agents.sensitive import Sensitive

_NO_SUCH_TOKEN = frozenset({"invalid_token", "invalid_grant", "token_revoked", "token_expired", "invalid_auth"})


@dataclass(frozen=True)
class OAuthCalls:
    """
    Calls of a client. All of them raise only what model.py has (Gone, Rejected, NotNow, Uncertain), and WrongUsage where
    the client or an address will not do. `now`: seconds since 1970.
    """

    exchange: Exchange
    now: Callable[[], float] = field(default=time.time, kw_only=True)

    async def discover(self, issuer: str, *, allow_private: bool) -> Endpoints:
        """What a server says of itself (RFC 8414, then OpenID Connect Discovery). The issuer in it is the one asked for."""
        return await discover.discover(self.exchange, issuer, allow_private=allow_private)

    async def register(self, endpoints: Endpoints, *, redirect_uri: str, name: str) -> Client:
        """
        Register a client (RFC 7591): with a secret, or as a public one where the server makes no others.

        Raises:
            Uncertain: it may be registered; nobody knows its secret.
        """
        if endpoints.registration is None:
            raise WrongUsage("this server registers no clients by itself", hint="register one by hand, on its pages")
        nobody = Client("", "none", endpoints)

        def asked(auth: str) -> Asked:
            fields = discover.registration_request(redirect_uri=redirect_uri, name=name, auth=auth)
            return Asked(endpoints.registration or "", fields, changes=True, as_json=True, authenticated=False)

        request = asked("client_secret_basic")
        heard = await self._endpoint(nobody).hear(request)
        if "invalid_client_metadata" in heard.words:
            request = asked("none")
            heard = await self._endpoint(nobody).hear(request)
        if not heard.good:
            raise failure(request, nobody, heard)
        return discover.registered(_fields(request, heard), endpoints, redirect_uri=redirect_uri)

    async def redeem(
        self, provider: Provider, client: Client, *, code: str, redirect_uri: str, verifier: Sensitive
    ) -> Granted:
        """A code for its tokens (RFC 6749, 4.1.3; RFC 7636, 4.5). A code that is too old or was used is Rejected."""
        fields: dict[str, Value] = {
            "grant_type": "authorization_code",
            "code": Sensitive(code),
            "redirect_uri": redirect_uri,
            **({"code_verifier": verifier} if rules(provider).pkce else {}),
        }
        asked = _token_request(provider, client, fields, changes=True)
        endpoint = self._endpoint(client)
        heard = await endpoint.hear(asked)
        if "invalid_grant" in heard.words:
            raise Rejected(
                f"{provider.title} does not take the code: it is too old, was used before, or is not for this client",
                hint="begin again",
            )
        if not heard.good:
            raise failure(asked, client, heard)
        return _granted(provider, asked, heard)

    async def client_credentials(self, provider: Provider, client: Client, scopes: Sequence[str]) -> Granted:
        """A token for the client itself (RFC 6749, 4.4)."""
        fields: dict[str, Value] = {"grant_type": "client_credentials", **_scope(rules(provider), scopes)}
        asked = _token_request(provider, client, fields)
        return _granted(provider, asked, await self._endpoint(client).ask(asked))

    async def refresh(self, provider: Provider, client: Client, refresh: Sensitive) -> Granted:
        """
        New tokens for an old consent (RFC 6749, 6).

        Raises:
            Gone: the consent is no more, or its refresh token was used before.
            Uncertain: the refresh token may have been used up, and what came in its place is lost.
        """
        fields: dict[str, Value] = {"grant_type": "refresh_token", "refresh_token": refresh}
        gone = rules(provider).gone_codes | {"invalid_grant"}
        asked = _token_request(provider, client, fields, changes=True, gone=gone)
        return _granted(provider, asked, await self._endpoint(client).ask(asked))

    async def installation(self, provider: Provider, client: Client, installation: str) -> Granted:
        """
        A token of a GitHub App for one of its installations.

        Raises:
            Gone: the App is no longer installed there.
        """
        asked = Asked(
            url=quirks.github_installation_url(client, installation),
            fields={},
            headers={"Accept": "application/vnd.github+json", **provider.headers},
            as_json=True,
            authenticated=False,
            bearer=lambda now: app_assertion(client, now=now),
            gone_status=frozenset({404}),
        )
        heard = await self._endpoint(client).ask(asked)
        reply = quirks.Standardised(quirks.github_installation_reply(_fields(asked, heard)))
        return _read(asked, heard, quirks.github_installation_rules(rules(provider)), reply)

    async def revoke(
        self, provider: Provider, client: Client, token: Sensitive, kind: str, *, refresh_revoked: bool = False
    ) -> bool:
        """
        Make a token useless at the provider (RFC 7009). False: it has no endpoint for that. One that is useless already
        counts as revoked.

        Args:
            kind: `access_token` or `refresh_token`.
            refresh_revoked: the refresh token was revoked before. A server that takes no others is done with that.
        """
        url = client.endpoints.revocation
        if url is None:
            return False
        asked = quirks.revocation(client, url, token, kind)
        known = rules(provider).gone_codes | provider.refused_codes | _NO_SUCH_TOKEN
        if refresh_revoked:
            # RFC 7009, 2.2.1.
            known |= {"unsupported_token_type"}
        heard = await self._endpoint(client).hear(asked)
        if not heard.good and not known & set(heard.words):
            raise failure(asked, client, heard)
        return True

    async def introspect(self, provider: Provider, client: Client, token: Sensitive) -> bool | None:
        """Whether a token is good, by the server's own word (RFC 7662); None where it is not asked that way."""
        url = client.endpoints.introspection
        if url is None:
            return None
        asked = Asked(url=url, fields={"token": token})
        heard = await self._endpoint(client).ask(asked)
        active = _fields(asked, heard).get("active")
        if not isinstance(active, bool):
            raise Rejected(f"{provider.title} does not say whether the token is good")
        return active

    async def begin_device(self, provider: Provider, client: Client, scopes: Sequence[str]) -> DeviceCode:
        """A code that a person enters on another machine (RFC 8628, 3.1)."""
        url, oauth = client.endpoints.device, rules(provider)
        if url is None:
            raise WrongUsage(f"{provider.title} has no device flow", hint="connect it with another flow")
        fields = {"client_id": client.id, **_scope(oauth, scopes)}
        asked = Asked(url=url, fields=fields, headers=request_headers(oauth))
        heard = await self._endpoint(client).ask(asked)
        try:
            found = _fields(asked, heard)
            return device_code(found, allow_private=client.endpoints.allow_private, now=heard.now)
        except NoDeviceCode as error:
            raise unusable(asked, str(error)) from None

    async def poll_device(
        self, provider: Provider, client: Client, device_code: Sensitive, *, interval: float = INTERVAL
    ) -> Granted | Pending:
        """
        Ask whether the person consented. `interval` is what was waited last; Pending has what is to be waited next.

        Raises:
            Ended: they said no, or the code is too old, or was used.
            Rejected: the request or the client is wrong; the code is as good as it was.
            NotNow: ask again, after twice the interval (RFC 8628, 3.5).
            Uncertain: likewise; the tokens may have been given, and then the next question says that the code is used.
        """
        fields: dict[str, Value] = {"grant_type": GRANT, "device_code": device_code, "client_id": client.id}
        asked = _token_request(provider, client, fields, changes=True)
        heard = await self._endpoint(client).hear(asked)
        if "slow_down" in heard.words:
            return slower(heard.fields or {}, interval, heard.now)
        if "authorization_pending" in heard.words:
            return Pending(interval)
        if "access_denied" in heard.words:
            raise Ended("the consent was denied", hint="nothing was connected; begin again when it is to be given")
        if {"expired_token", "invalid_grant"} & set(heard.words):
            raise Ended("the code is too old, or was used before", hint="begin again")
        if not heard.good:
            raise failure(asked, client, heard)
        return _granted(provider, asked, heard)

    def _endpoint(self, client: Client) -> Endpoint:
        return Endpoint(self.exchange, client, self.now)


def _token_request(
    provider: Provider,
    client: Client,
    fields: Mapping[str, Value],
    *,
    changes: bool = False,
    gone: frozenset[str] = frozenset(),
) -> Asked:
    oauth = rules(provider)
    return Asked(
        url=client.endpoints.token,
        # What is ours cannot be said otherwise by a file.
        fields={**oauth.token_parameters, **fields},
        changes=changes,
        gone=gone,
        headers=request_headers(oauth),
        as_json=oauth.token_request == "json",
    )


def _scope(oauth: OAuth, scopes: Sequence[str]) -> dict[str, str]:
    return {oauth.scope_parameter: oauth.scope_separator.join(scopes)} if scopes else {}


def _fields(asked: Asked, heard: Heard) -> Fields:
    if heard.fields is None:
        raise unusable(asked, "it is neither JSON nor a form")
    return heard.fields


def _granted(provider: Provider, asked: Asked, heard: Heard) -> Granted:
    oauth = rules(provider)
    return _read(asked, heard, oauth, quirks.standardised(oauth, _fields(asked, heard)))


def _read(asked: Asked, heard: Heard, oauth: OAuth, reply: quirks.Standardised) -> Granted:
    try:
        return granted(reply.fields, oauth, now=heard.now, token_types=reply.token_types)
    except Unusable as error:
        raise unusable(asked, str(error)) from None
