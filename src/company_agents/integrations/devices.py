"""
The device flow (RFC 8628), for who has no browser here: a code and a link, and asking until the person has consented.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from company_agents.errors import CompanyAgentsError, NotFound, Refused
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.integrations.clients import with_oauth
from company_agents.integrations.flows import Flows, Ready
from company_agents.integrations.integrations import Integration
from company_agents.integrations.oauth.device import INTERVAL, Pending
from company_agents.integrations.oauth.model import Ended, NotNow, Uncertain
from company_agents.integrations.open_flows import flow_secret
from company_agents.integrations.wanted import Asked, Wanted

# However long a provider lets it be.
LONGEST = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class Waiting:
    """
    A consent that is waited for: the person opens `link` and types `user_code`. Asked again after `interval` seconds.
    """

    id: UUID
    user_code: str
    link: str
    interval: float
    ends_at: datetime


@dataclass(frozen=True)
class Devices:
    """The device flows of a caller's company."""

    flows: Flows

    async def begin(self, caller: Caller, wanted: Wanted, *, session_id: UUID | None = None) -> Waiting:
        """
        Ask the provider for a code. `session_id`: nobody but that session ends it.

        Raises:
            As `Flows.begin`, and what the provider says.
        """
        flows, flow_id = self.flows, uuid4()
        ready = await flows.ready(caller, wanted, "device")
        await flows.open.room(caller.scope)
        code = await flows.calls.begin_device(ready.provider, ready.client, ready.wanted.scopes)
        ends_at = datetime.now(UTC) + min(timedelta(seconds=code.expires_in), LONGEST)
        link = code.complete_uri or code.verification_uri
        asked = ready.asked("device", code.device_code, session_id, user_code=code.user_code, link=link)
        await flows.open.keep(caller, flow_id, asked, ends_at)
        return Waiting(flow_id, code.user_code, link, code.interval, ends_at)

    async def show(self, caller: Caller, flow_id: UUID, *, session_id: UUID | None = None) -> Waiting:
        """
        What a person was shown.

        Raises:
            NotFound, Refused: as for `poll`.
        """
        asked, ends_at = await self._open(caller, flow_id, session_id)
        return Waiting(flow_id, asked.user_code, asked.link, INTERVAL, ends_at)

    async def poll(
        self, caller: Caller, flow_id: UUID, *, session_id: UUID | None = None, interval: float = INTERVAL
    ) -> Integration | Waiting:
        """
        Ask whether the person has consented; if so, the credential is tried at the provider and kept.

        Raises:
            NotFound: there is no such flow, or it is another session's.
            Refused: it has ended.
            Ended: the person said no, or the code is too old. Recorded.
            Rejected: the provider did not take the question; it may be asked again. Recorded.
        """
        asked, ends_at = await self._open(caller, flow_id, session_id)
        flows, provider = (
            self.flows,
            with_oauth(self.flows.providers.get(asked.wanted.provider), asked.wanted.issuer)[0],
        )
        client = await flows.same_client(caller, asked)
        if not await flows.open.asking(caller.scope, flow_id):
            # Of two who ask at once the second would be told that the code was used.
            return Waiting(flow_id, asked.user_code, asked.link, interval, ends_at)
        try:
            found = await flows.calls.poll_device(provider, client, asked.secret, interval=interval)
        except (NotNow, Uncertain):
            # RFC 8628, 3.5: as slow again. If it had been granted, the next question says that the code was used.
            found = Pending(interval * 2)
        except CompanyAgentsError as error:
            if isinstance(error, Ended):
                await flows.open.claim(caller.scope, flow_id, None)
            else:
                await flows.open.asked(caller.scope, flow_id)
            flows.audit.refusal(
                caller.scope.company_id,
                "consent.refused",
                actor=caller.label,
                provider=provider.name,
                reason=error.reason,
            )
            raise
        if isinstance(found, Pending):
            await flows.open.asked(caller.scope, flow_id)
            return Waiting(flow_id, asked.user_code, asked.link, found.interval, ends_at)
        ready = Ready(asked.wanted, provider, client, asked.destination)
        try:
            if await flows.open.claim(caller.scope, flow_id, None) is None:
                # Nobody waited for it any more, or what it was for is gone.
                raise _over()
        except CompanyAgentsError as error:
            # The code is used up at the provider, and what it gave is nowhere but here.
            await flows.not_kept(caller, ready, found, error)
            raise
        return await flows.settle(caller, ready, "device", found)

    async def cancel(self, caller: Caller, flow_id: UUID, *, session_id: UUID | None = None) -> None:
        """
        No longer wait for a consent; one that has ended stays as it is.

        Raises:
            NotFound: there is no such flow, or it is another session's.
        """
        caller.require(Permission.INTEGRATION_CONNECT)
        with contextlib.suppress(Refused):
            await self._open(caller, flow_id, session_id)
            await self.flows.open.claim(caller.scope, flow_id, None)

    async def _open(self, caller: Caller, flow_id: UUID, session_id: UUID | None) -> tuple[Asked, datetime]:
        caller.require(Permission.INTEGRATION_CONNECT)
        async with caller.scope.transaction() as tx:
            row = await tx.one("flow_get", id=flow_id)
        if row is None or row["kind"] != "device":
            raise _unknown()
        sealed = await self.flows.open.store.open_own(caller.scope, flow_secret(flow_id))
        if row["used_at"] or sealed is None or row["ends_at"] <= datetime.now(UTC):
            raise _over()
        asked = Asked.opened(sealed)
        if asked.session_id != session_id:
            raise _unknown()
        ends_at: datetime = row["ends_at"]
        return asked, ends_at


def _over() -> Refused:
    return Refused("this consent is not asked for any more", hint="begin again", code="consent_over")


def _unknown() -> NotFound:
    return NotFound("there is no such consent being asked for", hint="begin again")
