"""
Limits of an agent, and of its company: how many runs at once, how long and how dear each may be, how dear a month.

A change counts from the next start of a run, and from the next paid call. docs/costs.md says how budgets are kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.companies.scope import CompanyScope
from company_agents.db.database import Row, Tx
from company_agents.errors import NotFound, WrongUsage
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller

# Beyond these a number is a slip of the hand: a million dollars and ten million million tokens. The table has the others.
MOST_MICROS = 10**12
MOST_TOKENS = 10**13
_RANGES = {"runs_at_once": (1, 1000), "run_seconds": (10, 86_400)}


@dataclass(frozen=True, slots=True)
class Limit:
    """
    The limits of one agent, or of a company: of all its agents together, and of each run. None: there is none. Money is in
    millionths of a US dollar; a month is a calendar month in UTC.
    """

    runs_at_once: int | None = None
    run_seconds: int | None = None
    run_tokens: int | None = None
    run_micros: int | None = None
    month_tokens: int | None = None
    month_micros: int | None = None


NAMES = tuple(field.name for field in fields(Limit))


@dataclass(frozen=True, slots=True)
class InForce:
    """What counts for one agent: its own limits and those of its company. Of each run, the lower of both."""

    agent: Limit
    company: Limit

    @property
    def run_seconds(self) -> int | None:
        """Seconds that a run may take."""
        return lower(self.agent.run_seconds, self.company.run_seconds)

    @property
    def run_tokens(self) -> int | None:
        """Tokens that a run's calls may use."""
        return lower(self.agent.run_tokens, self.company.run_tokens)

    @property
    def run_micros(self) -> int | None:
        """Millionths of a US dollar that a run's calls may cost."""
        return lower(self.agent.run_micros, self.company.run_micros)


def lower(*limits: int | None) -> int | None:
    """The lowest of several limits, of which None is none."""
    return min((limit for limit in limits if limit is not None), default=None)


@dataclass(frozen=True)
class Limits:
    """
    The limits of a caller's company.

    Args:
        changed: told in the same transaction whose limits are others now, and which.
    """

    audit: AuditLog
    changed: Callable[[Any, CompanyScope, UUID | None, Limit], Awaitable[None]] | None = None

    @staticmethod
    async def of(tx: Tx, agent_id: UUID) -> InForce:
        """What counts for an agent, in the transaction of whoever asks."""
        rows = {row["agent_id"]: _limit(row) for row in await tx.all("limits_of", agent_id=agent_id)}
        return InForce(rows.get(agent_id, Limit()), rows.get(None, Limit()))

    @staticmethod
    async def read(tx: Tx, agent_id: UUID | None) -> Limit:
        """The limits of an agent, or (None) of the company, in the transaction of whoever asks."""
        row = await tx.one("limits_get", agent_id=agent_id)
        return _limit(row) if row is not None else Limit()

    async def get(self, caller: Caller, agent_id: UUID | None = None) -> Limit:
        """
        The limits of an agent, or (None) of the company.

        Raises:
            NotFound: no such agent in this company.
        """
        caller.require(Permission.LIMITS_READ)
        async with caller.scope.transaction() as tx:
            await _check_agent(tx, agent_id)
            return await self.read(tx, agent_id)

    async def set(self, caller: Caller, agent_id: UUID | None, changes: Mapping[str, int | None]) -> Limit:
        """
        Change some of the limits of an agent, or (None) of the company; None removes one. The others stay.

        Raises:
            NotFound: no such agent in this company.
            WrongUsage: no such limit, or a number that is none for it.
        """
        caller.require(Permission.LIMITS_MANAGE)
        for name, value in changes.items():
            _check(name, value)
        company_id = caller.scope.company_id
        async with caller.scope.transaction() as tx:
            await _check_agent(tx, agent_id)
            # Two who change them come one after the other: the record says what each found.
            await tx.run("limits_begin", company_id=company_id, agent_id=agent_id)
            row = await tx.one("limits_hold", agent_id=agent_id)
            assert row is not None
            before = _limit(row)
            after = Limit(**{**asdict(before), **changes})
            if after != before:
                await tx.run("limits_set", agent_id=agent_id, **asdict(after))
                facts = {"agent": agent_id or "all", "changes": _changes(before, after)}
                await self.audit.append(company_id, "limits.changed", actor=caller.label, **facts)
                if self.changed is not None:
                    await self.changed(tx, caller.scope, agent_id, after)
        return after


def _limit(row: Row) -> Limit:
    return Limit(**{name: row[name] for name in NAMES})


def _changes(before: Limit, after: Limit) -> list[str]:
    old, new = asdict(before), asdict(after)
    return [f"{name}: {_said(old[name])} to {_said(new[name])}" for name in NAMES if old[name] != new[name]]


def _said(value: int | None) -> str:
    return "none" if value is None else str(value)


def _check(name: str, value: int | None) -> None:
    if name not in NAMES:
        raise WrongUsage("there is no such limit", hint=f"there are {', '.join(NAMES)}")
    if value is None:
        return
    least, most = _RANGES.get(name, (1, MOST_MICROS if name.endswith("micros") else MOST_TOKENS))
    if not least <= value <= most:
        raise WrongUsage(f"{name} is {value}; it may be {least} to {most}", hint="none removes it")


async def _check_agent(tx: Tx, agent_id: UUID | None) -> None:
    if agent_id is not None and await tx.one("agent_get", id=agent_id) is None:
        raise NotFound("this agent does not exist", hint="`company-agents agent list --company ID` shows them")
