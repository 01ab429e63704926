"""
What a company is to a provider: its OAuth client, by an operator's setting or by dynamic registration.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, get_args
from urllib.parse import urlsplit

from company_agents.audit.log import AuditLog
from company_agents.companies.scope import CompanyScope
from company_agents.errors import Conflict, Failed, NotFound, Tampered, WrongUsage
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.integrations.credential import opened_object
from company_agents.integrations.oauth.calls import OAuthCalls
from company_agents.integrations.oauth.model import Client, Endpoints
from company_agents.integrations.provider import HOST, OAuth, Provider, Providers
from company_agents.secret_store.store import SecretStore
from company_agents.sensitive import Sensitive

FORMAT = 1
MOST_ID = 500
MOST_SECRET = 16 * 1024
AUTHS: tuple[str, ...] = get_args(OAuth.model_fields["auth"].annotation)


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """
    A client of a company: everything but its secret. `issuer` is empty where the provider's own is meant; `redirect_uri`
    is what the provider has to be told.
    """

    provider: str
    issuer: str
    client_id: str
    auth: str
    redirect_uri: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class Clients:
    """
    The OAuth clients of a caller's company. `url` is where this orchestrator is reached.
    """

    store: SecretStore
    audit: AuditLog
    calls: OAuthCalls
    providers: Providers
    url: str

    def redirect_uri(self, provider: str, issuer: str = "") -> str:
        """
        Where a provider sends people back to: another path for each, and for each server of one, so that no answer is taken
        for another's.
        """
        own = f"/{issuer_key(issuer)}" if issuer else ""
        return f"{self.url}/oauth/callback/{provider}{own}"

    async def configure(
        self,
        caller: Caller,
        provider_name: str,
        *,
        client_id: str | None,
        secret: Sensitive | None = None,
        issuer: str = "",
        auth: str | None = None,
        key_id: str | None = None,
        allow_private: bool = False,
        register: bool = False,
    ) -> ClientInfo:
        """
        Say what this company is to a provider, in place of what was said before. The client's secret is sealed with the
        endpoints that it may go to: those of the provider's file, or what the issuer says of itself now. `register` asks
        the server for a client (RFC 7591).

        Raises:
            NotFound: no such provider.
            WrongUsage: it has no OAuth, or what is given does not fit.
            Rejected, NotNow, Uncertain: the issuer did not say where its endpoints are, or did not register us.
        """
        caller.require(Permission.PROVIDER_CONFIGURE)
        provider, oauth = with_oauth(self.providers.get(provider_name), issuer)
        if register:
            if client_id or secret:
                raise WrongUsage(
                    "a client that the server registers has no id yet", hint="give a client id, or --register"
                )
            endpoints = await self._endpoints(provider, issuer, allow_private)
            client = await self._registered(provider, issuer, endpoints)
        else:
            _check(client_id, secret, auth or oauth.auth)
            endpoints = await self._endpoints(provider, issuer, allow_private)
            client = Client(client_id or "", auth or oauth.auth, endpoints, secret, key_id)
        facts = {"provider": provider.name, "host": urlsplit(endpoints.token).hostname, "client": client.id}
        await self.audit.append(caller.scope.company_id, "provider.configured", actor=caller.label, **facts)
        await self._keep(caller.scope, provider.name, issuer, client)
        return await self.show(caller, provider.name, issuer)

    async def get(
        self, scope: CompanyScope, provider: str, issuer: str = "", *, actor: str | None = None, purpose: str = "client"
    ) -> Client:
        """
        The client, opened for a use; that is recorded first. `issuer` is the operator's own, or what the endpoints of a
        consent name.

        Raises:
            NotFound: this company is nobody to this provider yet.
            Tampered: the row names another secret.
        """
        async with scope.transaction() as tx:
            row = await tx.one("client_get", provider=provider, issuer=issuer)
            if row is None and issuer:
                row = await tx.one("client_get", provider=provider, issuer="")
        if row is None:
            raise unknown_client(provider)
        facts = {"provider": provider, "purpose": purpose, "actor": actor}
        async with self.store.use(scope, row["secret_id"], **facts) as use:
            client = _opened(use.secret, provider, row["issuer"])
            use.ended("opened", host=urlsplit(client.endpoints.token).hostname)
        if issuer not in (row["issuer"], client.endpoints.issuer):
            raise unknown_client(provider)
        return client

    async def show(self, caller: Caller, provider: str, issuer: str = "") -> ClientInfo:
        """
        Raises:
            NotFound: this company is nobody to this provider yet.
        """
        caller.require(Permission.INTEGRATION_CONNECT)
        async with caller.scope.transaction() as tx:
            row = await tx.one("client_get", provider=provider, issuer=issuer)
        if row is None:
            raise unknown_client(provider)
        return self._info(row)

    async def list(self, caller: Caller) -> list[ClientInfo]:
        """All of the company's, by provider."""
        caller.require(Permission.INTEGRATION_CONNECT)
        async with caller.scope.transaction() as tx:
            return [self._info(row) for row in await tx.all("client_list")]

    async def delete(self, caller: Caller, provider: str, issuer: str = "") -> None:
        """
        Forget a client. What was consented to through it works until its access tokens end, and is then not refreshed.

        Raises:
            NotFound: there is none.
        """
        caller.require(Permission.PROVIDER_CONFIGURE)
        await self.show(caller, provider, issuer)
        await self.audit.append(
            caller.scope.company_id, "provider.client_deleted", actor=caller.label, provider=provider
        )
        async with caller.scope.transaction() as tx:
            row = await tx.one("client_delete", provider=provider, issuer=issuer)
            if row is not None:
                await self.store.delete(tx, row["secret_id"])

    async def _endpoints(self, provider: Provider, issuer: str, allow_private: bool) -> Endpoints:
        oauth = provider.oauth
        assert oauth is not None
        if any(HOST in url for url in oauth.urls()):
            # Each customer has a host there: what was given is its address, and names the server.
            found = provider.endpoints(issuer or None, allow_private=allow_private)
            assert found is not None
            return replace(found, issuer=issuer)
        if issuer:
            return await self.calls.discover(issuer, allow_private=allow_private)
        if (known := provider.endpoints()) is not None:
            return known
        assert oauth.issuer is not None
        return await self.calls.discover(oauth.issuer, allow_private=False)

    async def _registered(self, provider: Provider, issuer: str, endpoints: Endpoints) -> Client:
        if endpoints.registration is None:
            raise WrongUsage(
                f"{provider.title} does not register clients by itself",
                hint=f"register one at {provider.oauth.client_page}"
                if provider.oauth and provider.oauth.client_page
                else "register one there, and give its id",
            )
        redirect_uri = self.redirect_uri(provider.name, issuer)
        return await self.calls.register(endpoints, redirect_uri=redirect_uri, name="Company Agents")

    async def _keep(self, scope: CompanyScope, provider: str, issuer: str, client: Client) -> None:
        name, value = _secret_name(provider, issuer), _sealed(client, provider, issuer)
        async with scope.transaction() as tx:
            there = await tx.one("client_hold", provider=provider, issuer=issuer)
            try:
                secret = await (self.store.replace if there else self.store.put)(tx, name, value)
            except Conflict:
                raise Conflict("somebody else configured it just now", hint="look at it again") from None
            await tx.run(
                "client_put",
                company_id=scope.company_id,
                provider=provider,
                issuer=issuer,
                client_id=client.id,
                auth=client.auth,
                secret_id=secret,
            )

    def _info(self, row: dict[str, Any]) -> ClientInfo:
        shown = {name: value for name, value in row.items() if name != "secret_id"}
        return ClientInfo(redirect_uri=self.redirect_uri(row["provider"], row["issuer"]), **shown)


