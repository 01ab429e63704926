"""
Connecting by OAuth: what the company is to a provider, what is asked for, and the way back from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from company_agents.dashboard.forms import Form
from company_agents.dashboard.named import all_agents
from company_agents.dashboard.visit import Page, Visit, go
from company_agents.errors import CompanyAgentsError, Conflict, NotFound, Refused, Unauthenticated, WrongUsage
from company_agents.identity.directory import good_name
from company_agents.identity.permissions import Permission
from company_agents.integrations.clients import AUTHS, ClientInfo, with_oauth
from company_agents.integrations.credential import destination_for
from company_agents.integrations.flows import Begun
from company_agents.integrations.integrations import Integration
from company_agents.integrations.open_flows import FLOW_MINUTES, read_state
from company_agents.integrations.provider import HOST, OAuth, Provider
from company_agents.integrations.wanted import Wanted

# What a flow is called where there is a choice.
FLOWS = {
    "code": ("A person consents", "You go to the service, sign in there, and say yes to what is listed below."),
    "device": ("A person consents, on another device", "You open a link anywhere and type a code."),
    "client": ("The application itself", "Nobody is asked: the client's own rights are used."),
    "github_app": ("An installation of the app", "The app acts in the name of one installation, with its own rights."),
}


async def show_consent(visit: Visit) -> Response:
    """What will be asked for. Nothing in the form is filled from the address: see connect.py."""
    provider, oauth = _provider(visit)
    values = {"name": [provider.name], "who": ["named"], "scope": [scope.name for scope in oauth.scopes]}
    return await _consent_page(visit, provider, oauth, Form(values))


async def act_consent(visit: Visit) -> Response:
    """Begin, and go to the provider; where nobody is asked, to the integration."""
    provider, oauth = _provider(visit)
    form = await visit.form()
    try:
        flow, wanted = await _wanted(visit, provider, oauth, form)
        return await begin(visit, provider, wanted, flow)
    except CompanyAgentsError as error:
        form.error = error
        if isinstance(error, Conflict) and error.reason == "duplicate":
            form.failed_at = "name"
        return await _consent_page(visit, provider, oauth, form)


async def begin(visit: Visit, provider: Provider, wanted: Wanted, flow: str) -> Response:
    """Begin a flow: the page from which the person goes on, or the integration where it is done at once."""
    flows = visit.app.flows
    if flow == "code":
        return _going(visit, provider, await flows.begin(visit.caller, wanted, session_id=visit.session.id))
    if flow == "device":
        begun = await visit.app.devices.begin(visit.caller, wanted, session_id=visit.session.id)
        return go(f"{visit.home}/integrations/connect/{provider.name}/device/{begun.id}")
    return _done(await flows.at_once(visit.caller, wanted, flow))


def _going(visit: Visit, provider: Provider, begun: Begun) -> Response:
    """
    A page, and not a redirect: browsers hold a form's redirects to `form-action`, which is ourselves.
    """
    response = visit.page("going.html", provider=provider, begun=begun, minutes=FLOW_MINUTES)
    response.headers["Refresh"] = f"0; url={begun.url}"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


def _done(integration: Integration) -> Response:
    done = "connected" if integration.version == 1 else "rotated"
    return go(f"/companies/{integration.company_id}/integrations/{integration.id}", done=done)


async def show_device(visit: Visit) -> Response:
    """The code that is to be typed, and where."""
    provider = visit.app.providers.get(visit.request.path_params["provider"])
    begun = await visit.app.devices.show(visit.caller, visit.id("flow"), session_id=visit.session.id)
    return visit.page("device.html", provider=provider, begun=begun, waiting=False)


async def act_device(visit: Visit) -> Response:
    """Ask the provider whether the person has said yes."""
    provider = visit.app.providers.get(visit.request.path_params["provider"])
    found = await visit.app.devices.poll(visit.caller, visit.id("flow"), session_id=visit.session.id)
    if isinstance(found, Integration):
        return _done(found)
    return visit.page("device.html", provider=provider, begun=found, waiting=True)


async def act_client(visit: Visit) -> Response:
    """Keep what the company is to this provider, and go on to connecting."""
    provider = visit.app.providers.get(visit.request.path_params["provider"])
    form = await visit.form()
    register = form.has("register")
    try:
        if form.has("show"):
            with_oauth(provider, form.text("issuer"))
            return await _client_page(visit, provider, form)
        secret = form.secret("client_secret")
        auth = form.text("auth") or None
        if auth is None and not secret and not register:
            auth = "none"
        await visit.app.clients.configure(
            visit.caller,
            provider.name,
            client_id=None if register else form.text("client_id"),
            secret=secret if secret and not register else None,
            issuer=form.text("issuer"),
            auth=auth,
            key_id=form.text("key_id") or None,
            allow_private=form.has("private_network"),
            register=register,
        )
    except CompanyAgentsError as error:
        form.error = error
        return await _client_page(visit, provider, form)
    return go(f"{visit.home}/integrations/connect/{provider.name}/consent", done="configured")


async def show_client(visit: Visit) -> Response:
    """The form for a client; with the one there is, to be replaced."""
    provider = visit.app.providers.get(visit.request.path_params["provider"])
    return await _client_page(visit, provider, Form({"auth": [provider.oauth.auth if provider.oauth else "post"]}))


async def show_clients(visit: Visit) -> Response:
    """What the company is to its providers."""
    clients = await visit.app.clients.list(visit.caller)
    titles = {provider.name: provider.title for provider in visit.app.providers.list()}
    return visit.page("clients.html", clients=clients, titles=titles)


async def show_delete_client(visit: Visit) -> Response:
    """What that means."""
    provider = visit.app.providers.get(visit.request.path_params["provider"])
    return visit.page("client_delete.html", provider=provider, clients=await _clients(visit, provider))


async def act_delete_client(visit: Visit) -> Response:
    """Forget a client."""
    form = await visit.form()
    await visit.app.clients.delete(visit.caller, visit.request.path_params["provider"], form.text("issuer"))
    return go(f"{visit.home}/clients", done="client-deleted")


async def show_callback(visit: Visit) -> Response:
    """
    What a provider sends a browser back with. It is an act that comes by GET, as the protocol has it: the state stands
    for the form that it answers, and is good once, in the session that it was given to.
    """
    try:
        integration = await _answered(visit)
    except CompanyAgentsError as error:
        response: Response = visit.page("callback.html", status=error.http_status, error=error)
    else:
        response = _done(integration)
    # The address has the code and the state in it.
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


async def _answered(visit: Visit) -> Integration:
    provider = visit.app.providers.get(visit.request.path_params["provider"])
    server = visit.request.path_params.get("server", "")
    pairs = visit.request.query_params.multi_items()
    params = dict(pairs)
    if visit.signed_in is None:
        visit.app.audit.refusal(None, "consent.refused", provider=provider.name, reason="signed_out")
        raise Unauthenticated(
            "nobody is signed in here, so the answer was not taken",
            hint="sign in and begin again; nothing was connected",
            code="consent_signed_out",
        )
    known = read_state(params.get("state", "")) if len(pairs) == len(params) else None
    try:
        if known is None:
            raise NotFound
        await visit.enter(known[0])
    except NotFound:
        visit.app.audit.refusal(None, "consent.refused", actor=visit.me.label, provider=provider.name, reason="state")
        raise Refused(
            "this answer belongs to nothing that was asked for here",
            hint="nothing was connected; begin again",
            code="consent_state",
        ) from None
    return await visit.app.flows.finish(visit.caller, visit.session.id, provider.name, params, server=server)


async def _wanted(visit: Visit, provider: Provider, oauth: OAuth, form: Form) -> tuple[str, Wanted]:
    base_url, header = form.text("base_url") or None, form.text("header") or None
    private = form.has("private_network")
    with form.at("name"):
        name = good_name(form.text("name"), "an integration")
    with form.at("base_url"):
        destination_for(provider, base_url, allow_private=private, header=header, consent=True)
    with form.at("who"):
        if form.text("who") not in ("named", "all"):
            raise WrongUsage("choose who may use it")
    clients = await _clients(visit, provider)
    issuer = form.text("issuer") if len(clients) > 1 else (clients[0].issuer if clients else "")
    flows = choices(oauth)
    flow = form.text("flow") or flows[0]
    scopes = tuple(form.all("scope")) if oauth.scopes else tuple(form.text("scopes").split())
    if oauth.scopes and not scopes and flow in ("code", "device"):
        raise WrongUsage("choose what it may do", hint="at least one")
    everyone = form.text("who") == "all"
    return flow, Wanted(
        provider.name,
        issuer=issuer,
        name=name,
        base_url=base_url,
        allow_private=private,
        header=header,
        scopes=scopes,
        allow=() if everyone else tuple(form.ids("agent")),
        allow_all=everyone,
        installation=form.text("installation") or None,
    )


def choices(oauth: OAuth) -> list[str]:
    """The flows that a person at a page may choose from: a code to be typed only where nothing else asks a person."""
    return [flow for flow in oauth.flows if flow != "device" or "code" not in oauth.flows]


def _provider(visit: Visit) -> tuple[Provider, OAuth]:
    """
    Raises:
        NotFound, WrongUsage: no such provider, or it has no OAuth.
    """
    provider = visit.app.providers.get(visit.request.path_params["provider"])
    # Of any service, the flows are known before its issuer is.
    return (provider, with_oauth(provider, "https://issuer.example")[1])


async def _clients(visit: Visit, provider: Provider) -> Sequence[ClientInfo]:
    return [client for client in await visit.app.clients.list(visit.caller) if client.provider == provider.name]


async def _consent_page(visit: Visit, provider: Provider, oauth: OAuth, form: Form) -> Response:
    clients = await _clients(visit, provider)
    if not clients:
        return await _client_page(visit, provider, Form({"auth": [oauth.auth]}))
    agents = [agent for agent in await all_agents(visit) if agent.state != "retired"]
    status = form.error.http_status if form.error else 200
    flows = [(flow, *FLOWS[flow]) for flow in choices(oauth)]
    return visit.page(
        "consent.html",
        status=status,
        provider=provider,
        oauth=oauth,
        form=form,
        agents=agents,
        clients=clients,
        flows=flows,
    )


async def _client_page(visit: Visit, provider: Provider, form: Form) -> Response:
    _, oauth = with_oauth(provider, "https://issuer.example")
    issuer = "" if form.error else form.text("issuer")
    # A service of one's own choice, or one where each customer has a host: it has to be said which.
    needs_issuer = provider.oauth is None or any(HOST in url for url in oauth.urls())
    named: dict[str, Any] = {
        # Each server has another one.
        "redirect_uri": visit.app.clients.redirect_uri(provider.name, issuer) if issuer or not needs_issuer else "",
        "issuer": issuer,
        "needs_issuer": needs_issuer,
        "may_register": bool(oauth.issuer or oauth.registration_url),
        "auths": AUTHS,
    }
    status = form.error.http_status if form.error else 200
    clients = await _clients(visit, provider)
    return visit.page("client.html", status=status, provider=provider, oauth=oauth, form=form, clients=clients, **named)


_COMPANY = "/companies/{company:uuid}"
_CONNECT = _COMPANY + "/integrations/connect/{provider}"

PAGES = [
    Page(f"{_CONNECT}/consent", show_consent, act_consent, permission=Permission.INTEGRATION_CONNECT),
    Page(f"{_CONNECT}/client", show_client, act_client, permission=Permission.PROVIDER_CONFIGURE),
    Page(f"{_CONNECT}/device/{{flow:uuid}}", show_device, act_device, permission=Permission.INTEGRATION_CONNECT),
    Page(f"{_COMPANY}/clients", show_clients, permission=Permission.INTEGRATION_CONNECT),
    Page(
        f"{_COMPANY}/clients/{{provider}}/delete",
        show_delete_client,
        act_delete_client,
        permission=Permission.PROVIDER_CONFIGURE,
    ),
    Page("/oauth/callback/{provider}", show_callback, for_anybody=True),
    Page("/oauth/callback/{provider}/{server}", show_callback, for_anybody=True),
]
