"""
Agents: the list, hire, what one is, its token, pause, resume, retire.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from company_agents.dashboard.named import all_integrations
from company_agents.dashboard.render import machine
from company_agents.dashboard.spent import chart
from company_agents.dashboard.visit import Handler, Page, Visit, go
from company_agents.errors import CompanyAgentsError, Conflict
from company_agents.identity.agents import Agent, Agents
from company_agents.identity.permissions import Permission
from company_agents.integrations.costs import Costs
from company_agents.runs.views import Views
from company_agents.sensitive import Sensitive

RUNS_SHOWN = 6
# Of a configuration, what is asked first comes first.
_ORDER = ("preset", "command", "integration", "model", "api", "url", "system")
_views = Views()
_costs = Costs()


async def show_list(visit: Visit) -> Response:
    """Who works here."""
    agents = await visit.app.agents.list(visit.caller, after=visit.query("after"))
    integrations = await all_integrations(visit)
    usable = {
        agent.id: [each for each in integrations if each.allow_all or agent.id in each.agents] for agent in agents.items
    }
    return visit.page("agents.html", agents=agents, usable=usable)


async def show_one(visit: Visit) -> Response:
    """One agent: state, token, and what it may use."""
    agent = await _agent(visit)
    usable = [each for each in await all_integrations(visit) if each.allow_all or agent.id in each.agents]
    runs = await _views.runs(visit.caller, agent=agent.id, limit=RUNS_SHOWN)
    assert runs is not None
    month = await _costs.month(visit.caller, agent.id)
    return visit.page(
        "agent.html",
        agent=agent,
        usable=usable,
        runs=runs.page.items,
        rules=await _views.rules(visit.caller, agent.id, [each.id for each in usable]),
        notes=await _views.notes(visit.caller, agent.id),
        month=month,
        chart=chart((await _costs.of_agent(visit.caller, agent.id)).days, month.limit.month_micros),
        config=_readable(agent.adapter_config),
    )


def _readable(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A configuration for people, without what is left open."""
    found = []
    for name, value in sorted(
        config.items(), key=lambda entry: _ORDER.index(entry[0]) if entry[0] in _ORDER else len(_ORDER)
    ):
        if isinstance(value, bool):
            text = "yes" if value else ""
        elif isinstance(value, Mapping):
            text = "\n".join(f"{key}={each}" for key, each in value.items())
        elif isinstance(value, list):
            text = shlex.join(map(str, value)) if name in ("command", "arguments") else "\n".join(map(str, value))
        else:
            text = "" if value is None else str(value)
        if text:
            found.append((name.replace("_", " "), text))
    return found


async def show_memory(visit: Visit) -> Response:
    """What it remembers."""
    agent = await _agent(visit)
    notes = await visit.app.memory.look(visit.caller, agent.id, visit.query("after"))
    return visit.page("memory.html", agent=agent, notes=notes)


async def show_hire(visit: Visit) -> Response:
    """The form."""
    return visit.page("hire.html")


async def act_hire(visit: Visit) -> Response:
    """Hire an agent, and show its token, this once."""
    form = await visit.form()
    try:
        with form.at("name"):
            agent, token = await visit.app.agents.create(visit.caller, form.text("name"))
    except CompanyAgentsError as error:
        return visit.again("hire.html", form, error)
    return _token_page(visit, agent, token, hired=True)


async def show_rotate(visit: Visit) -> Response:
    """What a new token means."""
    agent = await _agent(visit)
    return visit.page("agent_rotate.html", agent=agent, seen=_seen(agent))


async def act_rotate(visit: Visit) -> Response:
    """Give it a new token, and show that, this once."""
    agent = await _agent(visit)
    form = await visit.form()
    try:
        # The page with the token is the answer to this very form: loaded again, it would be sent again, and the
        # token that was just copied would be void.
        if form.text("seen") != _seen(agent):
            raise Conflict("this token was rotated a moment ago", hint="rotate it again if you do not have the new one")
        agent, token = await visit.app.agents.rotate_token(visit.caller, agent.id)
    except CompanyAgentsError as error:
        return visit.again("agent_rotate.html", form, error, agent=agent, seen=_seen(agent))
    return _token_page(visit, agent, token, hired=False)


def _seen(agent: Agent) -> str:
    return agent.token_created_at.isoformat() if agent.token_created_at else machine(agent.created_at)


def _token_page(visit: Visit, agent: Agent, token: Sensitive, *, hired: bool) -> Response:
    # The one place where an agent's token is revealed. No redirect: a page that could be asked for again would
    # need the token to be kept for it.
    plain = token.reveal_text()
    server = {
        "type": "http",
        "url": f"{visit.app.settings.url}/mcp",
        "headers": {"Authorization": f"Bearer {plain}"},
    }
    config = json.dumps({"mcpServers": {"company-agents": server}}, indent=2)
    return visit.page("agent_token.html", agent=agent, token=plain, config=config, hired=hired)


async def show_retire(visit: Visit) -> Response:
    """What retiring means."""
    return visit.page("retire.html", agent=await _agent(visit))


def _moves(move: str) -> Handler:
    async def act(visit: Visit) -> Response:
        agents: Agents = visit.app.agents
        moved: Agent = await getattr(agents, move)(visit.caller, visit.id("agent"))
        return go(f"{visit.home}/agents/{moved.id}", done=moved.state)

    return act


async def _agent(visit: Visit) -> Agent:
    return await visit.app.agents.get(visit.caller, visit.id("agent"))


_ALL = "/companies/{company:uuid}/agents"
_ONE = _ALL + "/{agent:uuid}"

PAGES = [
    Page(_ALL, show_list, permission=Permission.AGENT_READ),
    # With the password, like its rotation: the token that is shown may use whatever every agent may.
    Page(f"{_ALL}/hire", show_hire, act_hire, permission=Permission.AGENT_MANAGE, confirms=True),
    Page(_ONE, show_one, permission=Permission.AGENT_READ),
    Page(f"{_ONE}/memory", show_memory, permission=Permission.MEMORY_READ),
    Page(f"{_ONE}/rotate-token", show_rotate, act_rotate, permission=Permission.AGENT_TOKEN),
    Page(f"{_ONE}/pause", act=_moves("pause"), permission=Permission.AGENT_MANAGE),
    Page(f"{_ONE}/resume", act=_moves("resume"), permission=Permission.AGENT_MANAGE),
    Page(f"{_ONE}/retire", show_retire, _moves("retire"), permission=Permission.AGENT_MANAGE),
]
