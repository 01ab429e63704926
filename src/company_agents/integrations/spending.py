"""
What calls cost, and whether there is a budget left for the next.

A paid call is compared with its budgets before it is sent, and entered when its reply has passed. Calls under way do not know
of one another: together they may go beyond a budget, by what they cost. docs/costs.md says how far.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any
from uuid import UUID, uuid4

import structlog

from company_agents.audit.log import AuditLog
from company_agents.companies.scope import CompanyScope
from company_agents.errors import CompanyAgentsError, Refused, Unavailable
from company_agents.identity.limits import Limit, Limits
from company_agents.identity.principal import Caller
from company_agents.integrations import usage as reading
from company_agents.integrations.costs import Costs
from company_agents.integrations.prices import Prices, dollars
from company_agents.integrations.provider import Provider
from company_agents.integrations.usage import Asked, Usage
from company_agents.integrations.usage_reader import Reader
from company_agents.outgoing.client import OutgoingRequest

# At this share of a month's budget it is said that it will be spent soon.
NEAR = 0.8
# Seconds after which an entry that could not be written is tried again; then it is given up. The call is over by then.
PAUSES = (0.2, 1.0, 5.0, 20.0)
# Seconds that a caller waits for the entry at the end of a reply, and a stop for those that are left.
PATIENCE, LAST_PATIENCE = 2.0, 10.0
# Seconds in which nothing of a body comes that is read before it is sent.
IDLE = 60.0

UNITS = ("micros", "tokens")

log = structlog.stdlib.get_logger("company_agents.costs")


@dataclass
class Tally:
    """What one call costs, as its reply passes."""

    spending: Spending
    caller: Caller
    integration_id: UUID
    provider: Provider
    request: OutgoingRequest
    reader: Reader
    _is_entered: bool = False

    def feed(self, piece: bytes) -> None:
        """The next piece of the reply."""
        self.reader.feed(piece)

    async def heard(self, message: str | bytes) -> Refused | None:
        """
        One message of a connection, of either kind. What it says of costs is entered at once, and budgets are looked at again:
        why nothing more may go out, where one is spent now, or what this cost is not known.
        """
        if ('"usage' if isinstance(message, str) else b'"usage') not in message:  # type: ignore[operator]
            return None
        try:
            usage = reading.said(json.loads(message))
        except (ValueError, RecursionError):
            return None
        if usage is None:
            return None
        if not usage.model:
            usage = replace(usage, model=reading.asked(self.request).model)
        await self.spending.entered(self.caller, self.integration_id, self.provider.name, usage)
        try:
            await self.spending.checked(self.caller, self.integration_id, self.provider, self.request)
        except Refused as spent:
            return spent
        return None

    async def ended(self) -> None:
        """
        The reply has ended, or broke off: it is entered, once. Raises nothing; where the database is away, it is tried again
        after this has returned.
        """
        if self._is_entered:
            return
        self._is_entered = True
        await self.spending.behind(self._enter())

    async def _enter(self) -> None:
        usage = await asyncio.to_thread(self.reader.usage) if self.reader.is_long else self.reader.usage()
        if usage is None:
            return
        asked = ""
        if not self.spending.prices.known(self.provider.name, usage.model, usage.tier):
            asked = reading.asked(self.request).model
            usage = replace(usage, model=usage.model or asked)
        await self.spending.enter(self.caller, self.integration_id, self.provider.name, usage, asked)


@dataclass(frozen=True)
class Spending(Costs):
    """
    The costs of a caller's company, as calls are made.

    Args:
        most_body: bytes of a request's body that is read before it is sent.
    """

    audit: AuditLog
    prices: Prices
    most_body: int
    _entering: set[asyncio.Task[None]] = field(default_factory=set, repr=False, compare=False)

    async def close(self) -> None:
        """Wait, for a while, for what is still to be entered."""
        if self._entering:
            await asyncio.wait(set(self._entering), timeout=LAST_PATIENCE)

    async def checked(
        self, caller: Caller, integration_id: UUID, provider: Provider, request: OutgoingRequest
    ) -> OutgoingRequest:
        """
        Whether a call may be made, as far as budgets go. Returns the request: what a model is asked is read whole, since the
        model's name stands in it.

        Raises:
            Refused: a budget is spent (`budget_spent`), or what this call costs would not be known and there is a budget
                (`cost_unknown`).
        """
        if provider.usage is None or not reading.is_paid(request):
            return request
        request = await self._read(request)
        ids = {"agent_id": caller.agent_id(), "run_id": caller.principal.run_id}
        async with caller.scope.transaction() as tx:
            row = await tx.one("spending_limits", **ids)
        assert row is not None
        budgets = _budgets(row)
        if not budgets:
            return request
        spent = next((budget for budget in budgets if budget.spent >= budget.limit), None)
        if spent is not None:
            self._note(caller, integration_id, f"{spent.whose}, {spent.unit}")
            raise _spent(spent, row["begins_anew"])
        in_money = [budget for budget in budgets if budget.unit == "micros"]
        unpriced = next((budget for budget in in_money if row[f"{budget.whose}_unpriced"]), None)
        unknown = self._unknown(provider, reading.asked(request), in_money=bool(in_money)) or _unpriced(unpriced)
        if unknown is not None:
            self._note(caller, integration_id, "cost unknown")
            raise unknown
        return request

    def reading(
        self,
        caller: Caller,
        integration_id: UUID,
        provider: Provider,
        request: OutgoingRequest,
        status: int,
        headers: Any,
    ) -> Tally | None:
        """What reads a reply for its cost; None where a call costs nothing that anybody could count."""
        if provider.usage is None or not reading.is_paid(request):
            return None
        return Tally(self, caller, integration_id, provider, request, Reader(request, status, headers))

    async def entered(self, caller: Caller, integration_id: UUID, provider: str, usage: Usage) -> None:
        """Enter what a call used. Raises nothing, and goes on where the caller is cancelled."""
        await self.behind(self.enter(caller, integration_id, provider, usage))

    async def behind(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this whatever becomes of the caller, who waits for it for a while."""
        task = asyncio.create_task(work)
        self._entering.add(task)
        task.add_done_callback(self._entering.discard)
        await asyncio.wait({task}, timeout=PATIENCE)

    async def enter(self, caller: Caller, integration_id: UUID, provider: str, usage: Usage, asked: str = "") -> None:
        """The same, however long it takes."""
        for pause in (*PAUSES, None):
            try:
                await self.record(caller, integration_id, provider, usage, asked)
                return
            except CompanyAgentsError as error:
                if pause is None or not isinstance(error, Unavailable):
                    log.error(
                        "the cost of a call could not be entered",
                        company=str(caller.scope.company_id),
                        tokens=usage.tokens,
                        error=type(error).__name__,
                    )
                    return
                await asyncio.sleep(pause)

    async def record(self, caller: Caller, integration_id: UUID, provider: str, usage: Usage, asked: str = "") -> None:
        """
        Enter what a call used: an entry, the sums of its day and month, the counters of its run. Somebody who was relieved of
        the run has spent all the same: the agent's and the company's sums have it, and the run's counters do not. `asked`: the
        model as it was asked for, whose price counts where the one that answered has none.
        """
        micros = self.prices.micros(provider, usage, asked=asked)
        agent_id, run_id = caller.agent_id(), caller.principal.run_id
        whose = {"company_id": caller.scope.company_id, "agent_id": agent_id}
        what = {"provider": provider, "model": usage.model or "unknown"}
        added = {"tokens": usage.tokens, "micros": micros or 0, "unpriced": int(micros is None)}
        counted = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cache_read_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        }
        async with caller.scope.transaction() as tx:
            late = run_id is not None and not await tx.run(
                "spending_of_run_add", run_id=run_id, fence=caller.principal.fence, **added
            )
            entry = {"id": uuid4(), "run_id": run_id, "integration_id": integration_id, "micros": micros, "late": late}
            await tx.run("cost_insert", **entry, **whose, **what, **counted, estimated=usage.estimated)
            await tx.run("spending_of_day_add", **whose, **what, **added, estimated=int(usage.estimated))
            limits = await Limits.of(tx, agent_id)
            for row in await tx.all("spending_of_month_add", **whose, **added):
                limit = limits.company if row["agent_id"] is None else limits.agent
                await self._say(tx, caller.scope, row, limit)

    async def changed(self, tx: Any, scope: CompanyScope, agent_id: UUID | None, limit: Limit) -> None:
        """A limit was changed, in this transaction: where what was spent is near it or beyond, that is said."""
        row = await tx.one("spending_of_month_hold", agent_id=agent_id)
        if row is not None:
            await self._say(tx, scope, row, limit)

    async def _say(self, tx: Any, scope: CompanyScope, row: dict[str, Any], limit: Limit) -> None:
        """Put on record that a month's budget is nearly spent, or spent: each once, and before it counts as said."""
        new = []
        for unit in UNITS:
            most = getattr(limit, f"month_{unit}")
            if most is None:
                continue
            stage = "spent" if row[unit] >= most else "near" if row[unit] >= NEAR * most else None
            word = f"{unit} {most} {stage}"
            if stage is None or word in row["said"]:
                continue
            new.append(word)
            await self.audit.append(
                scope.company_id,
                f"budget.{stage}",
                agent=row["agent_id"] or "all",
                month=row["month"].isoformat()[:7],
                unit=unit,
                limit=most,
                spent=row[unit],
            )
        if new:
            await tx.run("spending_said", agent_id=row["agent_id"], month=row["month"], said=new)

    async def _read(self, request: OutgoingRequest) -> OutgoingRequest:
        """A body that is streamed, read whole; but not one in parts, such as an upload, nor one that is too long."""
        given = reading.headers_of(request).items()
        kind = next((value for name, value in given if name.lower() == "content-type"), "")
        is_known = isinstance(request.body, bytes) or kind.lower().startswith("multipart/")
        if is_known or (request.length or 0) > self.most_body:
            return request
        assert not isinstance(request.body, bytes)
        body = await _gathered(request.body, self.most_body)
        return replace(request, body=body, length=None if isinstance(body, bytes) else request.length)

    def _unknown(self, provider: Provider, asked: Asked, *, in_money: bool) -> Refused | None:
        """Why nobody could say what a call costs; None where it can be said."""
        if asked.later:
            return _refused(
                "what this call costs is not known when it is answered, and there is a budget",
                "make it without background or batch, one call for each question",
            )
        if not in_money:
            return None
        if not asked.model:
            return _refused(
                f"which model of {provider.title} this call is for cannot be told, and there is a budget in money",
                "name the model in the body, as JSON, and send no more than one call may carry; what is charged otherwise "
                "cannot be kept within a budget",
            )
        if provider.usage == "cost" or self.prices.known(provider.name, asked.model, asked.tier):
            return None
        tier = f" at the tier {asked.tier}" if asked.tier else ""
        return _refused(
            f"no price is known for the model {asked.model} of {provider.title}{tier}, and there is a budget in money",
            "an operator can write its price into prices.toml in the home; docs/costs.md says how",
        )

    def _note(self, caller: Caller, integration_id: UUID, reason: str) -> None:
        facts = {"actor": caller.label, "integration": integration_id, "agent": caller.agent_id(), "reason": reason}
        self.audit.refusal(caller.scope.company_id, "budget.refused", **facts)


