"""
Companies: the list, a new one, and what one looks like from above.
"""

from __future__ import annotations

from starlette.responses import Response

from company_agents.dashboard.named import all_agents, all_integrations, backup_concerns, events_of, key_warnings
from company_agents.dashboard.visit import Page, Visit, go
from company_agents.errors import CompanyAgentsError
from company_agents.identity.permissions import Permission
from company_agents.integrations.costs import Costs
from company_agents.integrations.status import CONNECTED
from company_agents.runs.views import Views

RUNS_SHOWN = 5
_views = Views()
_costs = Costs()


async def start(visit: Visit) -> Response:
    """Whoever has one company goes into it."""
    companies = await visit.app.companies.list(visit.me, limit=2)
    if len(companies.items) == 1:
        return go(f"/companies/{companies.items[0].id}")
    return go("/companies")


async def show_list(visit: Visit) -> Response:
    """The companies that this person sees."""
    companies = await visit.app.companies.list(visit.me, after=visit.query("after"))
    return visit.page(
        "companies.html",
        companies=companies,
        key_warnings=await key_warnings(visit),
        backup_concerns=await backup_concerns(visit),
    )


async def show_create(visit: Visit) -> Response:
    """The form."""
    return visit.page("company_new.html")


async def act_create(visit: Visit) -> Response:
    """Create a company."""
    form = await visit.form()
    try:
        with form.at("name"):
            company = await visit.app.companies.create(visit.me, form.text("name"))
    except CompanyAgentsError as error:
        return visit.again("company_new.html", form, error)
    return go(f"/companies/{company.id}", done="created")


async def show_overview(visit: Visit) -> Response:
    """What there is, what needs somebody, and what to do next."""
    integrations = await all_integrations(visit)
    agents = await all_agents(visit)
    found = await visit.app.events.newest(visit.caller.scope.company_id, limit=6)
    hired = [agent for agent in agents if agent.state != "retired"]
    running = await _views.runs(visit.caller, state="running", limit=RUNS_SHOWN)
    assert running is not None
    return visit.page(
        "company.html",
        integrations=integrations,
        agents=hired,
        troubled=[integration for integration in integrations if integration.status != CONNECTED],
        allowed=any(integration.allow_all or integration.agents for integration in integrations),
        called=any(agent.token_last_used_at or agent.adapter for agent in hired),
        events=await events_of(visit, found),
        key_warnings=await key_warnings(visit),
        backup_concerns=await backup_concerns(visit),
        running=running.page,
        month=await _costs.month(visit.caller),
    )


PAGES = [
    Page("/", start),
    Page("/companies", show_list, permission=Permission.COMPANY_LIST),
    Page("/companies/new", show_create, act_create, permission=Permission.COMPANY_CREATE),
    Page("/companies/{company:uuid}", show_overview, permission=Permission.COMPANY_READ),
]
