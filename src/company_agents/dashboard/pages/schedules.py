"""
Company → Schedules: runs that are started again and again, by a cron expression in a time zone.
"""

from __future__ import annotations

import itertools
import zoneinfo
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from starlette.responses import Response

from company_agents.dashboard.forms import Form
from company_agents.dashboard.named import Names, all_agents
from company_agents.dashboard.visit import Page, Visit, go
from company_agents.errors import CompanyAgentsError, WrongUsage
from company_agents.identity.permissions import Permission
from company_agents.runs.schedules import Schedule, moments

# Times that are shown before they come.
SHOWN = 5


async def show_list(visit: Visit) -> Response:
    """What is started when."""
    schedules = await visit.app.schedules.list(visit.caller, visit.query("after"))
    names = {agent.id: agent.name for agent in await all_agents(visit)}
    return visit.page("schedules.html", schedules=schedules, names=names)


async def show_one(visit: Visit) -> Response:
    """One of them: when it comes true next, and what became of it before."""
    schedule = await _schedule(visit)
    agent = await visit.app.agents.get(visit.caller, schedule.agent_id)
    names = Names(visit)
    await names.add([schedule.created_by])
    context: dict[str, Any] = {"schedule": schedule, "agent": agent, "names": names}
    return visit.page("schedule.html", times=_times(schedule.cron, schedule.timezone), **context)


async def show_new(visit: Visit) -> Response:
    """The form."""
    form = Form({"timezone": ["UTC"], **({"agent": [agent]} if (agent := visit.query("agent")) else {})})
    return visit.page("schedule_new.html", form=form, **await _choices(visit))


async def act_new(visit: Visit) -> Response:
    """Make it; or only say when it would come true."""
    form = await visit.form()
    try:
        form.failed_at = "cron"
        times = _times(form.text("cron"), form.text("timezone") or "UTC")
        form.failed_at = None
        if form.text("act") == "look":
            return visit.page("schedule_new.html", form=form, **{**await _choices(visit), "times": times})
        schedule = await _create(visit, form)
    except CompanyAgentsError as error:
        return visit.again("schedule_new.html", form, error, **await _choices(visit))
    return go(_path(visit, schedule.id), done="schedule-created")


async def _create(visit: Visit, form: Form) -> Schedule:
    with form.at("agent"):
        if not form.text("agent"):
            raise WrongUsage("choose one")
        agent_id = form.ids("agent")[0]
    if not form.text("prompt"):
        form.failed_at = "prompt"
    return await visit.app.schedules.create(
        visit.caller,
        agent_id,
        form.text("name"),
        form.text("cron"),
        form.text("prompt"),
        form.text("timezone") or "UTC",
    )


async def act_pause(visit: Visit) -> Response:
    """Start nothing until it is resumed."""
    schedule = await visit.app.schedules.pause(visit.caller, visit.id("schedule"))
    return go(_path(visit, schedule.id), done="schedule-paused")


async def act_resume(visit: Visit) -> Response:
    """Start runs again."""
    schedule = await visit.app.schedules.resume(visit.caller, visit.id("schedule"))
    return go(_path(visit, schedule.id), done="schedule-resumed")


async def show_delete(visit: Visit) -> Response:
    """What it means."""
    return visit.page("schedule_delete.html", schedule=await _schedule(visit))


async def act_delete(visit: Visit) -> Response:
    """Delete it."""
    await visit.app.schedules.delete(visit.caller, visit.id("schedule"))
    return go(f"{visit.home}/schedules", done="schedule-deleted")


def _times(cron: str, timezone: str) -> list[datetime]:
    """
    When it comes true next, in its own time zone.

    Raises:
        WrongUsage: it is no expression, or no time zone.
    """
    zone = zoneinfo.ZoneInfo(timezone) if timezone in zoneinfo.available_timezones() else UTC
    found = itertools.islice(moments(cron.upper(), timezone, datetime.now(UTC)), SHOWN)
    return [moment.astimezone(zone) for moment in found]


async def _choices(visit: Visit) -> dict[str, Any]:
    agents = [agent for agent in await all_agents(visit) if agent.state != "retired" and agent.adapter]
    return {"agents": agents, "zones": sorted(zoneinfo.available_timezones()), "times": []}


async def _schedule(visit: Visit) -> Schedule:
    return await visit.app.schedules.get(visit.caller, visit.id("schedule"))


def _path(visit: Visit, schedule_id: UUID) -> str:
    return f"{visit.home}/schedules/{schedule_id}"


_ALL = "/companies/{company:uuid}/schedules"
_ONE = _ALL + "/{schedule:uuid}"

PAGES = [
    Page(_ALL, show_list, permission=Permission.SCHEDULE_READ),
    Page(f"{_ALL}/new", show_new, act_new, permission=Permission.SCHEDULE_MANAGE),
    Page(_ONE, show_one, permission=Permission.SCHEDULE_READ),
    Page(f"{_ONE}/pause", act=act_pause, permission=Permission.SCHEDULE_MANAGE),
    Page(f"{_ONE}/resume", act=act_resume, permission=Permission.SCHEDULE_MANAGE),
    Page(f"{_ONE}/delete", show_delete, act_delete, permission=Permission.SCHEDULE_MANAGE),
]
