"""
Company → Integrations: the list, what one is, who may use it, rotate, check, delete. connect.py has connecting.
"""

from __future__ import annotations

import contextlib
from typing import Any
from uuid import UUID

from starlette.responses import Response

from company_agents.dashboard.forms import Form, number
from company_agents.dashboard.named import all_agents, all_integrations
from company_agents.dashboard.pages.connect import MOST_WORDS
from company_agents.dashboard.pages.oauth import begin
from company_agents.dashboard.visit import Page, Visit, go
from company_agents.errors import CompanyAgentsError, NotFound, ProbeFailed, WrongUsage
from company_agents.identity import paging
from company_agents.identity.permissions import Permission
from company_agents.integrations.credential import CredentialLost, check_token
from company_agents.integrations.integrations import Integration
from company_agents.integrations.provider import Provider
from company_agents.integrations.wanted import Wanted

# Of an integration's versions, so many are shown: the newest.
MOST_VERSIONS = 10


async def show_list(visit: Visit) -> Response:
    """What the company is connected to, and how it is."""
    words = (visit.query("q") or "")[:MOST_WORDS]
    integrations = await (
        _found(visit, words) if words else visit.app.integrations.list(visit.caller, visit.query("after"))
    )
    names = {agent.id: agent.name for agent in await all_agents(visit)}
    titles = {provider.name: provider.title for provider in visit.app.providers.list()}
    return visit.page("integrations.html", integrations=integrations, names=names, titles=titles, words=words)


async def _found(visit: Visit, words: str) -> paging.Page[Integration]:
    titles = {provider.name: provider.title for provider in visit.app.providers.list()}
    wanted = words.casefold().split()
    items = [
        integration
        for integration in await all_integrations(visit)
        if all(
            word
            in f"{integration.name} {integration.provider} {titles.get(integration.provider, '')} "
            f"{integration.destination} {integration.account} {integration.status}".casefold()
            for word in wanted
        )
    ]
    return paging.Page(items)


async def show_one(visit: Visit) -> Response:
    """Everything that there is to know, which is not the credential's value."""
    integration = await _integration(visit)
    agents = await all_agents(visit)
    named = set(integration.agents)
    details = await visit.app.looks.of(visit.caller, integration.id)
    return visit.page(
        "integration.html",
        **_about(visit, integration),
        details=details,
        most=max(count for _, count in details.uses),
        versions=details.versions[:MOST_VERSIONS],
        revocable=_is_revocable(visit, integration),
        rules=await visit.app.rulebook.get(visit.caller, integration.id),
        names={agent.id: agent.name for agent in agents},
        users=[agent for agent in agents if agent.state != "retired" and (integration.allow_all or agent.id in named)],
    )


async def act_check(visit: Visit) -> Response:
    """Try the credential at the provider, now."""
    integration = await _integration(visit)
    await visit.app.integrations.check(visit.caller, integration.id)
    return go(_path(visit, integration), done="checked")


async def show_allow(visit: Visit) -> Response:
    """Who may use it, to be changed."""
    integration = await _integration(visit)
    chosen = "all" if integration.allow_all else "named"
    form = Form({"who": [chosen], "agent": [str(agent_id) for agent_id in integration.agents]})
    return await _allow_page(visit, integration, form)


async def act_allow(visit: Visit) -> Response:
    """Make it so."""
    integration = await _integration(visit)
    form = await visit.form()
    try:
        await _allow(visit, integration, form)
    except CompanyAgentsError as error:
        form.error = error
        return await _allow_page(visit, integration, form)
    return go(_path(visit, integration), done="allowed")


async def _allow(visit: Visit, integration: Integration, form: Form) -> None:
    """
    Narrow first, then widen: if it is cut short, nobody may use it who was not meant to. Agents that the form
    did not show (hired since) stay as they are.
    """
    known = visit.app.integrations
    wanted, shown = set(form.ids("agent")), set(form.ids("shown"))
    for_all = form.text("who") == "all"
    if not for_all and form.text("who") != "named":
        raise WrongUsage("choose who may use it")
    if integration.allow_all and not for_all:
        await known.allow_all(visit.caller, integration.id, False)
    if not for_all:
        present = set(integration.agents) & shown
        for agent_id in present - wanted:
            await known.disallow(visit.caller, integration.id, agent_id)
        for agent_id in wanted - set(integration.agents):
            await known.allow(visit.caller, integration.id, agent_id)
    elif not integration.allow_all:
        await known.allow_all(visit.caller, integration.id, True)


async def _allow_page(visit: Visit, integration: Integration, form: Form) -> Response:
    agents = [agent for agent in await all_agents(visit) if agent.state != "retired"]
    status = form.error.http_status if form.error else 200
    return visit.page("allow.html", status=status, form=form, integration=integration, agents=agents)


async def show_rotate(visit: Visit) -> Response:
    """The form for a new token; of a consent, what a new one means."""
    integration = await _integration(visit)
    return visit.page(_rotate_template(integration), **_about(visit, integration))