def with_oauth(provider: Provider, issuer: str = "") -> tuple[Provider, OAuth]:
    """
    A provider that has OAuth, and that. One that is any service has it where its issuer is given.

    Raises:
        WrongUsage: it has none, or the issuer is no address.
    """
    if issuer:
        parts = urlsplit(issuer)
        if (
            parts.scheme not in ("https", "http")
            or not parts.hostname
            or parts.query
            or parts.fragment
            or parts.username
        ):
            raise WrongUsage("this is not an issuer", hint="it is an address, as https://login.example.com")
    if provider.oauth is not None:
        return provider, provider.oauth
    if provider.base_url is None and not provider.address_hint:
        if not issuer:
            raise WrongUsage("any service may have OAuth", hint="give its --issuer, as https://login.example.com")
        oauth = OAuth(flows=("code", "client", "device"), issuer=issuer)
        return provider.model_copy(update={"oauth": oauth}), oauth
    raise WrongUsage(f"{provider.title} has no OAuth", hint="connect it with a token")


def unknown_client(provider: str) -> NotFound:
    """This company is nobody to a provider."""
    return NotFound(
        f"this company has no client at {provider} yet",
        hint=f"`company-agents provider configure {provider}` takes its id and secret",
        # Programs tell it from an integration that does not exist.
        code="client_unknown",
    )


