"""
Consents by OAuth: begun here, given at the provider, and ended here as a new integration or as a new credential of one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from company_agents.audit.log import AuditLog
from company_agents.errors import CompanyAgentsError, NotFound, Refused, Unavailable, WrongUsage
from company_agents.identity.directory import good_name
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.integrations import vouching
from company_agents.integrations.clients import Clients, with_oauth
from company_agents.integrations.credential import (
    Credential,
    CredentialLost,
    check_token,
    destination_for,
    known_destination,
)
from company_agents.integrations.integrations import Integration, Integrations
from company_agents.integrations.oauth.authorize import authorization_url, new_verifier, read_callback
from company_agents.integrations.oauth.calls import OAuthCalls
from company_agents.integrations.oauth.model import Client, Consent, Granted
from company_agents.integrations.open_flows import FLOW_MINUTES, OpenFlows, hash_of, is_of_another, new_state
from company_agents.integrations.provider import HOST, Provider, Providers
from company_agents.integrations.revocation import revoke_tokens
from company_agents.integrations.wanted import Asked, Wanted
from company_agents.outgoing.destination import Destination, origin, parse_origin
from company_agents.sensitive import Sensitive

# RFC 6749, 3.3, without the space between them.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,200}")


@dataclass(frozen=True, slots=True)
class Begun:
    """A consent to be given: where the person goes for it. The address holds the state, so it is not logged."""

    id: UUID
    host: str
    ends_at: datetime
    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ready:
    """What a flow has found out before it asks for anything."""

    wanted: Wanted
    provider: Provider
    client: Client
    destination: Destination

    def asked(self, flow: str, secret: Sensitive, session_id: UUID | None, **shown: str) -> Asked:
        """What is sealed until the answer comes."""
        endpoints = self.client.endpoints
        return Asked(flow, self.wanted, self.client.id, endpoints, self.destination, secret, session_id, **shown)


@dataclass(frozen=True)
class Flows:
    """The consents of a caller's company. device.py has the flow for those who have no browser here."""

    open: OpenFlows
    audit: AuditLog
    calls: OAuthCalls
    providers: Providers
    clients: Clients
    integrations: Integrations

    async def begin(self, caller: Caller, wanted: Wanted, *, session_id: UUID) -> Begun:
        """
        Ask for a consent by the authorization code flow: in the browser of this session, and in no other.

        Raises:
            NotFound: no such provider, integration or agent; no client of this company there.
            WrongUsage: the provider has no such flow, or what is wanted will not do.
            Conflict: there is an integration of this name; or too many consents are being asked for.
        """
        ready = await self.ready(caller, wanted, "code")
        await self.open.room(caller.scope)
        flow_id, ends_at = uuid4(), datetime.now(UTC) + timedelta(minutes=FLOW_MINUTES)
        verifier, challenge = new_verifier()
        state = new_state(caller.scope.company_id, flow_id)
        url = authorization_url(
            ready.provider,
            ready.client,
            redirect_uri=self.clients.redirect_uri(ready.provider.name, ready.client.issuer),
            state=state,
            challenge=challenge,
            scopes=ready.wanted.scopes,
        )
        await self.open.keep(caller, flow_id, ready.asked("code", verifier, session_id), ends_at, hash_of(state))
        return Begun(flow_id, urlsplit(url).hostname or "", ends_at, url)

    async def finish(
        self, caller: Caller, session_id: UUID, provider_name: str, params: Mapping[str, str], *, server: str = ""
    ) -> Integration:
        """
        Take the answer that a browser brought back: once, in the session that began it, from the provider that was
        asked. The credential is tried at the provider, then kept. `server` is what the redirect address says of the
        provider's server; nothing, for its own.

        Raises:
            Refused: the answer is not the one that is waited for; nothing was kept, and that is recorded.
            Rejected, Gone, NotNow, Uncertain: the provider gave nothing for the code, or the person said no.
            ProbeFailed, Conflict, NotFound: as for connecting by token.
        """
        asked = await self.open.claimed(caller, session_id, provider_name, params.get("state", ""), server)
        provider, _ = with_oauth(self.providers.get(provider_name), asked.wanted.issuer)
        reason = "issuer" if is_of_another(asked, params) else "denied" if params.get("error") else ""
        try:
            code = read_callback(params, issuer=asked.endpoints.issuer, iss_required=asked.endpoints.iss_in_reply)
            client = await self.same_client(caller, asked)
            granted = await self.calls.redeem(
                provider,
                client,
                code=code,
                redirect_uri=self.clients.redirect_uri(provider.name, client.issuer),
                verifier=asked.secret,
            )
        except CompanyAgentsError as error:
            self.audit.refusal(
                caller.scope.company_id,
                "consent.refused",
                actor=caller.label,
                integration=asked.wanted.integration_id,
                provider=provider.name,
                reason=reason or error.reason,
            )
            raise
        ready = Ready(asked.wanted, provider, client, asked.destination)
        return await self.settle(caller, ready, "code", granted)

    async def at_once(self, caller: Caller, wanted: Wanted, flow: str) -> Integration:
        """
        Connect, or rotate, by a flow in which nobody is asked: `client` (client credentials) or `github_app`.

        Raises:
            As for `begin` and `finish`.
        """
        ready = await self.ready(caller, wanted, flow)
        if flow == "github_app":
            if not wanted.installation or not re.fullmatch(r"[0-9]{1,20}", wanted.installation):
                raise WrongUsage("which installation of the app is not said", hint="give --installation ID, a number")
            granted = await self.calls.installation(ready.provider, ready.client, wanted.installation)
        else:
            granted = await self.calls.client_credentials(ready.provider, ready.client, ready.wanted.scopes)
        return await self.settle(caller, ready, flow, granted)

    # — the steps that all flows have —

    async def ready(self, caller: Caller, wanted: Wanted, flow: str) -> Ready:
        """
        Look at everything that can be wrong before anybody is asked; the client is opened, and that is recorded.

        Raises:
            As for `begin`.
        """
        if wanted.integration_id is None:
            caller.require(Permission.INTEGRATION_CONNECT)
            provider, oauth = with_oauth(self.providers.get(wanted.provider), wanted.issuer)
            wanted = replace(wanted, name=good_name(wanted.name or provider.name, "an integration"))
            destination = destination_for(
                provider, wanted.base_url, allow_private=wanted.allow_private, header=wanted.header, consent=True
            )
            await self.integrations.check_free(caller.scope, wanted.name or "", wanted.allow)
        else:
            caller.require(Permission.INTEGRATION_ROTATE)
            wanted, destination = await self._of_present(caller, wanted)
            provider, oauth = with_oauth(self.providers.get(wanted.provider), wanted.issuer)
        if flow not in oauth.flows:
            raise WrongUsage(
                f"{provider.title} has no flow {flow}",
                hint=f"it has {', '.join(oauth.flows)}; or connect it with a token",
            )
        scopes = wanted.scopes or tuple(scope.name for scope in oauth.scopes)
        if not all(_SCOPE.fullmatch(scope) for scope in scopes):
            raise WrongUsage("a scope has characters that none has", hint="give each one by itself")
        client = await self.clients.get(
            caller.scope, provider.name, wanted.issuer, actor=caller.label, purpose="consent"
        )
        _check_place(provider, client, destination, flow)
        # The client's own word for the server: it is in the redirect address.
        return Ready(replace(wanted, scopes=scopes, issuer=client.issuer), provider, client, destination)

    async def settle(self, caller: Caller, ready: Ready, flow: str, granted: Granted) -> Integration:
        """
        Keep what was granted: tried at the provider first. What cannot be kept is revoked there, where that can be done.

        Raises:
            ProbeFailed, Conflict, NotFound, WrongUsage: it is not kept.
        """
        wanted = ready.wanted
        try:
            credential = _credential(ready, flow, granted)
            await self.audit.append(
                caller.scope.company_id,
                "consent.given",
                actor=caller.label,
                integration=wanted.integration_id,
                provider=ready.provider.name,
                flow=flow,
            )
        except CompanyAgentsError as error:
            await self.not_kept(caller, ready, granted, error)
            raise
        before = await self._version(caller, wanted)
        account = granted.account or ""
        try:
            with contextlib.suppress(Unavailable):
                await vouching.ask(self.calls, ready.provider, ready.client, credential)
            if wanted.integration_id is not None:
                return await self.integrations.supersede(caller, wanted.integration_id, credential, account=account)
            return await self.integrations.establish(
                caller,
                ready.provider,
                credential,
                name=wanted.name,
                allow=wanted.allow,
                allow_all=wanted.allow_all,
                rules=wanted.rules,
                account=account,
            )
        except CompanyAgentsError as error:
            # Where the database failed, it may be kept: then something is there now that was not before.
            known = isinstance(error, (WrongUsage, NotFound, Refused))
            if known or await self._version(caller, wanted) == before:
                await self.not_kept(caller, ready, granted, error)
            raise

    async def _version(self, caller: Caller, wanted: Wanted) -> int | None:
        """The present version of what is wanted; 0 where there is none, None where that is not known."""
        try:
            if wanted.integration_id is not None:
                return (await self.integrations.get(caller, wanted.integration_id)).version
            await self.integrations.check_free(caller.scope, wanted.name or "", ())
        except NotFound:
            return 0
        except CompanyAgentsError:
            return None
        return 0

    async def not_kept(self, caller: Caller, ready: Ready, granted: Granted, error: CompanyAgentsError) -> None:
        """
        Record that a consent is not kept, and end it at the provider: nobody has its tokens any more.

        Raises:
            CompanyAgentsError: `error` itself, where that could not be recorded.
        """
        facts: dict[str, Any] = {
            "actor": caller.label,
            "integration": ready.wanted.integration_id,
            "provider": ready.provider.name,
        }
        unrecorded: CompanyAgentsError | None = None
        try:
            await self.audit.append(caller.scope.company_id, "consent.not_kept", reason=error.reason, **facts)
        except CompanyAgentsError as failure:
            unrecorded = failure
        oauth = ready.provider.oauth
        # Else it would end others of the same person.
        if oauth is not None and not (oauth.revocation_ends_all or oauth.one_consent):
            with contextlib.suppress(CompanyAgentsError):
                if await revoke_tokens(self.calls, ready.provider, ready.client, granted.access, granted.refresh):
                    await self.audit.append(caller.scope.company_id, "consent.revoked", **facts)
        if unrecorded is not None:
            raise error from unrecorded

    async def _of_present(self, caller: Caller, wanted: Wanted) -> tuple[Wanted, Destination]:
        """A rotation: everything but the scopes is as it was."""
        assert wanted.integration_id is not None
        integration = await self.integrations.get(caller, wanted.integration_id)
        try:
            present = await self.integrations.present(caller, integration.id)
        except CredentialLost:
            provider = self.providers.get(integration.provider)
            destination = known_destination(provider, integration.destination, consent=True)
            return replace(wanted, provider=integration.provider), destination
        if present.consent is None:
            oauth, destination = self.providers.get(integration.provider).oauth, present.destination
            if oauth is not None and (place := oauth.credential) is not None:
                # It was a token, which goes into another place of the call than what is to come.
                destination = replace(destination, placement=place.placement(destination.host))
            return replace(wanted, provider=integration.provider), destination
        return (
            replace(
                wanted,
                provider=integration.provider,
                issuer=present.consent.endpoints.issuer or "",
                scopes=wanted.scopes or present.consent.scopes,
                installation=wanted.installation or present.consent.installation,
            ),
            present.destination,
        )

    async def same_client(self, caller: Caller, asked: Asked) -> Client:
        """
        The client that asked.

        Raises:
            Refused: it was configured anew meanwhile.
        """
        wanted = asked.wanted
        client = await self.clients.get(
            caller.scope, wanted.provider, wanted.issuer, actor=caller.label, purpose="consent"
        )
        if (client.id, client.endpoints) != (asked.client_id, asked.endpoints):
            raise Refused("the client was configured anew meanwhile", hint="begin again", code="client_changed")
        return client


