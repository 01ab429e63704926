"""
Connecting: which provider, then its token.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.responses import Response

from company_agents.dashboard.forms import Form
from company_agents.dashboard.named import all_agents, all_integrations
from company_agents.dashboard.visit import Page, Visit, go
from company_agents.errors import CompanyAgentsError, Conflict, ProbeFailed, WrongUsage
from company_agents.identity.directory import good_name
from company_agents.identity.permissions import Permission
from company_agents.integrations.credential import check_token, destination_for
from company_agents.integrations.integrations import Integration
from company_agents.integrations.provider import Provider

MOST_WORDS = 100


async def show_gallery(visit: Visit) -> Response:
    """What can be connected, and what is; what fits any service stands last."""
    words = (visit.query("q") or "")[:MOST_WORDS]
    providers = [provider for provider in visit.app.providers.list() if _is_meant(provider, words)]
    connected: dict[str, list[str]] = {}
    for integration in await all_integrations(visit):
        connected.setdefault(integration.provider, []).append(integration.status)
    return visit.page(
        "gallery.html",
        providers=sorted(providers, key=lambda provider: (_is_any(provider), provider.title.casefold())),
        words=words,
        bad_files=visit.app.providers.bad_files(),
        connected=connected,
        ready={client.provider for client in await visit.app.clients.list(visit.caller)},
    )


def _is_meant(provider: Provider, words: str) -> bool:
    about = f"{provider.name} {provider.title} {provider.description}".casefold()
    return all(word in about for word in words.casefold().split())


def _is_any(provider: Provider) -> bool:
    """Whether it is no service, but a way to connect any."""
    return provider.base_url is None and provider.oauth is None and not provider.address_hint


async def show_connect(visit: Visit) -> Response:
    """
    The form of one provider. Nothing in it is filled from the address: a link that somebody sends must not be
    able to choose where a token goes, or who may use it.
    """
    provider = visit.app.providers.get(visit.request.path_params["provider"])
    return await _connect_page(visit, provider, Form({"name": [provider.name], "who": ["named"]}))


async def act_connect(visit: Visit) -> Response:
    """Try the token, seal it, and go to the integration."""
    provider = visit.app.providers.get(visit.request.path_params["provider"])
    form = await visit.form()
    try:
        integration = await _connect(visit, provider, form)
    except CompanyAgentsError as error:
        form.error = error
        form.failed_at = form.failed_at or _field_of(error, form)
        return await _connect_page(visit, provider, form)
    return go(f"{visit.home}/integrations/{integration.id}", done="connected")


def _field_of(error: CompanyAgentsError, form: Form) -> str | None:
    """Which field an error is about that came only when the token was tried."""
    if isinstance(error, ProbeFailed):
        return "token"
    if isinstance(error, Conflict) and error.reason == "duplicate":
        return "name"
    host = urlsplit(form.text("base_url")).hostname
    return "base_url" if host and host in error.sentence else None


async def _connect(visit: Visit, provider: Provider, form: Form) -> Integration:
    base_url, header = form.text("base_url") or None, form.text("header") or None
    private = form.has("private_network")
    with form.at("name"):
        name = good_name(form.text("name"), "an integration")
    # Looked at field by field, so that the error stands where it belongs; `connect` looks again.
    with form.at("header"):
        destination_for(provider, "https://host.example", allow_private=False, header=header)
    with form.at("base_url"):
        destination_for(provider, base_url, allow_private=private, header=header)
    with form.at("token"):
        token = check_token(form.secret("token"))
    with form.at("who"):
        if form.text("who") not in ("named", "all"):
            raise WrongUsage("choose who may use it")
    return await visit.app.integrations.connect(
        visit.caller,
        provider.name,
        token,
        name=name,
        base_url=base_url,
        allow_private_network=private,
        header=header,
        allow=() if form.text("who") == "all" else form.ids("agent"),
        allow_all=form.text("who") == "all",
    )


async def _connect_page(visit: Visit, provider: Provider, form: Form) -> Response:
    agents = [agent for agent in await all_agents(visit) if agent.state != "retired"]
    status = form.error.http_status if form.error else 200
    return visit.page("connect.html", status=status, provider=provider, form=form, agents=agents)


_CONNECT = "/companies/{company:uuid}/integrations/connect"

PAGES = [
    Page(_CONNECT, show_gallery, permission=Permission.INTEGRATION_CONNECT),
    Page(_CONNECT + "/{provider}", show_connect, act_connect, permission=Permission.INTEGRATION_CONNECT),
]