@dataclass(frozen=True, slots=True)
class _Budget:
    whose: str
    unit: str
    limit: int
    spent: int


def _budgets(row: dict[str, Any]) -> Sequence[_Budget]:
    """All budgets that there are, the nearest to the call first."""
    every = ((whose, unit, row[f"{whose}_{unit}_limit"]) for whose in ("run", "agent", "company") for unit in UNITS)
    return [_Budget(whose, unit, limit, row[f"{whose}_{unit}"]) for whose, unit, limit in every if limit is not None]


def _spent(budget: _Budget, begins_anew: date) -> Refused:
    spent, limit = amount(budget.unit, budget.spent), amount(budget.unit, budget.limit)
    if budget.whose == "run":
        return Refused(
            f"the budget of this run is spent: {spent} of {limit}",
            hint="end the run: another one has a budget of its own",
            code="budget_spent",
        )
    whose = "of this agent" if budget.whose == "agent" else "of this company"
    return Refused(
        f"the budget {whose} for this month is spent: {spent} of {limit}",
        hint=f"it begins anew on {begins_anew.isoformat()} at 00:00 UTC; an operator can raise it: `company-agents limits set`",
        code="budget_spent",
    )


def _unpriced(budget: _Budget | None) -> Refused | None:
    if budget is None:
        return None
    whose = "of this run" if budget.whose == "run" else f"of this {budget.whose} in this month"
    return _refused(
        f"what a call {whose} has cost is not known, and there is a budget in money",
        "end the run: another one has a budget of its own"
        if budget.whose == "run"
        else "an operator can write the price into prices.toml in the home, and then set the limit again: "
        "`company-agents limits set`; docs/costs.md says how",
    )


def _refused(sentence: str, hint: str) -> Refused:
    return Refused(sentence, hint=hint, code="cost_unknown")


def amount(unit: str, value: int) -> str:
    """An amount for people: `$12.50`, or `1,200 tokens`."""
    return dollars(value) if unit == "micros" else f"{value:,} tokens"


async def _gathered(body: AsyncIterable[bytes], most: int) -> bytes | AsyncIterator[bytes]:
    """A body that has come whole; one that turns out to be longer goes on as a stream."""
    rest, pieces, size = aiter(body), list[bytes](), 0
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(IDLE) as clock:
            async for piece in rest:
                clock.reschedule(loop.time() + IDLE)
                pieces.append(piece)
                size += len(piece)
                if size > most:
                    return _again(pieces, rest)
    except TimeoutError:
        raise Unavailable("the body of the request did not come", hint="send it again") from None
    return b"".join(pieces)


async def _again(pieces: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while pieces:
        yield pieces.pop(0)
    async for piece in rest:
        yield piece
