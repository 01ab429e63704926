"""
An agent's request that a person has to approve first: kept, waited for, and its outcome told once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from company_agents.audit.chain import path_template
from company_agents.errors import ApprovalNeeded, Conflict, NotFound, Refused, TooMany
from company_agents.identity.holding import still_holds
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.integrations.approval_forms import AsSent, KeptReply
from company_agents.integrations.approvals import UNDER_WAY, Approval, Approvals, approval_of, facts_of
from company_agents.integrations.permitted import agent_of
from company_agents.integrations.provider import Providers
from company_agents.outgoing.client import OutgoingRequest
from company_agents.sensitive import harmless

# Of one agent: who has more has nobody who looks at them.
MOST_WAITING = 100
# Days for which an outcome that was not heard is kept.
KEPT_DAYS = 7
# Seconds that somebody may wait for a decision.
MOST_WAIT = 300
# Seconds between two looks of whoever waits: at first, and at most.
_LOOK_AGAIN, _LOOK_AT_MOST = 0.25, 2.0


@dataclass(frozen=True)
class Asking:
    """What agents do with approvals. `hours` is how long one waits for a person."""

    approvals: Approvals
    providers: Providers
    hours: int

    async def passed(
        self, caller: Caller, found: Mapping[str, Any], request: OutgoingRequest, *, wait: float = 0
    ) -> KeptReply:
        """
        The reply to a request that a person has approved; who asks for it for the first time has them asked. `found` is the
        integration as it was found for this caller. Each outcome is told once.

        Raises:
            ApprovalNeeded: nobody has decided yet, or it is being sent; also after `wait` seconds.
            Refused: a person refused it (`approval_refused`), it was not sent (`approval_failed`), or nobody decided while this
                waited (`approval_expired`); it is too large to be kept (`too_large_to_ask`).
            Conflict: it may have been sent, and there is no reply (`approval_uncertain`).
            TooMany: this agent has as many waiting as it may.
        """
        approval_id = await self._asked(caller, found, request)
        row = await self.over(caller, approval_id, wait)
        if row["state"] in UNDER_WAY:
            raise ApprovalNeeded(approval_id, row["expires_at"])
        return await self._collected(caller, approval_id)

    async def result(self, caller: Caller, approval_id: UUID, *, wait: float = 0) -> tuple[Approval, KeptReply | None]:
        """
        What became of an agent's own, and the reply for as long as it is kept.

        Raises:
            NotFound: no such approval, or not of this agent.
        """
        caller.require(Permission.APPROVAL_READ)
        caller.agent_id()
        row = await self.over(caller, approval_id, wait)
        reply = None
        if row["state"] == "done" and row["reply"] is not None:
            reply = await self._collected(caller, approval_id)
        elif row["state"] not in UNDER_WAY:
            async with caller.scope.transaction() as tx:
                await tx.run("approval_collect", id=approval_id)
        return approval_of(await self.approvals.row(caller, approval_id)), reply

    async def _asked(self, caller: Caller, found: Mapping[str, Any], request: OutgoingRequest) -> UUID:
        """The approval of this request: the one that there is, else a new one."""
        place = self.providers.get(found["provider"]).place(consent=found["consent"])
        carrier = None if place.kind == "query" else place.name
        approval_id, agent_id, scope = uuid4(), caller.agent_id(), caller.scope
        asked = await AsSent.of(approval_id, found, request, carrier)
        key = await self.approvals.key(scope)
        same = {"agent_id": agent_id, "likeness": asked.likeness(key)}
        async with scope.transaction() as tx:
            await still_holds(tx, caller)
            await tx.one("approval_agent_hold", agent_id=agent_id)
            known = await tx.one("approval_like", days=KEPT_DAYS, **same)
            if known is not None:
                there: UUID = known["id"]
                return there
            for row in await tx.all("approval_like_expire", **same):
                await self.approvals.record(scope, "approval.expired", None, row)
            waiting = await tx.one("approvals_waiting", agent_id=agent_id)
            if waiting is not None and waiting["count"] >= MOST_WAITING:
                raise TooMany(
                    f"this agent has {waiting['count']} requests waiting for approval, and may have no more",
                    retry_after=MOST_WAIT,
                    hint="wait until some are decided",
                )
            shown = {
                "method": harmless(asked.method)[:40],
                "host": asked.origin,
                "path": path_template(asked.path),
                "version": asked.version,
            }
            await tx.run(
                "approval_insert",
                id=approval_id,
                company_id=scope.company_id,
                integration_id=asked.integration,
                run_id=caller.principal.run_id,
                fence=caller.principal.fence,
                digest=asked.digest(key),
                size=len(asked.body),
                request=await self.approvals.store.put(tx, f"approval/{approval_id}/request", asked.sealed_form()),
                seconds=self.hours * 3600,
                **same,
                **shown,
            )
            row = {"id": approval_id, "integration_id": asked.integration, "agent_id": agent_id}
            kept = await tx.one("approval_get", id=approval_id, agent_id=None)
            assert kept is not None
            await self.approvals.record(
                scope, "approval.asked", caller.label, row, expires_at=kept["expires_at"], **shown
            )
        return approval_id

    async def over(self, caller: Caller, approval_id: UUID, wait: float) -> dict[str, Any]:
        """
        An approval once it has ended, or as it is after `wait` seconds. Nothing is held meanwhile.

        Raises:
            NotFound: it is not there, or another's.
        """
        clock = asyncio.get_running_loop()
        until, pause = clock.time() + min(wait, MOST_WAIT), _LOOK_AGAIN
        while True:
            row = await self.approvals.row(caller, approval_id)
            left = until - clock.time()
            if row["state"] not in UNDER_WAY or left <= 0:
                return row
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 1.5, _LOOK_AT_MOST)

    async def _collected(self, caller: Caller, approval_id: UUID) -> KeptReply:
        """The outcome, told to the agent. That it was told is written first."""
        async with caller.scope.transaction() as tx:
            await still_holds(tx, caller)
            await tx.run("approval_collect", id=approval_id)
            row = await tx.one("approval_get", id=approval_id, agent_id=agent_of(caller))
        if row is None:
            raise NotFound("this approval does not exist any more")
        if row["state"] != "done":
            raise _outcome(row)
        sealed = row["reply"] and await self.approvals.audit.append_and_read(
            caller.scope.company_id, row["reply"], "approval.collected", actor=caller.label, **facts_of(row)
        )
        if not sealed:
            raise NotFound("the reply to this is no longer kept", hint="look at the provider for what became of it")
        return KeptReply.opened(await self.approvals.store.open_row(sealed))


def _outcome(row: Mapping[str, Any]) -> Refused:
    """What an agent is told of an approval that brought no reply."""
    error: Refused
    if row["state"] == "refused":
        said = f": {row['note']}" if row["note"] else ""
        error = Refused(f"a person refused this request{said}", hint="nothing was sent", code="approval_refused")
    elif row["state"] == "uncertain":
        error = Conflict(
            f"this request was approved and may have been sent, but there is no reply: {row['reason']}",
            hint="it is not sent again. Look at the provider for what became of it, before you ask for the same again",
            code="approval_uncertain",
        )
    elif row["state"] == "failed":
        error = Refused(
            f"this request was approved and not sent: {row['reason']}",
            hint="nothing was sent. Make it again to have it approved again",
            code="approval_failed",
        )
    else:
        error = Refused(
            "nobody decided on this request in time",
            hint="nothing was sent. Make it again to have somebody asked again",
            code="approval_expired",
        )
    error.facts = {"approval": str(row["id"])}
    return error
