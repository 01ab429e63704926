"""
Consents on the command line: what the company is to a provider, and the flows that need no browser here.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from company_agents.cli import terminal
from company_agents.cli.command import Session, command, read_secret
from company_agents.cli.options import CompanyId
from company_agents.cli.terminal import Result
from company_agents.errors import CompanyAgentsError, Refused, WrongUsage

if TYPE_CHECKING:
    from company_agents.identity.principal import Caller
    from company_agents.integrations.integrations import Integration
    from company_agents.integrations.provider import Provider
    from company_agents.integrations.wanted import Wanted

ProviderName = Annotated[str, typer.Argument(metavar="NAME", help="its name; `provider list` shows them")]
Issuer = Annotated[
    str | None, typer.Option("--issuer", metavar="URL", help="an authorization server in place of the provider's own")
]
OAuthSwitch = Annotated[bool, typer.Option("--oauth", help="by consent, and not by token")]
Flow = Annotated[
    str | None, typer.Option("--flow", metavar="FLOW", help="with --oauth: device, client, github_app or code")
]
Scopes = Annotated[
    list[str] | None,
    typer.Option(
        "--scope", metavar="SCOPE", help="with --oauth: ask for this; can be repeated. Default: the provider's"
    ),
]
Installation = Annotated[
    str | None, typer.Option("--installation", metavar="ID", help="with --oauth: the installation of a GitHub App")
]


def register(group: typer.Typer) -> None:
    """Add what is about clients to the commands of `provider`."""
    command(group, "configure")(configure)
    command(group, "configured")(configured)
    command(group, "forget")(forget)


async def configure(
    session: Session,
    name: ProviderName,
    company: CompanyId,
    client_id: Annotated[str | None, typer.Option("--client-id", metavar="ID", help="as the provider gave it")] = None,
    client_secret_stdin: Annotated[
        bool,
        typer.Option(
            "--client-secret-stdin", help="read the client's secret from standard input; else it is asked for"
        ),
    ] = False,
    private_key_stdin: Annotated[
        bool,
        typer.Option("--private-key-stdin", help="read a private key (PEM) from standard input, for private_key_jwt"),
    ] = False,
    issuer: Issuer = None,
    auth: Annotated[
        str | None,
        typer.Option("--auth", metavar="WAY", help="basic, post, private_key_jwt, or none: a public client"),
    ] = None,
    key_id: Annotated[
        str | None, typer.Option("--key-id", metavar="ID", help="for private_key_jwt, where the provider gave one")
    ] = None,
    allow_private_network: Annotated[
        bool, typer.Option("--allow-private-network", help="the issuer may be in a private network, or this machine")
    ] = False,
    register: Annotated[
        bool, typer.Option("--register", help="let the server register a client, where it does that")
    ] = False,
) -> Result:
    """Say what the company is to a provider. The client's secret is sealed with the endpoints that it may go to."""
    caller = await session.company(company)
    session.app.providers.get(name)
    if client_secret_stdin and private_key_stdin:
        raise WrongUsage("a client has a secret or a private key", hint="give one of the two")
    if private_key_stdin:
        auth = auth or "private_key_jwt"
    secret = None
    if not register and client_id is not None and auth != "none":
        what, option = (
            ("private key", "--private-key-stdin") if private_key_stdin else ("client secret", "--client-secret-stdin")
        )
        secret = read_secret(
            from_stdin=client_secret_stdin or private_key_stdin,
            prompt=f"{what} for {name}",
            what=f"the {what}",
            option=option,
        )
    client = await session.app.clients.configure(
        caller,
        name,
        client_id=client_id,
        secret=secret,
        issuer=issuer or "",
        auth=auth,
        key_id=key_id,
        allow_private=allow_private_network,
        register=register,
    )
    return Result(client)


async def configured(session: Session, company: CompanyId) -> Result:
    """List what a company is to its providers: everything but the secrets."""
    items = await session.app.clients.list(await session.company(company))
    return Result(
        {"items": items, "next": None},
        columns=("provider", "issuer", "client_id", "auth", "redirect_uri", "updated_at"),
    )


async def forget(session: Session, name: ProviderName, company: CompanyId, issuer: Issuer = None) -> Result:
    """Delete a client and its secret. What was consented to through it is not refreshed any more."""
    await session.app.clients.delete(await session.company(company), name, issuer or "")
    return Result({"provider": name, "issuer": issuer or "", "deleted": True})


async def connected(session: Session, caller: Caller, wanted: Wanted, flow: str | None) -> Integration:
    """
    By consent: at once where nobody is asked, else with a code and a link, and waiting.

    Raises:
        Refused: it takes a browser that is signed in here; the hint has the address.
    """
    from company_agents.integrations.clients import with_oauth

    provider, oauth = with_oauth(session.app.providers.get(wanted.provider), wanted.issuer)
    flow = flow or _usual(oauth.flows, wanted)
    home = f"{session.app.settings.url}/companies/{caller.scope.company_id}/integrations"
    if flow == "code":
        there = (
            f"{home}/{wanted.integration_id}/rotate"
            if wanted.integration_id
            else f"{home}/connect/{provider.name}/consent"
        )
        raise Refused(
            f"{provider.title} asks for consent in a browser that is signed in here",
            hint=f"go on at {there}",
            code="needs_browser",
        )
    if wanted.integration_id is not None:
        _say_before(session, provider)
    if flow == "device":
        return await _by_device(session, caller, wanted)
    return await session.app.flows.at_once(caller, wanted, flow)


async def rotated(session: Session, caller: Caller, integration_id: UUID, wanted: Wanted) -> Integration:
    """A new consent in the place of the present one: by the same flow, or by the device flow where that took a browser."""
    from company_agents.integrations.credential import CredentialLost

    flow = None
    with contextlib.suppress(CredentialLost):
        present = await session.app.integrations.present(caller, integration_id)
        flow = present.consent.flow if present.consent else None
    return await connected(session, caller, wanted, None if flow == "code" else flow)


def _usual(flows: tuple[str, ...], wanted: Wanted) -> str:
    if wanted.installation and "github_app" in flows:
        return "github_app"
    # The client's own rights are another thing than a person's: not unless they are all there is.
    return next(flow for flow in ("device", "code", "client", "github_app") if flow in flows)


def _say_before(session: Session, provider: Provider) -> None:
    if provider.oauth is None or not provider.oauth.one_consent:
        return
    said = f"the present consent ends at {provider.title} with the new one, and runs that hold it go on with that"
    if session.json:
        terminal.progress_line({"step": "before", "message": said})
    else:
        terminal.note(said)


async def _by_device(session: Session, caller: Caller, wanted: Wanted) -> Integration:
    from company_agents.integrations.devices import Waiting

    devices = session.app.devices
    found: Waiting | Integration = await devices.begin(caller, wanted)
    assert isinstance(found, Waiting)
    flow_id = found.id
    if session.json:
        shown = {"link": found.link, "user_code": found.user_code, "ends_at": found.ends_at}
        terminal.progress_line({"step": "consent", **shown})
    else:
        terminal.note(f"open {found.link}\nand type {found.user_code}")
    try:
        while isinstance(found, Waiting):
            await asyncio.sleep(found.interval)
            found = await devices.poll(caller, flow_id, interval=found.interval)
    except (asyncio.CancelledError, CompanyAgentsError):
        # Ctrl-C, or an error: nobody waits for this consent any more, and it is not to lie around.
        with contextlib.suppress(CompanyAgentsError):
            await devices.cancel(caller, flow_id)
        raise
    return found