def _check(client_id: str | None, secret: Sensitive | None, auth: str) -> None:
    if not client_id or len(client_id) > MOST_ID or not client_id.isascii() or not client_id.isprintable():
        raise WrongUsage("the client id is missing, or is none", hint="copy it from the provider's page of the client")
    if auth not in AUTHS:
        raise WrongUsage("there is no such way to authenticate", hint=f"one of {', '.join(AUTHS)}")
    if auth == "none":
        if secret:
            raise WrongUsage("a public client has no secret", hint="leave it away, or give another --auth")
        return
    if not secret:
        raise WrongUsage("the client's secret is missing", hint="a public client is configured with --auth none")
    if len(secret) > MOST_SECRET:
        raise WrongUsage("this is too long for a client's secret", hint="copy it again")
    is_key = secret.reveal().lstrip().startswith(b"-----BEGIN ")
    if (auth == "private_key_jwt") != is_key:
        raise WrongUsage(
            "private_key_jwt takes a private key, and nothing else does",
            hint="give the key as a PEM file, with --auth private_key_jwt",
        )


def _secret_name(provider: str, issuer: str) -> str:
    """What the secret of a client is called."""
    return f"oauth_client/{provider}" + (f"/{issuer_key(issuer)}" if issuer else "")


def issuer_key(issuer: str) -> str:
    """What stands for a server in names and paths: 16 hexadecimal digits."""
    return hashlib.sha256(issuer.encode()).hexdigest()[:16]


def _sealed(client: Client, provider: str, issuer: str) -> Sensitive:
    form = {
        "format": FORMAT,
        "kind": "oauth_client",
        "provider": provider,
        "issuer": issuer,
        "id": client.id,
        "auth": client.auth,
        "endpoints": asdict(client.endpoints),
        "secret": client.secret.reveal_text() if client.secret else None,
        "key_id": client.key_id,
    }
    return Sensitive(json.dumps(form, sort_keys=True, separators=(",", ":")))


def _opened(value: Sensitive, provider: str, issuer: str) -> Client:
    found = opened_object(value)
    if found is None or [found.get(name) for name in ("kind", "provider", "issuer")] != [
        "oauth_client",
        provider,
        issuer,
    ]:
        raise Tampered("what the client names is another secret", hint="configure the provider again")
    if found.get("format") != FORMAT:
        raise Failed("this client was sealed in a format that is not known", hint="start a newer version")
    secret = Sensitive(found["secret"]) if found["secret"] else None
    return Client(found["id"], found["auth"], Endpoints(**found["endpoints"]), secret, found["key_id"], issuer)
