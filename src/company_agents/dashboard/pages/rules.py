"""
Company → Integrations → Rules: what agents may call with it, how often, and what a person approves first.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from starlette.responses import Response

from company_agents.dashboard.forms import Form, number
from company_agents.dashboard.named import all_agents
from company_agents.dashboard.visit import Page, Visit, go
from company_agents.errors import CompanyAgentsError, NotFound
from company_agents.identity.agents import Agent
from company_agents.identity.permissions import Permission
from company_agents.integrations.rules import Rules

_KINDS = ("only", "ask", "per_minute")


async def show_rules(visit: Visit) -> Response:
    """What is said of all agents; or of one, which an address names."""
    return await _page(visit, None)


async def act_rules(visit: Visit) -> Response:
    """Say it anew."""
    form = await visit.form()
    agent = await _agent(visit, form.text("agent"))
    integration_id = visit.id("integration")
    try:
        rules = _said(form, own=agent is not None)
        if agent is None:
            await visit.app.rulebook.set(visit.caller, integration_id, rules)
        else:
            await visit.app.rulebook.replace(visit.caller, integration_id, agent.id, rules)
    except NotFound:
        raise
    except CompanyAgentsError as error:
        form.error = error
        return await _page(visit, form)
    return go(f"{visit.home}/integrations/{integration_id}", done="rules-set")


def _said(form: Form, *, own: bool) -> Rules:
    """What the form says. For one agent, a kind of rule that is not its own is as for all."""
    kinds = [kind for kind in _KINDS if not own or form.text(f"own_{kind}") == "own"]
    said: dict[str, Any] = {}
    for kind in kinds:
        with form.at(kind):
            if kind == "per_minute":
                said |= {kind: Rules.read(per_minute=number(form.text(kind)) or 0).per_minute}
            else:
                lines = [line.strip() for line in form.text(kind).splitlines() if line.strip()]
                read = Rules.read(only=lines)
                said |= {kind: read.only}
    return Rules(**said)


async def _page(visit: Visit, form: Form | None) -> Response:
    integration = await visit.app.integrations.get(visit.caller, visit.id("integration"))
    rules = await visit.app.rulebook.get(visit.caller, integration.id)
    agent = await _agent(visit, form.text("agent") if form else visit.query("agent") or "")
    status = form.error.http_status if form and form.error else 200
    if form is None:
        own = next((each for each in rules.agents if agent is not None and each.agent == agent.id), None)
        form = _filled(rules if agent is None else own)
    named = [each for each in await all_agents(visit) if each.id in integration.agents and each.state != "retired"]
    context: dict[str, Any] = {"integration": integration, "rules": rules, "agent": agent, "named": named}
    return visit.page("rules.html", status=status, form=form, **context)


def _filled(rules: Any) -> Form:
    found = {kind: getattr(rules, kind) if rules else None for kind in _KINDS}
    texts = {kind: "\n".join(found[kind] or ()) for kind in ("only", "ask")}
    texts["per_minute"] = str(found["per_minute"] or "")
    owns = {f"own_{kind}": ["all" if found[kind] is None else "own"] for kind in _KINDS}
    return Form({**{kind: [text] for kind, text in texts.items()}, **owns})


async def _agent(visit: Visit, text: str) -> Agent | None:
    """The agent that is spoken of; None: all."""
    if not text:
        return None
    try:
        return await visit.app.agents.get(visit.caller, UUID(text))
    except ValueError:
        raise NotFound("this agent does not exist") from None


PAGES = [
    Page(
        "/companies/{company:uuid}/integrations/{integration:uuid}/rules",
        show_rules,
        act_rules,
        permission=Permission.INTEGRATION_ALLOW,
    ),
]
