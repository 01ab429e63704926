"""
A refresh: one at a time for a version across replicas, its intent committed before the call and its result after.

A lost reply is *uncertain*. Where a refresh token can be used again, it is; where it is single use, once more and only
within the time in which the provider takes it a second time. After that a person is asked: nobody but the provider knows
what became of it. No transaction of the database is open while a provider is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.companies.scope import CompanyScope
from company_agents.ending import ended
from company_agents.errors import Busy, CompanyAgentsError, Refused, Sealed, Unavailable
from company_agents.integrations.attempts import Attempt, Attempts, State
from company_agents.integrations.clients import Clients, with_oauth
from company_agents.integrations.credential import Credential
from company_agents.integrations.endings import renewable
from company_agents.integrations.oauth.calls import OAuthCalls
from company_agents.integrations.oauth.model import Client, Consent, Gone, Granted, NotNow, Rejected, Uncertain
from company_agents.integrations.provider import Provider, Providers
from company_agents.integrations.refresh_call import Call, following, lost_reply, planned
from company_agents.integrations.status import NEEDS_ATTENTION, REFRESHING
from company_agents.secret_store import store as secrets

ASK_AGAIN = "ask for a new consent: rotate it on its page, or `company-agents integration rotate`"
CONFIGURE = "look at the client: `company-agents provider configure`, or its page"
# Nobody is kept from a refresh for longer, whatever Retry-After says (seconds).
LONGEST_RETRY = 86400.0
# How often whoever waits for another's attempt looks (seconds).
LOOK = 0.1

log = logging.getLogger(__name__)


class _NotAskedError(Exception):
    """nothing was sent"""


class _NothingError(_NotAskedError):
    """there is nothing to renew it with"""


class _SpentError(_NotAskedError):
    """its refresh token may be used up"""


@dataclass
class Refresher:
    """
    Refreshes of this process. Seconds: `soon`, before its end a token is renewed on use; `patience`, a use waits for that;
    `age`, a token that is refused is renewed only if it is older; `pause`, before a second try; `first_wait` and
    `longest_wait`, after failures; `keep`, a result is tried to be written.
    """

    attempts: Attempts
    audit: AuditLog
    providers: Providers
    clients: Clients
    calls: OAuthCalls
    soon: float = 30
    patience: float = 20
    age: float = 60
    pause: float = 1
    first_wait: float = 10
    longest_wait: float = 900
    keep: float = 300
    _running: set[asyncio.Task[bool]] = field(default_factory=set)

    async def fresh(self, scope: CompanyScope, integration_id: UUID, version: int, *, actor: str | None = None) -> None:
        """
        Renew the token of a version that ends soon, before it is used; or wait for the replica that does. One that has not
        ended yet is used also where that did not succeed.

        Raises:
            Refused: it has ended, and somebody has to do something about it.
            Unavailable: it has ended, and there is no new one at this moment.
        """
        state = await self._renewed(scope, integration_id, version, actor, soon=self.soon)
        if state is None or not state.dead:
            return
        hint = state.hint or "`company-agents integration show` says how it stands"
        if state.problem in ("", "not now"):
            raise Unavailable("the token of this integration has ended, and there is no new one yet", hint=hint)
        self.audit.refusal(
            scope.company_id, "integration.refused", actor=actor, integration=integration_id, reason="needs attention"
        )
        raise Refused("the token of this integration has ended, and cannot be renewed", hint=hint)

    async def replaced(
        self, scope: CompanyScope, integration_id: UUID, version: int, base: int, *, actor: str | None = None
    ) -> State | None:
        """
        A provider has refused the token that the attempt `base` brought: renew it, unless somebody has done that already.
        One that is quite new is not renewed: a provider that refuses it means something else. Returns how it stands then.
        """
        return await self._renewed(scope, integration_id, version, actor, base=base, age=self.age)

    def start(self, scope: CompanyScope, attempt: Attempt, actor: str | None = None) -> asyncio.Task[bool]:
        """
        Go on with an attempt that was begun, to its end. It has a task of its own, since whoever wants it may go away,
        and its result must not.
        """
        task = asyncio.create_task(self._run(scope, attempt, actor), name="refresh")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def close(self) -> None:
        """Wait for what is under way; what then still is, is ended, and found to be uncertain."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=self.attempts.lease)
            await ended(*late)

    async def _renewed(
        self, scope: CompanyScope, integration_id: UUID, version: int, actor: str | None, **when: Any
    ) -> State | None:
        until = time.monotonic() + self.patience
        attempt = await self.attempts.begin(scope, integration_id, version, **when)
        if attempt is not None:
            await asyncio.wait({self.start(scope, attempt, actor)}, timeout=self.patience)
        while True:
            state = await self.attempts.state(scope, integration_id, version, self.soon)
            if state is None or not state.under_way or time.monotonic() >= until:
                return state
            await asyncio.sleep(LOOK)

    async def _run(self, scope: CompanyScope, attempt: Attempt, actor: str | None) -> bool:
        renewed = await self._once(scope, attempt, actor)
        if renewed is not None:
            return renewed
        await asyncio.sleep(self.pause)
        again = await self.attempts.begin(scope, attempt.integration_id, attempt.version)
        return bool(again and await self._once(scope, again, actor))

    async def _once(self, scope: CompanyScope, attempt: Attempt, actor: str | None) -> bool | None:
        """Whether an attempt brought a new token; None: its reply was lost, and it may be tried once more at once."""
        call = Call()
        try:
            credential = await self._asked(scope, attempt, actor, call)
        except _SpentError:
            return await self._gave_up(
                scope, attempt, actor, "uncertain", Uncertain(lost_reply(call.title), hint=ASK_AGAIN)
            )
        except _NotAskedError as error:
            await self._let_go(scope, attempt, again=not isinstance(error, _NothingError))
            return False
        except secrets.Gone:
            # Retired meanwhile; then the row takes nothing.
            await self._let_go(scope, attempt)
            return False
        except Gone as error:
            # The second use of a refresh token whose first may have been answered: that is what it says, no more.
            spent = attempt.lost > 0 and call.single_use
            if spent:
                lost = Uncertain(lost_reply(call.title, error), hint=ASK_AGAIN)
                return await self._gave_up(scope, attempt, actor, "uncertain", lost)
            return await self._gave_up(scope, attempt, actor, "gone", error)
        except Uncertain as error:
            return await self._uncertain(scope, attempt, actor, call, error)
        except NotNow as error:
            return await self._later(scope, attempt, actor, error, error.retry_after)
        except (Unavailable, Busy):
            # Our own: the log, the database, the keys. Nothing was sent.
            await self._let_go(scope, attempt)
            return False
        except CompanyAgentsError as error:
            return await self._rejected(scope, attempt, actor, error)
        except Exception as error:
            log.error("a refresh failed: %s", type(error).__name__)
            if not call.sent:
                await self._let_go(scope, attempt)
                return False
            broken = Uncertain("something went wrong here while the provider was asked")
            return await self._uncertain(scope, attempt, actor, call, broken)
        return await self._keep(scope, attempt, actor, call, credential)

    async def _asked(self, scope: CompanyScope, attempt: Attempt, actor: str | None, call: Call) -> Credential:
        """Ask the provider. All that is raised before `call.sent` is of this side."""
        facts = {"actor": actor, "integration": attempt.integration_id, "version": attempt.version}
        if attempt.dead:
            await self.attempts.statuses.seen(
                scope,
                attempt.integration_id,
                attempt.version,
                REFRESHING,
                "its token has ended, and a new one is being asked for",
                seen_by="refresh",
            )
        await self.audit.append(scope.company_id, "credential.refresh_begun", attempt=attempt.number, **facts)
        async with self.attempts.store.use(scope, attempt.secret_id, purpose="refresh", **facts) as use:
            credential = Credential.opened(use.secret)
            consent = credential.consent
            if consent is None or not renewable(consent):
                raise _NothingError
            call.meant(self._provider(attempt, consent), consent)
            if attempt.lost and call.single_use and not self._in_window(attempt, call):
                raise _SpentError
            call.client = client = await self._client(scope, call.provider, consent, actor)
            # What is sent now has its reply, or none, before anybody else may think that this one is over.
            if attempt.age >= self.attempts.lease / 2:
                raise _NotAskedError
            call.at, call.sent = attempt.now(), True
            granted = await self._granted(call.provider, client, consent)
            use.ended("renewed")
        return replace(credential, token=granted.access, consent=following(consent, granted, call.at))

    def _provider(self, attempt: Attempt, consent: Consent) -> Provider:
        return with_oauth(self.providers.get(attempt.provider), consent.endpoints.issuer or "")[0]

    async def _client(self, scope: CompanyScope, provider: Provider, consent: Consent, actor: str | None) -> Client:
        issuer = consent.endpoints.issuer or ""
        client = await self.clients.get(scope, provider.name, issuer, actor=actor, purpose="refresh")
        if client.id != consent.client_id or client.endpoints.token != consent.endpoints.token:
            # The refresh token belongs to the one, and the secret to the other; each goes nowhere else.
            raise Rejected(
                f"this company's client at {provider.title} is another one now than when it was consented to",
                hint=ASK_AGAIN,
            )
        return client

    async def _granted(self, provider: Provider, client: Client, consent: Consent) -> Granted:
        try:
            async with asyncio.timeout(self.attempts.lease / 2):
                if consent.flow == "client":
                    return await self.calls.client_credentials(provider, client, consent.scopes)
                if consent.flow == "github_app":
                    return await self.calls.installation(provider, client, consent.installation or "")
                assert consent.refresh is not None
                return await self.calls.refresh(provider, client, consent.refresh)
        except TimeoutError:
            pass
        raise Uncertain(f"{provider.title} did not answer in time")

    async def _keep(
        self, scope: CompanyScope, attempt: Attempt, actor: str | None, call: Call, credential: Credential
    ) -> bool:
        assert call.at is not None
        to_come = planned(call.provider, credential.consent, began=attempt.created_at, now=call.at)
        try:
            kept = await self._insist(
                lambda: self.attempts.written(scope, attempt, credential, due=to_come.due, end=to_come.end)
            )
            gone = not kept and await self.attempts.state(scope, attempt.integration_id, attempt.version, 0) is None
        except CompanyAgentsError as error:
            log.error("the result of a refresh could not be kept: %s", error.sentence)
            return False
        facts = {} if kept else {"error": "superseded"}
        self._note(scope, attempt, actor, "integration.refreshed" if kept else "integration.refresh_failed", **facts)
        if gone:
            await self._revoke(scope, attempt, actor, call, credential)
        return kept

    async def _revoke(
        self, scope: CompanyScope, attempt: Attempt, actor: str | None, call: Call, credential: Credential
    ) -> None:
        """Revoke what was given for a version that has gone meanwhile: nobody has it but this process, and this once."""
        consent, client, rules = credential.consent, call.client, call.provider.oauth
        done = False
        # Not where that ends consents that live on, and not at another endpoint than was consented to.
        if consent and client and rules and not (rules.revocation_ends_all or rules.one_consent):
            url = consent.endpoints.revocation
            if url is not None and url == client.endpoints.revocation:
                with contextlib.suppress(CompanyAgentsError):
                    if consent.refresh is not None and "{client_id}" not in url:
                        await self.calls.revoke(call.provider, client, consent.refresh, "refresh_token")
                    done = await self.calls.revoke(call.provider, client, credential.token, "access_token")
        self._note(scope, attempt, actor, "credential.revoked" if done else "credential.not_revoked")

    async def _uncertain(
        self, scope: CompanyScope, attempt: Attempt, actor: str | None, call: Call, error: Uncertain
    ) -> bool | None:
        first = attempt.lost == 0
        if first and (not call.single_use or self._in_window(attempt, call)):
            self._note(scope, attempt, actor, "integration.refresh_failed", error=error.reason, reason=error.sentence)
            return None if await self._insist(lambda: self.attempts.lost(scope, attempt)) else False
        if not call.single_use:
            # What was lost can be had again. It is tried as often as with a provider that is busy.
            return await self._later(scope, attempt, actor, error, None)
        said = Uncertain(lost_reply(call.title, error), hint=ASK_AGAIN)
        return await self._gave_up(scope, attempt, actor, "uncertain", said, lost=True)

    async def _gave_up(
        self,
        scope: CompanyScope,
        attempt: Attempt,
        actor: str | None,
        problem: str,
        error: CompanyAgentsError,
        *,
        lost: bool = False,
    ) -> bool:
        shown = {"status": NEEDS_ATTENTION, "reason": error.sentence, "hint": error.hint or ASK_AGAIN}
        return await self._fail(scope, attempt, actor, error, problem=problem, retry=None, lost=lost, **shown)

    async def _later(
        self, scope: CompanyScope, attempt: Attempt, actor: str | None, error: CompanyAgentsError, after: float | None
    ) -> bool:
        retry = max(self._wait(attempt), min(after or 0, LONGEST_RETRY))
        reason = f"its token has ended, and there is no new one yet: {error.sentence}"
        hint = "it is tried again by itself; if it stays so, look whether the provider has a disturbance"
        shown = {"status_where_dead": NEEDS_ATTENTION, "reason": reason, "hint": hint}
        return await self._fail(scope, attempt, actor, error, problem="not now", retry=retry, **shown)

    async def _rejected(
        self, scope: CompanyScope, attempt: Attempt, actor: str | None, error: CompanyAgentsError
    ) -> bool:
        # Tried again all the same: whoever mends the client need not know of every integration that waits for it.
        shown = {"status": NEEDS_ATTENTION, "reason": error.sentence, "hint": error.hint or CONFIGURE}
        return await self._fail(scope, attempt, actor, error, problem="rejected", retry=self._wait(attempt), **shown)

    async def _fail(
        self, scope: CompanyScope, attempt: Attempt, actor: str | None, error: CompanyAgentsError, **how: Any
    ) -> bool:
        self._note(scope, attempt, actor, "integration.refresh_failed", error=error.reason, reason=error.sentence)
        try:
            await self._insist(lambda: self.attempts.failed(scope, attempt, **how))
        except CompanyAgentsError as failure:
            log.error("the end of a refresh could not be written: %s", failure.sentence)
        return False

    async def _let_go(self, scope: CompanyScope, attempt: Attempt, *, again: bool = True) -> None:
        try:
            await self.attempts.released(scope, attempt, again=again)
        except CompanyAgentsError as error:
            log.warning("a refresh that was not sent could not be written: %s", error.sentence)

    async def _insist(self, write: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
        """
        What the provider has answered is nowhere else: the database is asked until it takes it. Under a seal there is no
        key to seal it with, and it is lost.
        """
        until, pause = time.monotonic() + self.keep, LOOK
        while True:
            try:
                return await write()
            except Sealed:
                raise
            except (Unavailable, Busy):
                if time.monotonic() >= until:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)

    def _in_window(self, attempt: Attempt, call: Call) -> bool:
        """Whether the provider takes a refresh token once more that was used up by the first attempt whose end is lost."""
        return (attempt.lost_for or 0) + attempt.age + (0 if attempt.lost else self.pause) < call.reuse_window

    def _wait(self, attempt: Attempt) -> float:
        wait = min(self.first_wait * 2.0 ** min(attempt.failures, 16), self.longest_wait)
        return wait * random.uniform(0.8, 1.2)  # noqa: S311

    def _note(self, scope: CompanyScope, attempt: Attempt, actor: str | None, action: str, **facts: Any) -> None:
        self.audit.note(
            scope.company_id,
            action,
            actor=actor,
            integration=attempt.integration_id,
            version=attempt.version,
            attempt=attempt.number,
            **facts,
        )