def _check_place(provider: Provider, client: Client, destination: Destination, flow: str) -> None:
    """
    An access token goes where it was asked for. Who may name an address is not who may use the client's own rights: else
    those would go wherever somebody likes.

    Raises:
        WrongUsage: it would go elsewhere.
    """
    oauth, own = provider.oauth, _origin(client.issuer or client.endpoints.issuer or "")
    if oauth is not None and any(HOST in url for url in oauth.urls()):
        known = {own}
    elif flow in ("client", "github_app") and provider.base_url is not None:
        known = {_origin(provider.base_url), own, _origin(client.endpoints.token)}
    else:
        return
    if destination.origin not in known:
        raise WrongUsage(
            f"{destination.origin} is not where this client of {provider.title} is at home",
            hint="give the address of its server, or configure a client for this one",
        )


def _origin(url: str) -> str:
    """Scheme, host and port of an endpoint; nothing for nothing."""
    parts = urlsplit(url)
    return origin(*parse_origin(f"{parts.scheme}://{parts.netloc}")) if url else ""


def _credential(ready: Ready, flow: str, granted: Granted) -> Credential:
    now = datetime.now(UTC)
    consent = Consent(
        flow=flow,
        client_id=ready.client.id,
        endpoints=ready.client.endpoints,
        refresh=granted.refresh,
        expires_at=_after(now, granted.expires_in),
        refresh_expires_at=_after(now, granted.refresh_expires_in),
        scopes=granted.scopes or ready.wanted.scopes,
        installation=ready.wanted.installation,
    )
    return Credential(ready.destination, check_token(granted.access), consent)


def _after(now: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else now + timedelta(seconds=seconds)
