"""
Schedules: a run of an agent is started whenever a cron expression says so, in a time zone.

Each moment is one change of one row, with the run that it starts, in one transaction: however many orchestrators look, there
is one run. What was missed while none was there is one run, and not one for each moment.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import structlog
from cronsim import CronSim, CronSimError

from company_agents.companies.scope import CompanyScope
from company_agents.db.database import Row, Tx
from company_agents.errors import Busy, CompanyAgentsError, NotFound, TooMany, Unavailable, WrongUsage
from company_agents.identity.directory import good_name
from company_agents.identity.paging import Page, cursor_params, page
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.runs.model import MOST_PROMPT, check_text
from company_agents.runs.moves import NOBODY, Moves
from company_agents.runs.starting import Asked, Starts, startable

MOST_SCHEDULES = 1000
# After what time one that could not be looked at is looked at again; by any orchestrator, maybe one that can.
PUT_OFF = timedelta(minutes=15)

log = structlog.stdlib.get_logger("company_agents.runs")


@dataclass(frozen=True, slots=True)
class Schedule:
    """
    When a run of an agent is started, and with what prompt. `next_at` is when it comes true next (None: it is paused);
    `last_at` when it last did, and `skipped` why it started no run then.
    """

    id: UUID
    company_id: UUID
    agent_id: UUID
    name: str
    cron: str
    timezone: str
    prompt: str
    enabled: bool
    next_at: datetime | None
    last_at: datetime | None
    skipped: str
    created_by: str
    created_at: datetime
    updated_at: datetime


def moments(cron: str, timezone: str, after: datetime) -> Iterator[datetime]:
    """
    When a cron expression comes true after a moment, in a time zone. Where a clock is put forward, what falls into the gap
    comes true right after it; where it is put back, what falls into the hour that is there twice comes true once, but for
    expressions of every so many minutes or every hour, which go on.

    Raises:
        WrongUsage: it is no expression of five fields, or no time zone.
    """
    if len(cron.split()) != 5:
        raise WrongUsage(
            "a cron expression has five fields", hint="minute hour day month weekday, as `0 9 * * MON-FRI`"
        )
    try:
        zone = zoneinfo.ZoneInfo(timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise WrongUsage("there is no such time zone", hint="one looks like Europe/Berlin, or UTC") from None
    try:
        found = CronSim(cron, after.astimezone(UTC if timezone == "UTC" else zone))
    except CronSimError as error:
        raise WrongUsage(f"this is no cron expression: {error}".lower(), hint="as `0 9 * * MON-FRI`") from None
    # In the hour that is there twice it may name the moment of the first time, which is over.
    return (moment.astimezone(UTC) for moment in found if moment > after)


def next_moment(cron: str, timezone: str, after: datetime) -> datetime | None:
    """The first of them; None: it comes true no more within fifty years."""
    return next(moments(cron, timezone, after), None)


@dataclass(frozen=True)
class Schedules:
    """The schedules of a caller's company."""

    moves: Moves
    starts: Starts

    async def create(
        self, caller: Caller, agent_id: UUID, name: str, cron: str, prompt: str, timezone: str = "UTC"
    ) -> Schedule:
        """
        Raises:
            WrongUsage: the expression, the time zone or the prompt will not do, or it never comes true.
            NotFound: no such agent.
            Conflict: there is one of this name, or the agent has no adapter, or is retired.
            TooMany: the company has as many as one may have.
        """
        caller.require(Permission.SCHEDULE_MANAGE)
        name = good_name(name, "a schedule")
        if not prompt.strip():
            raise WrongUsage("a schedule needs a prompt", hint="say what the agent is to do each time")
        check_text(prompt, "a prompt", MOST_PROMPT)
        cron, schedule_id = " ".join(cron.split()).upper(), uuid4()
        check_text(cron, "a cron expression", 200)
        async with caller.scope.transaction() as tx:
            await startable(tx, agent_id)
            row = await tx.one("schedule_count")
            if row is not None and row["count"] >= MOST_SCHEDULES:
                raise TooMany(f"a company has at most {MOST_SCHEDULES} schedules", retry_after=3600)
            at = await _next(tx, cron, timezone)
            given = {"id": schedule_id, "company_id": tx.company_id, "agent_id": agent_id, "created_by": caller.label}
            text = {"name": name, "cron": cron, "timezone": timezone, "prompt": prompt}
            await tx.run("schedule_insert", next_at=at, **given, **text)
            await self._record(tx, "schedule.created", caller.label, schedule_id, agent=agent_id, name=name, cron=cron)
            return await _schedule(tx, schedule_id)

    async def list(self, caller: Caller, after: str | None = None, limit: int = 50) -> Page[Schedule]:
        """The schedules of the company, oldest first."""
        caller.require(Permission.SCHEDULE_READ)
        params = cursor_params(after, limit)
        async with caller.scope.transaction() as tx:
            return page([Schedule(**row) for row in await tx.all("schedule_list", **params)], limit)

    async def get(self, caller: Caller, schedule_id: UUID) -> Schedule:
        """
        Raises:
            NotFound: no such schedule in this company.
        """
        caller.require(Permission.SCHEDULE_READ)
        async with caller.scope.transaction() as tx:
            return await _schedule(tx, schedule_id)

    async def pause(self, caller: Caller, schedule_id: UUID) -> Schedule:
        """Start nothing until it is resumed."""
        return await self._switch(caller, schedule_id, on=False)

    async def resume(self, caller: Caller, schedule_id: UUID) -> Schedule:
        """Start runs again, from the next moment on."""
        return await self._switch(caller, schedule_id, on=True)

    async def delete(self, caller: Caller, schedule_id: UUID) -> None:
        """
        Its runs stay.

        Raises:
            NotFound: no such schedule in this company.
        """
        caller.require(Permission.SCHEDULE_MANAGE)
        async with caller.scope.transaction() as tx:
            schedule = await _schedule(tx, schedule_id)
            await tx.run("schedule_delete", id=schedule_id)
            await self._record(tx, "schedule.deleted", caller.label, schedule_id, name=schedule.name)

    async def start_due(self, scope: CompanyScope) -> None:
        """
        Start a run for each that has come true; once, however many look. One that cannot be looked at here, as where its time
        zone is not known to this machine, is put off, and the others are started.
        """
        async with scope.transaction() as tx:
            due = await tx.all("schedules_due")
        for row in due:
            try:
                async with scope.transaction() as tx:
                    held = await tx.one("schedule_hold_due", id=row["id"])
                    if held is not None:
                        await self._came_true(tx, held)
            except (Unavailable, Busy):
                raise
            except Exception as error:
                await self._put_off(scope, row["id"], error)

    async def _put_off(self, scope: CompanyScope, schedule_id: UUID, error: Exception) -> None:
        # What a foreign exception says of itself may hold anything.
        why = error.sentence if isinstance(error, CompanyAgentsError) else f"it failed ({type(error).__name__})"
        log.warning("a schedule could not be looked at", error=type(error).__name__, exc_info=error)
        async with scope.transaction() as tx:
            row = await tx.one("schedule_hold_due", id=schedule_id)
            if row is not None:
                await self._move(tx, row, row["now"] + PUT_OFF, why)

    async def _came_true(self, tx: Tx, row: Row) -> None:
        # First: where it cannot be said, nothing is queued either.
        at = next_moment(row["cron"], row["timezone"], row["now"])
        why = _why_not(row)
        if not why:
            asked = Asked(row["prompt"], schedule=row["id"])
            agent = {"id": row["agent_id"], "adapter": row["adapter"]}
            try:
                await self.starts.queue(tx, f"schedule:{row['id']}", agent, asked, row["name"])
            except TooMany as error:
                why = error.sentence
        await self._move(tx, row, at, why)

    async def _move(self, tx: Tx, row: Row, at: datetime | None, why: str) -> None:
        await tx.run("schedule_move", id=row["id"], next_at=at, skipped=why)
        if why:
            await self._record(tx, "schedule.skipped", NOBODY, row["id"], agent=row["agent_id"], reason=why)

    async def _switch(self, caller: Caller, schedule_id: UUID, *, on: bool) -> Schedule:
        caller.require(Permission.SCHEDULE_MANAGE)
        async with caller.scope.transaction() as tx:
            await tx.run("schedule_hold", id=schedule_id)
            schedule = await _schedule(tx, schedule_id)
            if schedule.enabled == on:
                return schedule
            if on:
                await startable(tx, schedule.agent_id)
            at = await _next(tx, schedule.cron, schedule.timezone) if on else None
            await tx.run("schedule_switch", id=schedule_id, enabled=on, next_at=at)
            await self._record(tx, f"schedule.{'resumed' if on else 'paused'}", caller.label, schedule_id)
            return await _schedule(tx, schedule_id)

    async def _record(self, tx: Tx, action: str, actor: str | None, schedule_id: UUID, **facts: object) -> None:
        await self.moves.audit.append(tx.company_id, action, actor=actor, schedule=schedule_id, **facts)


def _why_not(row: Row) -> str:
    if row["missed"]:
        return "its moment had passed when the instance was restored"
    if row["agent_state"] != "active":
        return f"its agent is {row['agent_state']}"
    if row["adapter"] is None:
        return "its agent has no adapter"
    return "its run of before still waits" if row["waits"] else ""


async def _next(tx: Tx, cron: str, timezone: str) -> datetime:
    now = await tx.one("schedule_now")
    assert now is not None
    at = next_moment(cron, timezone, now["now"])
    if at is None:
        raise WrongUsage("this expression never comes true", hint="there is no such day")
    return at


async def _schedule(tx: Tx, schedule_id: UUID) -> Schedule:
    row = await tx.one("schedule_get", id=schedule_id)
    if row is None:
        raise NotFound("this schedule does not exist", hint="`company-agents schedule list --company ID` shows them")
    return Schedule(**row)
