"""
Consents by OAuth: begun here, given at the provider, and ended here as a new integration or as a new credential of one.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Never
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from company_agents.audit.log import AuditLog
from company_agents.companies.scope import CompanyScope
from company_agents.errors import CompanyAgentsError, Conflict, Refused, WrongUsage
from company_agents.identity.directory import good_name
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.integrations.clients import Clients, with_oauth
from company_agents.integrations.credential import Credential, check_token, destination_for
from company_agents.integrations.integrations import Integration, Integrations
from company_agents.integrations.oauth.authorize import authorization_url, new_verifier, read_callback
from company_agents.integrations.oauth.calls import OAuthCalls
from company_agents.integrations.oauth.model import Client, Consent, Granted
from company_agents.integrations.provider import Provider, Providers
from company_agents.integrations.wanted import Asked, Wanted
from company_agents.outgoing.destination import Destination, Placement
from company_agents.secret_store.store import SecretStore
from company_agents.sensitive import Sensitive

# How long a person may take at the provider.
FLOW_MINUTES = 10
# RFC 6749, 3.3, without the space between them.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,200}")
_STATE = re.compile(r"[A-Za-z0-9_-]{86}")
# Flows that one company has open at once; the rest of the store is for credentials.
MOST_OPEN = 100


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

    store: SecretStore
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
        flow_id, ends_at = uuid4(), datetime.now(UTC) + timedelta(minutes=FLOW_MINUTES)
        verifier, challenge = new_verifier()
        state = _new_state(caller.scope.company_id, flow_id)
        url = authorization_url(
            ready.provider,
            ready.client,
            redirect_uri=self.clients.redirect_uri(ready.provider.name),
            state=state,
            challenge=challenge,
            scopes=ready.wanted.scopes,
        )
        await self.keep(caller, flow_id, ready, ready.asked("code", verifier, session_id), ends_at, _hash(state))
        return Begun(flow_id, urlsplit(url).hostname or "", ends_at, url)

    async def finish(
        self, caller: Caller, session_id: UUID, provider_name: str, params: Mapping[str, str]
    ) -> Integration:
        """
        Take the answer that a browser brought back: once, in the session that began it, from the provider that was
        asked. The credential is tried at the provider, then kept.

        Raises:
            Refused: the answer is not the one that is waited for; nothing was kept, and that is recorded.
            Rejected, Gone, NotNow, Uncertain: the provider gave nothing for the code, or the person said no.
            ProbeFailed, Conflict, NotFound: as for connecting by token.
        """
        asked = await self._claimed(caller, session_id, provider_name, params.get("state", ""))
        provider, _ = with_oauth(self.providers.get(provider_name), asked.wanted.issuer)
        reason = "issuer" if _is_of_another(asked, params) else "denied" if params.get("error") else ""
        try:
            code = read_callback(params, issuer=asked.endpoints.issuer, iss_required=asked.endpoints.iss_in_reply)
            client = await self.same_client(caller, asked)
            granted = await self.calls.redeem(
                provider,
                client,
                code=code,
                redirect_uri=self.clients.redirect_uri(provider.name),
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

    async def sweep(self) -> None:
        """Delete what was asked for and never answered, in every company."""
        async with self.store.db.instance_transaction() as tx:
            for row in await tx.all("flows_ended"):
                await self.store.delete(tx, row["secret_id"])
            await tx.run("flows_over")

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
        return Ready(replace(wanted, scopes=scopes), provider, client, destination)

    async def keep(
        self,
        caller: Caller,
        flow_id: UUID,
        ready: Ready,
        asked: Asked,
        ends_at: datetime,
        state_hash: bytes | None = None,
    ) -> None:
        """Seal what was asked for, until the answer comes."""
        company_id, provider = caller.scope.company_id, ready.provider.name
        integration = ready.wanted.integration_id
        await self.audit.append(
            company_id,
            "consent.begun",
            actor=caller.label,
            integration=integration,
            provider=provider,
            host=urlsplit(ready.client.endpoints.authorization or ready.client.endpoints.token).hostname,
            flow=asked.flow,
        )
        async with caller.scope.transaction() as tx:
            open_now = await tx.one("flows_open")
            if open_now is not None and open_now["count"] >= MOST_OPEN:
                raise Conflict(
                    "too many consents of this company are being asked for", hint="each ends by itself in ten minutes"
                )
            secret_id = await self.store.put(tx, flow_secret(flow_id), asked.sealed_form())
            await tx.run(
                "flow_insert",
                id=flow_id,
                company_id=company_id,
                provider=provider,
                kind=asked.flow,
                integration_id=integration,
                secret_id=secret_id,
                ends_at=ends_at,
                state_hash=state_hash,
                session_id=asked.session_id,
            )

    async def claim(self, scope: CompanyScope, flow_id: UUID, state_hash: bytes | None) -> dict[str, Any] | None:
        """Use a flow up, whatever comes of it; None where it was used before, or never was. What it sealed is deleted."""
        async with scope.transaction() as tx:
            row = await tx.one("flow_claim", id=flow_id, state_hash=state_hash)
            if row is not None:
                secret = await tx.one("secret_by_name", company_id=scope.company_id, name=flow_secret(flow_id))
                if secret is not None:
                    await self.store.delete(tx, secret["id"])
        return row

    async def settle(self, caller: Caller, ready: Ready, flow: str, granted: Granted) -> Integration:
        """
        Keep what was granted: tried at the provider first.

        Raises:
            ProbeFailed, Conflict, NotFound, WrongUsage: it is not kept.
        """
        wanted, credential = ready.wanted, _credential(ready, flow, granted)
        await self.audit.append(
            caller.scope.company_id,
            "consent.given",
            actor=caller.label,
            integration=wanted.integration_id,
            provider=ready.provider.name,
            flow=flow,
        )
        account = granted.account or ""
        if wanted.integration_id is not None:
            return await self.integrations.supersede(caller, wanted.integration_id, credential, account=account)
        return await self.integrations.establish(
            caller,
            ready.provider,
            credential,
            name=wanted.name,
            allow=wanted.allow,
            allow_all=wanted.allow_all,
            account=account,
        )

    async def _of_present(self, caller: Caller, wanted: Wanted) -> tuple[Wanted, Destination]:
        """A rotation: everything but the scopes is as it was."""
        assert wanted.integration_id is not None
        integration = await self.integrations.get(caller, wanted.integration_id)
        present = await self.integrations.present(caller, integration.id)
        if present.consent is None:
            oauth, destination = self.providers.get(integration.provider).oauth, present.destination
            if oauth is not None and (place := oauth.credential) is not None:
                # It was a token, which goes into another place of the call than what is to come.
                destination = replace(destination, placement=Placement(place.kind, place.name, place.template))
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

    async def _claimed(self, caller: Caller, session_id: UUID, provider: str, state: str) -> Asked:
        """
        What was asked for, by the state that came back.

        Raises:
            Refused: it is none of ours, was used, is too late, or belongs to another session or provider.
        """
        known, scope = read_state(state), caller.scope
        if known is None or known[0] != scope.company_id:
            self._refuse(caller, provider, "state", "this answer belongs to nothing that was asked for here")
        flow_id, state_hash = known[1], _hash(state)
        sealed = await self.store.open_own(scope, flow_secret(flow_id))
        row = await self.claim(scope, flow_id, state_hash)
        if row is None:
            async with scope.transaction() as tx:
                used = await tx.one("flow_known", id=flow_id, state_hash=state_hash)
            if used is None:
                self._refuse(caller, provider, "state", "this answer belongs to nothing that was asked for here")
            self._refuse(caller, provider, "replayed", "this answer was used before")
        if row["ends_at"] <= datetime.now(UTC) or sealed is None:
            self._refuse(caller, provider, "late", f"this took longer than {FLOW_MINUTES} minutes")
        # Whose it is, is taken from what is sealed: the row beside it is not.
        asked = Asked.opened(sealed)
        if asked.session_id != session_id:
            self._refuse(caller, provider, "session", "this consent was begun in another browser, or by somebody else")
        if asked.wanted.provider != provider:
            self._refuse(caller, provider, "mixed_up", "this answer came from another provider than the one asked")
        return asked

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

    def _refuse(self, caller: Caller, provider: str, reason: str, sentence: str) -> Never:
        self.audit.refusal(
            caller.scope.company_id, "consent.refused", actor=caller.label, provider=provider, reason=reason
        )
        raise Refused(sentence, hint="nothing was connected; begin again", code=f"consent_{reason}")


def flow_secret(flow_id: UUID) -> str:
    """What the secret of a flow is called."""
    return f"oauth_flow/{flow_id}"


def read_state(state: str) -> tuple[UUID, UUID] | None:
    """The company and the flow that a state names; None where it is none of ours. That it is right is not said by that."""
    if not _STATE.fullmatch(state):
        return None
    found = base64.urlsafe_b64decode(state + "==")
    return UUID(bytes=found[:16]), UUID(bytes=found[16:32])


def _new_state(company_id: UUID, flow_id: UUID) -> str:
    return base64.urlsafe_b64encode(company_id.bytes + flow_id.bytes + secrets.token_bytes(32)).rstrip(b"=").decode()


def _hash(state: str) -> bytes:
    return hashlib.sha256(state.encode()).digest()


def _is_of_another(asked: Asked, params: Mapping[str, str]) -> bool:
    said = params.get("iss")
    return said != asked.endpoints.issuer if said or asked.endpoints.iss_in_reply else False


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
