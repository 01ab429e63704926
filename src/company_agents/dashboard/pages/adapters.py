"""
Company → Agents: how an agent's runs are executed. Set, taken away, and the secret that signs what is handed over.
"""

from __future__ import annotations

import shlex
from typing import Any

from starlette.responses import Response

from company_agents.dashboard.forms import Form, number
from company_agents.dashboard.named import all_integrations
from company_agents.dashboard.telling import ADAPTERS
from company_agents.dashboard.visit import Page, Visit, go
from company_agents.errors import CompanyAgentsError, Conflict, WrongUsage
from company_agents.identity.agents import Agent
from company_agents.identity.permissions import Permission
from company_agents.runs.adapters.llm import PATHS
from company_agents.runs.adapters.process_config import PRESETS
from company_agents.sensitive import Sensitive

# In this order, as far as there are such adapters.
_KINDS = tuple(ADAPTERS)


async def show_set(visit: Visit) -> Response:
    """The form of one kind: that of the address, else the one that the agent has, else the first."""
    agent = await _agent(visit)
    asked = visit.query("kind") or agent.adapter or ""
    kind = asked if asked in visit.app.adapters.kinds else next(iter(_kinds(visit)))
    config = agent.adapter_config if kind == agent.adapter else {}
    form = _form_of(config)
    if agent.unsandboxed and kind == "process":
        form.values["unsandboxed"] = ["yes"]
    return visit.page("adapter.html", form=form, **await _about(visit, agent, kind))


async def act_set(visit: Visit) -> Response:
    """Make it so; for a remote agent, show the secret that signs, this once."""
    agent = await _agent(visit)
    form = await visit.form()
    kind = form.text("kind")
    try:
        if kind not in visit.app.adapters.kinds:
            raise WrongUsage("choose how its runs are executed")
        unsandboxed = kind == "process" and form.has("unsandboxed")
        config = {"process": _process, "llm": _llm, "http": _http}[kind](form)
        changed, secret = await visit.app.adapters.set(visit.caller, agent.id, kind, config, unsandboxed=unsandboxed)
    except CompanyAgentsError as error:
        kind = kind if kind in visit.app.adapters.kinds else next(iter(_kinds(visit)))
        return visit.again("adapter.html", form, error, **await _about(visit, agent, kind))
    if secret is not None:
        return _secret_page(visit, changed, secret, new=True)
    return go(_path(visit, changed), done="adapter-set")


async def act_remove(visit: Visit) -> Response:
    """It opens its runs itself from now on."""
    agent = await visit.app.adapters.remove(visit.caller, visit.id("agent"))
    return go(_path(visit, agent), done="adapter-removed")


async def show_acted(visit: Visit) -> Response:
    """Whoever was asked for the password comes by here."""
    return go(f"{_path(visit, await _agent(visit))}/adapter")


async def show_rotate(visit: Visit) -> Response:
    """What a new secret means."""
    agent = await _agent(visit)
    return visit.page("adapter_rotate.html", agent=agent, seen=agent.updated_at.isoformat())


async def act_rotate(visit: Visit) -> Response:
    """Give it a new secret, and show that, this once."""
    agent = await _agent(visit)
    form = await visit.form()
    try:
        # The page with the secret is the answer to this very form: loaded again, it would be sent again.
        if form.text("seen") != agent.updated_at.isoformat():
            raise Conflict("this agent was changed a moment ago", hint="rotate again if you do not have its secret")
        agent, secret, _ = await visit.app.adapters.rotate_secret(visit.caller, agent.id)
    except CompanyAgentsError as error:
        return visit.again("adapter_rotate.html", form, error, agent=agent, seen=agent.updated_at.isoformat())
    return _secret_page(visit, agent, secret, new=False)


def _secret_page(visit: Visit, agent: Agent, secret: Sensitive, *, new: bool) -> Response:
    # The one place where it is revealed. No redirect: a page that could be asked for again would need it to be kept.
    return visit.page("adapter_secret.html", agent=agent, secret=secret.reveal_text(), new=new)


def _process(form: Form) -> dict[str, Any]:
    config: dict[str, Any] = {name: form.text(name) for name in ("preset", "integration", "model", "program")}
    for name in ("command", "arguments"):
        with form.at(name):
            config[name] = _words(form.text(name))
    with form.at("environment"):
        config["environment"] = _variables(form.text("environment"))
    config["network"] = form.text("network") or "orchestrator"
    config["readable"] = [line.strip() for line in form.text("readable").splitlines() if line.strip()]
    return config


def _llm(form: Form) -> dict[str, Any]:
    config: dict[str, Any] = {name: form.text(name) for name in ("integration", "api", "model", "system")}
    if form.text("path"):
        config["path"] = form.text("path")
    for name in ("max_tokens", "max_turns"):
        with form.at(name):
            if (value := number(form.text(name))) is not None:
                config[name] = value
    return config


def _http(form: Form) -> dict[str, Any]:
    return {"url": form.text("url"), "allow_private_network": form.has("private_network")}


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        raise WrongUsage("a quotation mark in the command is not closed") from None


def _variables(text: str) -> dict[str, str]:
    found = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, sign, value = line.partition("=")
        if not name or not sign:
            raise WrongUsage("a variable is written as NAME=value", hint="one in each line")
        found[name.strip()] = value
    return found


def _form_of(config: dict[str, Any]) -> Form:
    """A configuration as the form has it."""
    values = {name: [str(value)] for name, value in config.items() if isinstance(value, str | int)}
    for name in ("command", "arguments"):
        values[name] = [shlex.join(config.get(name, []))]
    values.setdefault("network", ["orchestrator"])
    values["environment"] = ["\n".join(f"{name}={value}" for name, value in config.get("environment", {}).items())]
    values["readable"] = ["\n".join(config.get("readable", []))]
    if config.get("allow_private_network"):
        values["private_network"] = ["yes"]
    return Form(values)


async def _about(visit: Visit, agent: Agent, kind: str) -> dict[str, Any]:
    integrations = await all_integrations(visit) if kind == "llm" else []
    return {
        "agent": agent,
        "kind": kind,
        "kinds": _kinds(visit),
        "apis": PATHS,
        "presets": PRESETS,
        "integrations": [each for each in integrations if each.allow_all or agent.id in each.agents],
    }


def _kinds(visit: Visit) -> dict[str, str]:
    return {kind: ADAPTERS[kind] for kind in _KINDS if kind in visit.app.adapters.kinds}


async def _agent(visit: Visit) -> Agent:
    return await visit.app.agents.get(visit.caller, visit.id("agent"))


def _path(visit: Visit, agent: Agent) -> str:
    return f"{visit.home}/agents/{agent.id}"


_ONE = "/companies/{company:uuid}/agents/{agent:uuid}/adapter"

PAGES = [
    Page(_ONE, show_set, act_set, permission=Permission.AGENT_ADAPTER),
    Page(f"{_ONE}/remove", show_acted, act_remove, permission=Permission.AGENT_ADAPTER),
    Page(f"{_ONE}/rotate-secret", show_rotate, act_rotate, permission=Permission.AGENT_ADAPTER),
]
