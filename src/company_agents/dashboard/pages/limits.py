"""
Company → Costs: the limits of an agent, and of the company.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from uuid import UUID

from starlette.responses import Response

from company_agents.dashboard.forms import Form, dollars, number
from company_agents.dashboard.visit import Page, Visit, go
from company_agents.errors import CompanyAgentsError
from company_agents.identity.limits import NAMES, Limit
from company_agents.identity.permissions import Permission


async def show_company(visit: Visit) -> Response:
    """Those of the company, to be changed."""
    return visit.page("limits.html", agent=None, form=form_of(await visit.app.limits.get(visit.caller)))


async def act_company(visit: Visit) -> Response:
    """Make it so."""
    form = await visit.form()
    return await _set(visit, form, None, f"{visit.home}/costs", agent=None)


async def show_agent(visit: Visit) -> Response:
    """Those of an agent, to be changed."""
    agent = await visit.app.agents.get(visit.caller, visit.id("agent"))
    return visit.page("limits.html", agent=agent, form=form_of(await visit.app.limits.get(visit.caller, agent.id)))


async def act_agent(visit: Visit) -> Response:
    """Make it so."""
    agent = await visit.app.agents.get(visit.caller, visit.id("agent"))
    form = await visit.form()
    return await _set(visit, form, agent.id, f"{visit.home}/agents/{agent.id}", agent=agent)


async def _set(visit: Visit, form: Form, agent_id: UUID | None, back: str, **context: Any) -> Response:
    try:
        changes: dict[str, int | None] = {}
        for name in NAMES:
            read: Callable[[str | None], int | None] = dollars if name.endswith("micros") else number
            with form.at(name):
                changes[name] = read(form.text(name))
        await visit.app.limits.set(visit.caller, agent_id, changes)
    except CompanyAgentsError as error:
        # Which of them is wrong is the first word of what is said.
        named = next((name for name in NAMES if error.sentence.startswith(name)), None)
        form.failed_at = form.failed_at or named
        return visit.again("limits.html", form, error, **context)
    return go(back, done="limits-set")


def form_of(limit: Limit) -> Form:
    """Limits as the form has them."""
    values = {}
    for name, value in asdict(limit).items():
        if value is not None:
            values[name] = [_dollars(value) if name.endswith("micros") else str(value)]
    return Form(values)


def _dollars(micros: int) -> str:
    whole, rest = divmod(micros, 1_000_000)
    return f"{whole}.{rest:06d}".rstrip("0").ljust(len(str(whole)) + 3, "0")


PAGES = [
    Page("/companies/{company:uuid}/costs/limits", show_company, act_company, permission=Permission.LIMITS_MANAGE),
    Page(
        "/companies/{company:uuid}/agents/{agent:uuid}/limits",
        show_agent,
        act_agent,
        permission=Permission.LIMITS_MANAGE,
    ),
]
