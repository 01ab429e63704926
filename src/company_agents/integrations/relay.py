"""
An agent's request to a provider, and the provider's reply to the agent: found, allowed, recorded, opened, sent, searched, as
both of them stream. Every door that lets an agent call a provider does it here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass, replace

from company_agents.audit.chain import path_template
from company_agents.audit.log import AuditLog
from company_agents.errors import Busy, CompanyAgentsError, Tampered, Unavailable
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.integrations import rules
from company_agents.integrations.approval_forms import kept_destination
from company_agents.integrations.asking import Asking
from company_agents.integrations.credential import Credential
from company_agents.integrations.finding import Finder, Found
from company_agents.integrations.integrations import Integrations
from company_agents.integrations.probe import refusal
from company_agents.integrations.provider import Provider
from company_agents.integrations.refresh import Refresher
from company_agents.integrations.relayed import Relayed
from company_agents.integrations.spending import Spending
from company_agents.integrations.status import BROKEN, CONNECTED, EXPIRING, NEEDS_ATTENTION
from company_agents.integrations.streams import Hold, Streams
from company_agents.integrations.turns import Turn, Turns
from company_agents.integrations.versions import secret_of
from company_agents.outgoing.client import Outgoing, OutgoingReply, OutgoingRequest
from company_agents.outgoing.destination import Destination
from company_agents.outgoing.redirects import Follows, anywhere
from company_agents.outgoing.reply import StreamedReply
from company_agents.secret_store.store import Gone, SecretStore, Use
from company_agents.sensitive import Sensitive, harmless

# How often an integration is looked up for one request, where its credential is rotated between that and its opening.
MOST_LOOKS = 5
# Seconds from then to the opening of its credential, after which it is looked up once more: whoever was held up for so long,
# as a process that was stopped, may have lost the run that it calls for.
HELD_UP = 1.0


@dataclass(frozen=True)
class Relay:
    """
    Calls in the name of a company, by its agents.

    Args:
        turns: calls that wait for the head of their reply.
        streams: replies that are read as they come.
        open_streams: those that are open, each for as long as its caller may have it.
        call_time: seconds for a whole call whose reply is not streamed.
        idle_time: seconds in which nothing of a streamed call has to move.
        reply_limit: bytes of a reply that is not streamed.
        stream_limit: bytes of one that is.
    """

    store: SecretStore
    audit: AuditLog
    outgoing: Outgoing
    integrations: Integrations
    refresher: Refresher
    spending: Spending
    asking: Asking
    turns: Turns
    streams: Turns
    open_streams: Streams
    call_time: float
    idle_time: float
    reply_limit: int
    stream_limit: int

    @functools.cached_property
    def finder(self) -> Finder:
        """Looks up what is called."""
        return Finder(self.store, self.audit, self.integrations.versions, self.open_streams)

    @contextlib.asynccontextmanager
    async def open(
        self, caller: Caller, integration: str, request: OutgoingRequest, *, wait: float = 0, whole: bool = False
    ) -> AsyncIterator[Relayed]:
        """
        Make one call with an integration's credential; the head of the reply is there, its body comes as it is read.

        Args:
            integration: its id or its name.
            wait: seconds that the caller waits for a person's approval, where one is needed.
            whole: the reply is read at once, within the time and size of a call that is not streamed.

        Raises:
            NotFound: no such integration, or not for this agent; both read alike.
            ApprovalNeeded: a person has to approve this first, and has not yet.
            Refused: no rule allows this (`not_allowed_here`), a person refused it (`approval_refused`), the run was cut off from its version (`credential_cut`), the call may not go there, or its reply may not come back.
            TooMany: the company has as many calls under way as it may, or the agent has made those of this minute.
            Unavailable: the provider, or our own record, cannot be reached.
            WrongUsage: method, path, query, headers or body will not do.
        """
        caller.require(Permission.INTEGRATION_USE)
        company = caller.scope.company_id
        async with contextlib.AsyncExitStack() as held:
            if not whole:
                await held.enter_async_context(self.streams.of(company))
            # Before it is looked up: whoever waits may no longer be allowed when the turn comes.
            async with self.turns.of(company) as turn:
                relayed = await self._relayed(caller, integration, request, wait, turn, held, whole=whole)
                if whole:
                    yield relayed
                    return
            yield relayed

    async def _relayed(
        self,
        caller: Caller,
        integration: str,
        request: OutgoingRequest,
        wait: float,
        turn: Turn,
        held: contextlib.AsyncExitStack,
        *,
        whole: bool,
    ) -> Relayed:
        for _ in range(MOST_LOOKS):
            found = await self.finder.find(caller, integration, request)
            provider = self.integrations.providers.get(found["provider"])
            request = await self.spending.checked(caller, found["id"], provider, _defaulted(request, provider))
            if found["is_asked"]:
                return await self._approved(caller, provider, found, request, wait, turn)
            request = replace(request, body=rules.watched(found, request.body))
            # Rotated or deleted since it was found, and nothing was sent: look again.
            with contextlib.suppress(Gone):
                return await held.enter_async_context(self._answered(caller, provider, found, request, whole=whole))
        raise Busy("the credential is being rotated all the time", hint="try again")

    async def _approved(
        self, caller: Caller, provider: Provider, found: Found, request: OutgoingRequest, wait: float, turn: Turn
    ) -> Relayed:
        """The reply to what a person has approved, which was sent then. While one is waited for, others have the turn."""
        async with turn.aside() if wait else contextlib.nullcontext():
            reply = await self.asking.passed(caller, found, request, wait=wait)
        return Relayed(found["id"], provider, kept_destination(found, provider), reply)

    @contextlib.asynccontextmanager
    async def _answered(
        self, caller: Caller, provider: Provider, found: Found, request: OutgoingRequest, *, whole: bool
    ) -> AsyncIterator[Relayed]:
        """
        The reply, and what it says of the credential. The token of a consent is renewed before it ends; where it is
        refused, it is renewed and the call made once more, whatever the method: who refuses a credential has done nothing
        yet. A body that is streamed has gone by then, so such a call is not made again.
        """
        seen_by, again = "use", (caller, str(found["id"]), request)
        if found["consent"] and found["is_ending"]:
            await self.refresher.fresh(caller.scope, found["id"], found["version"], actor=caller.label)
            # Whoever has waited may no longer be allowed.
            found = await self.finder.find(*again, again=True)
        async with contextlib.AsyncExitStack() as sent:
            relayed = await sent.enter_async_context(self._sent(caller, provider, found, request, whole=whole))
            problem = await _refusal(relayed)
            if problem and found["consent"] and isinstance(request.body, bytes):
                base = found["written_by"]
                state = await self.refresher.replaced(
                    caller.scope, found["id"], found["version"], base, actor=caller.label
                )
                if state is not None and state.written_by > base:
                    await sent.aclose()
                    found = await self.finder.find(*again, again=True)
                    relayed = await sent.enter_async_context(self._sent(caller, provider, found, request, whole=whole))
                    problem = await _refusal(relayed)
                elif state is not None and state.problem == "not now":
                    # A new token will change that.
                    seen_by = "refresh"
            await self.judge(caller, provider, found, relayed.status, problem, seen_by)
            yield relayed

    @contextlib.asynccontextmanager
    async def _sent(
        self, caller: Caller, provider: Provider, found: Found, request: OutgoingRequest, *, whole: bool
    ) -> AsyncIterator[Relayed]:
        facts = {
            "actor": caller.label,
            "integration": found["id"],
            "version": found["version"],
            "host": found["destination"],
            "method": harmless(request.method)[:20],
            "path": path_template(request.path),
            "decision": "allowed",
        }
        async with contextlib.AsyncExitStack() as opened:
            try:
                use = await opened.enter_async_context(self.store.use(caller.scope, secret_of(found), **facts))
                credential = _opened(use)
                if time.monotonic() - found["looked_at"] > HELD_UP:
                    await self.finder.find(caller, str(found["id"]), None, again=True)
            except Tampered:
                reason = "the stored credential was altered: connect it again"
                await self.integrations.statuses.seen(
                    caller.scope, found["id"], found["version"], NEEDS_ATTENTION, reason
                )
                raise
            follows = functools.partial(rules.may_follow, found)
            async with (
                self._held(caller, found, use) as hold,
                self.streamed(
                    *(watched(request, hold), credential.destination, credential.token), follows=follows, whole=whole
                ) as reply,
            ):
                costs = self.spending.reading(caller, found["id"], provider, request, reply.status, reply.headers)
                relayed = Relayed(found["id"], provider, credential.destination, reply, costs, hold)
                result = "failed"
                try:
                    yield relayed
                    result = "replied" if relayed.ended else "broken off"
                except CompanyAgentsError:
                    raise
                except BaseException:
                    result = "broken off"
                    raise
                finally:
                    use.ended(
                        "replied" if relayed.ended else result,
                        status=relayed.status,
                        bytes=relayed.size,
                        removed=reply.removed or None,
                        host=credential.destination.origin,
                    )
                    if costs is not None:
                        await costs.ended()

    @contextlib.asynccontextmanager
    async def _held(self, caller: Caller, found: Found, use: Use) -> AsyncIterator[Hold]:
        """For as long as the caller may have it; that it was cut off is on record."""
        hold: Hold | None = None
        try:
            which = (found["id"], found["version"], found["mark"], found["rules"])
            async with self.open_streams.held(caller, *which) as hold:
                yield hold
        finally:
            if hold is not None and hold.closed is not None:
                use.ended(**{**use.outcome, "result": "cut"})

    @contextlib.asynccontextmanager
    async def streamed(
        self,
        request: OutgoingRequest,
        destination: Destination,
        token: Sensitive | None,
        *,
        follows: Follows = anywhere,
        whole: bool = False,
    ) -> AsyncIterator[StreamedReply]:
        """The reply as the outgoing call has it, in time: all of it, or its head after the last that was sent."""
        seconds = self.call_time if whole else self.idle_time
        clock = asyncio.timeout(seconds)
        if not isinstance(request.body, bytes):
            request = replace(request, body=_prolonging(request.body, clock, seconds))
        try:
            async with (
                clock,
                self.outgoing.stream(
                    *(request, destination, token),
                    limit=self.reply_limit if whole else self.stream_limit,
                    follows=follows,
                ) as reply,
            ):
                if not whole:
                    clock.reschedule(None)
                yield reply
        except TimeoutError:
            if not clock.expired():
                raise
            raise Unavailable(
                f"{destination.host} did not answer within {seconds:g} seconds", hint="try again later"
            ) from None

    async def judge(
        self, caller: Caller, provider: Provider, found: Found, answered: int, problem: str | None, seen_by: str
    ) -> None:
        """Write what a reply says of the credential, where that is news."""
        status = NEEDS_ATTENTION if problem else CONNECTED
        if found["status"] == status or (problem is None and not 200 <= answered < 300):
            return
        if problem is None and (found["status"] == EXPIRING or found["refresh_problem"] in BROKEN):
            # It works, and will not for long; the status says that already.
            return
        reason = f"{provider.title} did not accept the credential: {problem}" if problem else ""
        try:
            await self.integrations.statuses.seen(
                caller.scope, found["id"], found["version"], status, reason, seen_by=seen_by
            )
        except CompanyAgentsError:
            # The reply is the caller's, whether or not the status could be written; the next use writes it.
            return


def _opened(use: Use) -> Credential:
    return Credential.opened(use.secret)


async def _refusal(relayed: Relayed) -> str | None:
    """What the reply says against the credential. Some providers say so in the body, with a status that says yes."""
    kind = relayed.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    is_read = kind == "application/json" or kind.endswith("+json") or relayed.status == 403
    says = relayed.provider.refused_codes and is_read
    if relayed.status != 401 and not says:
        return None
    reply = OutgoingReply(relayed.status, relayed.headers, await relayed.beginning())
    return refusal(relayed.provider, reply, strict=False)


def watched(request: OutgoingRequest, hold: Hold) -> OutgoingRequest:
    """A request of whose body no piece is sent once the stream has ended."""
    return request if isinstance(request.body, bytes) else replace(request, body=hold.watched(request.body))


async def _prolonging(body: AsyncIterable[bytes], clock: asyncio.Timeout, seconds: float) -> AsyncIterator[bytes]:
    """A body that is streamed: with each piece that moves, the time begins anew."""
    loop = asyncio.get_running_loop()
    async for piece in body:
        clock.reschedule(loop.time() + seconds)
        yield piece
    clock.reschedule(loop.time() + seconds)


def _defaulted(request: OutgoingRequest, provider: Provider) -> OutgoingRequest:
    given = list(request.headers.items() if hasattr(request.headers, "items") else request.headers)
    names = {name.lower() for name, _ in given}
    added = [(name, value) for name, value in provider.headers.items() if name.lower() not in names]
    return replace(request, headers=[*added, *given]) if added else request
