"""
Sending what a person has approved: once, and exactly as it was shown.

Everything is checked again. `sending` is committed when the use of the credential is on record and the credential is open, just
before the first byte goes out. Who dies before that has sent nothing, and another sends it; who dies after it may have sent it,
and nobody sends it again.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import structlog

from company_agents.audit.chain import path_template
from company_agents.companies.scope import CompanyScope
from company_agents.ending import ended
from company_agents.errors import Busy, CompanyAgentsError, MayNotStart, Refused, Sealed, TooMany, Unavailable
from company_agents.identity.permissions import Kind
from company_agents.identity.principal import Caller, Principal, Via
from company_agents.integrations import rates, rules
from company_agents.integrations.approval_forms import AsSent, KeptReply
from company_agents.integrations.approvals import Approvals
from company_agents.integrations.credential import Credential
from company_agents.integrations.probe import refusal
from company_agents.integrations.provider import Provider
from company_agents.integrations.relay import Relay
from company_agents.integrations.streams import Mark, now
from company_agents.outgoing.client import OutgoingReply
from company_agents.outgoing.failures import AddressRefused, NotSent
from company_agents.outgoing.redirects import nowhere
from company_agents.outgoing.reply import StreamedReply
from company_agents.secret_store.store import Gone
from company_agents.sensitive import harmless

# Seconds between two sweeps of a replica.
SWEEP_EVERY = 10.0
# Seconds for which nobody else tries what somebody has begun to check and send.
TRIED_FOR = 15
# Seconds after its approval in which a request is sent, or not at all: who approves it means now.
MOST_LATE = 3600
# Seconds beside those of a call after which whoever was sending must have died.
SENDING_GRACE = 30
# Seconds in which an outcome is tried to be written, and how long a stop waits for what is being sent.
PATIENCE = 20.0
# Of a company, in one sweep.
MOST_TRIED = 10
MOST_SWEPT = 1000
# Days: what nobody heard, and the rows.
KEPT_DAYS, ROWS_DAYS = 7, 90

LOST = "the orchestrator that sent it died, or lost its database, before the reply was written"

# What passes: nothing was sent, and it is tried again.
_FOR_NOW = (Unavailable, Busy, MayNotStart, TooMany)

log = structlog.stdlib.get_logger("company_agents.approvals")


@dataclass
class Sending:
    """Sends what was approved: here where it was approved here, and what others have left."""

    approvals: Approvals
    relay: Relay
    _tasks: dict[UUID, asyncio.Task[None]] = field(default_factory=dict)

    def start(self, scope: CompanyScope, approval_id: UUID) -> None:
        """Begin to send one, behind whoever asks for it."""
        if approval_id not in self._tasks:
            task = asyncio.create_task(self._logged(scope, approval_id), name=f"approval-{approval_id}")
            self._tasks[approval_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(approval_id, None))

    async def settled(self, approval_id: UUID) -> None:
        """Wait until what began here with one has ended."""
        if (task := self._tasks.get(approval_id)) is not None:
            await asyncio.wait({task})

    async def idle(self) -> None:
        """Wait until nothing is being sent here."""
        while self._tasks:
            await asyncio.wait(set(self._tasks.values()))

    def stop(self) -> None:
        """The instance was sealed: what is being sent is broken off."""
        for task in self._tasks.values():
            task.cancel()

    async def close(self) -> None:
        """Wait for a while for what is being sent, and break off the rest."""
        if self._tasks:
            await asyncio.wait(set(self._tasks.values()), timeout=PATIENCE)
        await ended(*self._tasks.values())

    async def sweep(self) -> None:
        """
        What is past its time expires, what was approved and left is sent, what was being sent by somebody who died is uncertain,
        what was heard is forgotten; in every company.
        """
        db = self.approvals.store.db
        for row in await db.call("companies_with_approvals", ()):
            scope = CompanyScope(row["company_id"], db)
            try:
                await self.sweep_company(scope)
            except Sealed:
                return
            except Exception as error:
                log.warning("approvals could not be swept", company=str(scope.company_id), error=type(error).__name__)

    async def sweep_company(self, scope: CompanyScope) -> None:
        """The same for one company."""
        record = self.approvals.record
        async with scope.transaction() as tx:
            for row in await tx.all("approvals_expire"):
                await record(scope, "approval.expired", None, row)
        async with scope.transaction() as tx:
            for row in await tx.all("approvals_lost", reason=LOST):
                await record(scope, "approval.uncertain", None, row, reason=LOST)
        async with scope.transaction() as tx:
            left = await tx.all("approvals_to_try", seconds=TRIED_FOR, most=MOST_TRIED)
        for row in left:
            self.start(scope, row["id"])
        async with scope.transaction() as tx:
            for row in await tx.all("approvals_forget", days=KEPT_DAYS, most=MOST_SWEPT):
                for secret in (row["old_request"], row["old_reply"]):
                    if secret is not None:
                        await self.approvals.store.delete(tx, secret)
            await tx.run("approvals_prune", days=ROWS_DAYS, most=MOST_SWEPT)

    # — one of them —

    async def _logged(self, scope: CompanyScope, approval_id: UUID) -> None:
        try:
            await self._send(scope, approval_id)
        except Exception as error:
            # It stays as it is written; a sweep goes on from there.
            log.error("an approved request could not be sent", approval=str(approval_id), error=type(error).__name__)

    async def _send(self, scope: CompanyScope, approval_id: UUID) -> None:
        async with scope.transaction() as tx:
            row = await tx.one("approval_to_send", id=approval_id, seconds=MOST_LATE)
        if row is None or row["state"] != "approved":
            return
        caller = _in_whose_name(scope, row)
        call = _Call(self, scope, caller, row)
        try:
            async with self.relay.turns.of(scope.company_id):
                await call.made()
        except CompanyAgentsError as error:
            if not call.begun and isinstance(error, _FOR_NOW):
                log.info("an approved request is not sent yet", approval=str(approval_id), error=error.reason)
                return
            await call.failed(error)
        except BaseException:
            if call.begun:
                await asyncio.shield(call.broken_off())
            raise


@dataclass
class _Call:
    """
    One approved request on its way. `begun`: that it is being sent is written, or may be; `is_out`: it may have been sent.
    """

    sending: Sending
    scope: CompanyScope
    caller: Caller
    row: dict[str, Any]
    begun: bool = False
    is_out: bool = False

    async def made(self) -> None:
        """
        Check everything again, and send it.

        Raises:
            Refused: it may not be sent any more, and was not.
            CompanyAgentsError: it could not be sent; or, once it `is_out`, it may have been.
        """
        row, relay = self.row, self.sending.relay
        _check(row)
        provider = relay.integrations.providers.get(row["provider"])
        asked = await self._asked()
        rules.judge(row, asked.request())
        await relay.spending.checked(self.caller, row["integration_id"], provider, asked.request())
        async with self.scope.transaction() as tx:
            await rates.count(tx, {**row, "id": row["integration_id"]}, row["agent_id"])
        if row["consent"] and row["is_ending"]:
            await relay.refresher.fresh(self.scope, row["integration_id"], row["version"], actor=self.caller.label)
        facts = {
            "actor": self.caller.label,
            "integration": row["integration_id"],
            "version": row["version"],
            "host": asked.origin,
            "method": harmless(asked.method)[:20],
            "path": path_template(asked.path),
            "decision": "approved",
            "approval": row["id"],
            "approved_by": row["decided_by"],
        }
        try:
            async with relay.store.use(self.scope, row["secret_id"], **facts) as use:
                credential = Credential.opened(use.secret)
                if not asked.goes_to(credential.destination):
                    raise Refused("the credential of this integration goes elsewhere")
                if not await self._begin():
                    use.ended("sent by another orchestrator")
                    return
                reply = await self._reply(asked, credential, provider)
                use.ended("replied", status=reply.status, removed=reply.removed or None, bytes=len(reply.content))
        except Gone:
            raise _rotated() from None
        await self._end("sending", "done", reply=reply)
        await self._judge(provider, reply)

    async def failed(self, error: CompanyAgentsError) -> None:
        """Write that it was not sent; or that nobody knows."""
        sent = self.is_out and not isinstance(error, (NotSent, AddressRefused))
        # Where it was never written that it is being sent, this finds nothing, and a sweep sends it.
        await self._end("sending" if self.begun else "approved", "uncertain" if sent else "failed", error.sentence)

    async def broken_off(self) -> None:
        """The same, where this is stopped. What cannot be written now, a sweep writes."""
        reason = "the orchestrator stopped while it was being sent"
        with contextlib.suppress(Exception):
            await self._write("sending", "uncertain" if self.is_out else "failed", reason, None)

    async def _asked(self) -> AsSent:
        async with self.scope.transaction() as tx:
            name = f"approval/{self.row['id']}/request"
            sealed = await tx.one("secret_by_name", company_id=self.scope.company_id, name=name)
        if sealed is None:
            raise Refused("what it said is no longer kept")
        return await self.sending.approvals.opened(self.scope, self.row, sealed)

    async def _begin(self) -> bool:
        """Whether it is sent here. Once that is committed, nobody else does."""
        seconds = self.sending.relay.call_time + SENDING_GRACE
        # Set before: where the answer to the commit is lost, it may have been one.
        self.begun = True
        async with self.scope.transaction() as tx:
            self.begun = bool(await tx.run("approval_begin", id=self.row["id"], seconds=seconds))
        return self.begun

    async def _reply(self, asked: AsSent, credential: Credential, provider: Provider) -> KeptReply:
        """
        Send it, and read what comes back, as far as it does: who has the head of a reply knows what became of the request. It
        ends as any call does once its agent may no longer make it; not with its run, which it may outlive.
        """
        relay, request = self.sending.relay, asked.request()
        destination, seconds = credential.destination, relay.call_time
        came: StreamedReply | None = None
        content, is_whole = bytearray(), False
        principal = self.caller.principal
        agent = Caller(replace(principal, kind=Kind.AGENT, run_id=None, fence=None), self.scope)
        # It was looked up a while ago: whatever was checked since, this is checked now.
        which = (agent, self.row["integration_id"], self.row["version"], Mark(None, now()))
        try:
            async with relay.open_streams.held(*which) as hold, asyncio.timeout(seconds):
                self.is_out = True
                async with relay.outgoing.stream(
                    request, destination, credential.token, limit=relay.reply_limit, follows=nowhere, fresh=True
                ) as came:
                    costs = relay.spending.reading(
                        self.caller, self.row["integration_id"], provider, request, came.status, came.headers
                    )
                    try:
                        async for piece in came.body():
                            if hold.must_ask:
                                await hold.go_on()
                            content += piece
                            if costs is not None:
                                costs.feed(piece)
                        is_whole = True
                    finally:
                        if costs is not None:
                            await costs.ended()
        except TimeoutError:
            if came is None:
                raise Unavailable(f"{asked.host} did not answer within {seconds:g} seconds") from None
        except CompanyAgentsError:
            if came is None:
                raise
        assert came is not None
        return KeptReply.of(came.status, came.headers, bytes(content), is_cut=not is_whole, removed=came.removed)

    async def _end(self, was: str, state: str, reason: str = "", *, reply: KeptReply | None = None) -> None:
        """Write what became of it; for a while, also where the database is away."""
        clock = asyncio.get_running_loop()
        until, pause = clock.time() + PATIENCE, 0.2
        while True:
            try:
                await self._write(was, state, reason[:1000], reply)
                return
            except (Unavailable, Busy):
                if clock.time() + pause > until:
                    raise
            await asyncio.sleep(pause)
            pause *= 2

    async def _write(self, was: str, state: str, reason: str, reply: KeptReply | None) -> None:
        approvals, row = self.sending.approvals, self.row
        try:
            async with self.scope.transaction() as tx:
                secret = None
                if reply is not None:
                    secret = await approvals.store.put(tx, f"approval/{row['id']}/reply", reply.sealed_form())
                status = reply.status if reply else None
                given = {"was": was, "state": state, "reason": reason, "reply": secret, "reply_status": status}
                if not await tx.run("approval_end", id=row["id"], **given):
                    # Deleted with its integration, or given up by who thought that this had died.
                    raise _TooLate
                facts = {"status": status, "reason": reason or None}
                await approvals.record(self.scope, f"approval.{state}", self.caller.label, row, **facts)
        except _TooLate:
            log.warning("the outcome of an approved request came too late", approval=str(row["id"]), outcome=state)

    async def _judge(self, provider: Provider, reply: KeptReply) -> None:
        """What the reply says of the credential."""
        problem = refusal(provider, OutgoingReply(reply.status, reply.headers, reply.content), strict=False)
        found = {**self.row, "id": self.row["integration_id"]}
        await self.sending.relay.judge(self.caller, provider, found, reply.status, problem, "use")


class _TooLate(Exception):
    """Somebody else has written what became of it."""


def _in_whose_name(scope: CompanyScope, row: dict[str, Any]) -> Caller:
    """The run that asked, while it is under way; else its agent."""
    run = {"run_id": row["run_id"], "fence": row["fence"]} if row["is_running"] else {}
    kind = Kind.RUN if run else Kind.AGENT
    return Caller(Principal(kind, row["agent_name"], Via.TOKEN, row["agent_id"], scope.company_id, **run), scope)


def _check(row: dict[str, Any]) -> None:
    """
    Whether who asked may still have it sent, with the credential that was shown.

    Raises:
        Refused: no.
    """
    if row["is_late"]:
        raise Refused("it could not be sent in time after it was approved")
    if row["agent_state"] != "active":
        raise Refused(f"the agent is {row['agent_state']}")
    if not row["is_allowed"]:
        raise Refused("the agent may no longer use this integration")
    if row["is_cut"]:
        raise Refused("the run was cut off from the credential that it began with")
    pinned = row["is_running"] and row["pinned_version"] is not None
    if row["pinned_version"] != row["version"] if pinned else row["version_state"] != "current":
        raise _rotated()


def _rotated() -> Refused:
    return Refused("the credential was rotated since: ask again")