async def act_rotate(visit: Visit) -> Response:
    """Replace the credential: by a token, or by a new consent, for which the person goes to the provider."""
    integration = await _integration(visit)
    form = await visit.form()
    try:
        if integration.kind == "consent":
            return await _ask_again(visit, integration)
        with form.at("token"):
            token = check_token(form.secret("token"))
        await visit.app.integrations.rotate(visit.caller, integration.id, token)
    except CompanyAgentsError as error:
        if isinstance(error, ProbeFailed):
            form.failed_at = "token"
        return visit.again(_rotate_template(integration), form, error, **_about(visit, integration))
    return go(_path(visit, integration), done="rotated")


def _rotate_template(integration: Integration) -> str:
    return "rotate_consent.html" if integration.kind == "consent" else "rotate.html"


async def _ask_again(visit: Visit, integration: Integration) -> Response:
    """By the flow that brought the present consent."""
    provider = visit.app.providers.get(integration.provider)
    consent = None
    with contextlib.suppress(CredentialLost):
        consent = (await visit.app.integrations.present(visit.caller, integration.id)).consent
    wanted = Wanted(provider.name, integration_id=integration.id)
    return await begin(visit, provider, wanted, consent.flow if consent else "code")


def _is_revocable(visit: Visit, integration: Integration) -> bool:
    """Whether there is something to revoke; that it can be done is known when it is tried."""
    return integration.kind == "consent" and visit.may("INTEGRATION_DELETE")


async def act_cut(visit: Visit) -> Response:
    """Cut runs off from a version that they hold."""
    integration = await _integration(visit)
    version = number((await visit.form()).text("version"))
    await visit.app.runs.cut(visit.caller, integration.id, version=version)
    return go(_path(visit, integration), done="cut")


async def show_remind(visit: Visit) -> Response:
    """It stands on the integration's own page; whoever was asked for the password comes by here."""
    return go(_path(visit, await _integration(visit)))


async def act_remind(visit: Visit) -> Response:
    """After how many days a rotation is asked for."""
    integration = await _integration(visit)
    await visit.app.looks.remind(visit.caller, integration.id, number((await visit.form()).text("days")))
    return go(_path(visit, integration), done="reminded")


async def show_revoke(visit: Visit) -> Response:
    """What it means."""
    return visit.page("revoke.html", **_about(visit, await _integration(visit)))


async def act_revoke(visit: Visit) -> Response:
    """End the consent at its provider."""
    integration = await _integration(visit)
    try:
        await visit.app.revocation.end(visit.caller, integration.id)
    except CompanyAgentsError as error:
        return visit.again("revoke.html", Form(), error, **_about(visit, integration))
    return go(_path(visit, integration), done="revoked")


async def show_delete(visit: Visit) -> Response:
    """What deleting means, and the name to be typed."""
    return visit.page("delete.html", **_about(visit, await _integration(visit)))


async def act_delete(visit: Visit) -> Response:
    """Delete it, once its name was typed."""
    integration = await _integration(visit)
    form = await visit.form()
    try:
        with form.at("name"):
            if form.text("name") != integration.name:
                raise WrongUsage("this is not its name", hint=f"type {integration.name}, as it is written here")
        await visit.app.revocation.delete(visit.caller, integration.id, keep_consent=form.has("keep_consent"))
    except CompanyAgentsError as error:
        return visit.again("delete.html", form, error, **_about(visit, integration))
    return go(f"{visit.home}/integrations", done="deleted")


async def _integration(visit: Visit) -> Integration:
    integration_id: UUID = visit.id("integration")
    return await visit.app.integrations.get(visit.caller, integration_id)


def _about(visit: Visit, integration: Integration) -> dict[str, Any]:
    return {"integration": integration, "provider": _provider(visit, integration)}


def _provider(visit: Visit, integration: Integration) -> Provider | None:
    """Its provider; None where this version does not know it any more: it is shown, and can be deleted."""
    try:
        return visit.app.providers.get(integration.provider)
    except NotFound:
        return None


def _path(visit: Visit, integration: Integration) -> str:
    return f"{visit.home}/integrations/{integration.id}"


_ALL = "/companies/{company:uuid}/integrations"
_ONE = _ALL + "/{integration:uuid}"

PAGES = [
    Page(_ALL, show_list, permission=Permission.INTEGRATION_READ),
    Page(_ONE, show_one, permission=Permission.INTEGRATION_READ),
    Page(f"{_ONE}/check", act=act_check, permission=Permission.INTEGRATION_CHECK),
    Page(f"{_ONE}/allow", show_allow, act_allow, permission=Permission.INTEGRATION_ALLOW),
    Page(f"{_ONE}/rotate", show_rotate, act_rotate, permission=Permission.INTEGRATION_ROTATE),
    Page(f"{_ONE}/cut", act=act_cut, permission=Permission.RUN_CUT),
    Page(f"{_ONE}/remind", show_remind, act_remind, permission=Permission.INTEGRATION_ROTATE),
    Page(f"{_ONE}/revoke", show_revoke, act_revoke, permission=Permission.INTEGRATION_DELETE),
    Page(f"{_ONE}/delete", show_delete, act_delete, permission=Permission.INTEGRATION_DELETE),
]
