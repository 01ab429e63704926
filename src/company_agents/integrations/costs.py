"""
What was spent, for people: entries, sums by day, a month beside its budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

from company_agents.errors import NotFound, WrongUsage
from company_agents.identity.limits import Limit, Limits
from company_agents.identity.paging import Page, cursor_params, page
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller

# Days that sums are shown of, and rows: an agent has one for each model and day.
MOST_DAYS, MOST_ROWS = 366, 5000


@dataclass(frozen=True, slots=True)
class Entry:
    """
    What one call used. `micros`: millionths of a US dollar, None where its price is not known. `estimated`: the provider did
    not say how many tokens. `late`: somebody else had taken the run on by then, so that its counters do not have it.
    """

    id: UUID
    agent_id: UUID
    run_id: UUID | None
    integration_id: UUID
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    micros: int | None
    estimated: bool
    late: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Sum:
    """Some calls together. `micros` is what is known of their cost; `unpriced` of them are not in it."""

    calls: int = 0
    tokens: int = 0
    micros: int = 0
    unpriced: int = 0
    estimated: int = 0


@dataclass(frozen=True, slots=True)
class ModelSum(Sum):
    """The calls to one model."""

    provider: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaySum(ModelSum):
    """An agent's calls to one model on one day, in UTC."""

    day: date
    agent_id: UUID
    agent: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The newest days first, and all of them together. `is_cut`: there are more rows, which are in neither."""

    days: list[DaySum]
    total: Sum
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Month:
    """What an agent, or a company, has spent since the month began, in UTC, and its limits."""

    month: date
    begins_anew: date
    calls: int
    tokens: int
    micros: int
    unpriced: int
    limit: Limit


class Costs:
    """The costs of a caller's company, to be read."""

    async def entries(
        self,
        caller: Caller,
        *,
        agent: UUID | None = None,
        run: UUID | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Entry]:
        """What calls used, oldest first."""
        caller.require(Permission.COSTS_READ)
        params = cursor_params(after, limit)
        async with caller.scope.transaction() as tx:
            rows = await tx.all("cost_list", agent_id=agent, run_id=run, **params)
        return page([Entry(**row) for row in rows], limit)

    async def summary(self, caller: Caller, *, agent: UUID | None = None, days: int = 30) -> Summary:
        """
        Sums by day, agent and model, of the last days with today.

        Raises:
            WrongUsage: too many days.
        """
        caller.require(Permission.COSTS_READ)
        if not 1 <= days <= MOST_DAYS:
            raise WrongUsage(f"days is {days}; it may be 1 to {MOST_DAYS}")
        async with caller.scope.transaction() as tx:
            rows = await tx.all("spending_by_day", agent_id=agent, days=days, limit=MOST_ROWS + 1)
        found = [DaySum(**row) for row in rows[:MOST_ROWS]]
        return Summary(found, _total(found), is_cut=len(rows) > MOST_ROWS)

    async def of_agent(self, caller: Caller, agent_id: UUID, days: int = 30) -> Summary:
        """The same of one agent."""
        return await self.summary(caller, agent=agent_id, days=days)

    async def of_run(self, caller: Caller, run_id: UUID) -> list[ModelSum]:
        """What a run's calls used, by model; also those that its own counters do not have."""
        caller.require(Permission.COSTS_READ)
        async with caller.scope.transaction() as tx:
            return [ModelSum(**row) for row in await tx.all("cost_of_run", run_id=run_id)]

    async def month(self, caller: Caller, agent_id: UUID | None = None) -> Month:
        """
        This month of an agent, or (None) of the company.

        Raises:
            NotFound: no such agent in this company.
        """
        caller.require(Permission.COSTS_READ)
        async with caller.scope.transaction() as tx:
            if agent_id is not None and await tx.one("agent_get", id=agent_id) is None:
                raise NotFound("this agent does not exist", hint="`company-agents agent list --company ID` shows them")
            row = await tx.one("spending_of_month", agent_id=agent_id)
            assert row is not None
            limit = await Limits.read(tx, agent_id)
        return Month(**row, limit=limit)


def _total(sums: list[DaySum]) -> Sum:
    names = ("calls", "tokens", "micros", "unpriced", "estimated")
    return Sum(**{name: sum(getattr(one, name) for one in sums) for name in names})
