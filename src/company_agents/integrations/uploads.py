"""
A file on its way to an address that the provider named for it: recorded and guarded like any outgoing call, and without the
credential, which is not for that host.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from company_agents.audit.chain import path_template
from company_agents.errors import Refused
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.integrations.relay import Relay, watched
from company_agents.integrations.versions import unknown_integration
from company_agents.outgoing.client import OutgoingRequest
from company_agents.outgoing.destination import Destination, Placement
from company_agents.outgoing.reply import StreamedReply

_METHODS = frozenset({"POST", "PUT"})


@dataclass(frozen=True)
class Uploads:
    """Uploads in the name of a company, by its agents."""

    relay: Relay

    @contextlib.asynccontextmanager
    async def open(
        self,
        caller: Caller,
        integration: str,
        integration_id: UUID,
        request: OutgoingRequest,
        origin: str,
        *,
        private: bool,
    ) -> AsyncIterator[StreamedReply]:
        """
        Send a file; the head of the reply is there, its body comes as it is read.

        Args:
            integration: as the address has it; it has to be the one of this id.
            private: whether it may go to private networks, as the integration's own calls may.

        Raises: as `Relay.open`.
        """
        caller.require(Permission.INTEGRATION_USE)
        if request.method not in _METHODS:
            raise Refused("an upload is sent with POST or PUT")
        destination = Destination.at(origin, Placement.header(), allow_private=private)
        company = caller.scope.company_id
        async with contextlib.AsyncExitStack() as held:
            await held.enter_async_context(self.relay.streams.of(company))
            async with self.relay.turns.of(company):
                found = await self.relay.finder.find(caller, integration, None)
                if found["id"] != integration_id:
                    raise unknown_integration()
                facts = {
                    "actor": caller.label,
                    "integration": found["id"],
                    "host": destination.origin,
                    "method": request.method,
                    "path": path_template(request.path),
                }
                await self.relay.audit.append(company, "upload.begun", decision="allowed", **facts)
                outcome: dict[str, Any] = {"result": "failed"}
                held.callback(lambda: self.relay.audit.note(company, "upload.ended", **facts, **outcome))
                hold = await held.enter_async_context(
                    self.relay.open_streams.held(caller, found["id"], None, found["mark"])
                )
                held.callback(lambda: outcome.update(result="cut") if hold.closed else None)
                request = watched(request, hold)
                reply = await held.enter_async_context(self.relay.streamed(request, destination, None, whole=False))
                outcome.update(result="replied", status=reply.status)
            yield reply
