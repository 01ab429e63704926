"""
Company → Costs: what this month has cost, by agent, by day and by model, beside the budgets.
"""

from __future__ import annotations

from starlette.responses import Response

from company_agents.dashboard.spent import by_model, chart
from company_agents.dashboard.visit import Page, Visit
from company_agents.identity.permissions import Permission
from company_agents.integrations.costs import Costs
from company_agents.runs.views import MOST_AGENTS, Views

_costs = Costs()
_views = Views()


async def show_costs(visit: Visit) -> Response:
    """All of it."""
    month = await _costs.month(visit.caller)
    summary = await _costs.summary(visit.caller)
    agents = await _views.months(visit.caller)
    return visit.page(
        "costs.html",
        month=month,
        summary=summary,
        chart=chart(summary.days, month.limit.month_micros),
        models=by_model(summary.days),
        agents=agents,
        more=len(agents) == MOST_AGENTS,
    )


PAGES = [Page("/companies/{company:uuid}/costs", show_costs, permission=Permission.COSTS_READ)]
