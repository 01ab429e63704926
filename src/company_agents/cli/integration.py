"""
company-agents integration …
"""

from __future__ import annotations

import dataclasses
from typing import Annotated
from uuid import UUID

import typer

from company_agents.cli import consents
from company_agents.cli.command import Session, command, noun, read_secret
from company_agents.cli.consents import Flow, Installation, Issuer, OAuthSwitch, Scopes
from company_agents.cli.options import After, AgentId, CompanyId, Limit, SomeId, TokenStdin, a_number, an_id
from company_agents.cli.rules import Ask, Only, PerMinute, said
from company_agents.cli.terminal import Result
from company_agents.errors import WrongUsage


def _days(given: str | int) -> int:
    # 0 stands for never: None would be an option that is missing.
    return 0 if given == "never" else a_number(1, 3650)(str(given))


group = noun("integration", "A company's connections to providers.")


@command(group, "connect")
async def connect(
    session: Session,
    provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="its name; `provider list` shows them")],
    company: CompanyId,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="what it is called; else like the provider")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option("--base-url", metavar="URL", help="another scheme, host and port")
    ] = None,
    allow_private_network: Annotated[
        bool, typer.Option("--allow-private-network", help="the host may be in a private network, or this machine")
    ] = False,
    header: Annotated[
        str | None, typer.Option("--header", metavar="NAME", help="generic: the header that the token goes into")
    ] = None,
    allow: Annotated[
        list[UUID] | None,
        typer.Option("--allow", parser=an_id, metavar="ID", help="an agent that may use it; can be repeated"),
    ] = None,
    allow_all: Annotated[bool, typer.Option("--allow-all", help="every agent of the company may use it")] = False,
    only: Only = None,
    ask: Ask = None,
    per_minute: PerMinute = None,
    token_stdin: TokenStdin = False,
    oauth: OAuthSwitch = False,
    issuer: Issuer = None,
    scope: Scopes = None,
    installation: Installation = None,
    flow: Flow = None,
) -> Result:
    """Connect a provider by API token, or by consent. It is tried at the provider, and then sealed."""
    rules = said(only, ask, per_minute)
    caller = await session.company(company)
    session.app.providers.get(provider)
    if oauth:
        if token_stdin:
            raise WrongUsage("it is connected by token or by consent", hint="give --token-stdin or --oauth")
        from company_agents.integrations.wanted import Wanted

        wanted = Wanted(
            provider,
            issuer=issuer or "",
            name=name,
            base_url=base_url,
            allow_private=allow_private_network,
            header=header,
            scopes=tuple(scope or ()),
            allow=tuple(allow or ()),
            allow_all=allow_all,
            installation=installation,
            rules=rules,
        )
        return Result(await consents.connected(session, caller, wanted, flow))
    if issuer or scope or installation or flow:
        raise WrongUsage("these words are for a consent", hint="give --oauth with them")
    return Result(
        await session.app.integrations.connect(
            caller,
            provider,
            read_secret(from_stdin=token_stdin, prompt=f"token for {provider}"),
            name=name,
            base_url=base_url,
            allow_private_network=allow_private_network,
            header=header,
            allow=allow or (),
            allow_all=allow_all,
            rules=rules,
        )
    )


@command(group, "list")
async def listing(session: Session, company: CompanyId, after: After = None, limit: Limit = 50) -> Result:
    """List the integrations of a company."""
    page = await session.app.integrations.list(await session.company(company), after, limit)
    return Result(page, columns=("id", "name", "provider", "status", "destination", "last_used_at"))


@command(group, "show")
async def show(session: Session, id: SomeId) -> Result:
    """Show an integration: everything but the credential. Rules; and of each version, how many runs hold it."""
    caller = await session.company_of("integration", id)
    integration = await session.app.integrations.get(caller, id)
    versions = await session.app.integrations.versions.list(caller.scope, id)
    rules = dataclasses.asdict(await session.app.rulebook.get(caller, id))
    said_of_all = {name: rules[name] for name in ("only", "ask", "per_minute")}
    return Result({**dataclasses.asdict(integration), **said_of_all, "rules": rules["agents"], "versions": versions})


@command(group, "allow")
async def allow(
    session: Session, id: SomeId, agent: AgentId, only: Only = None, ask: Ask = None, per_minute: PerMinute = None
) -> Result:
    """Let an agent use an integration. Rules are for this agent alone; said again, what is not said stays."""
    rules = said(only, ask, per_minute)
    return Result(await session.app.integrations.allow(await session.company_of("integration", id), id, agent, rules))


@command(group, "rules")
async def rules(
    session: Session, id: SomeId, only: Only = None, ask: Ask = None, per_minute: PerMinute = None
) -> Result:
    """
    Show what agents may call and what a person approves first, or set it. It counts for all agents, as far as nothing is said
    of one by itself.
    """
    given = said(only, ask, per_minute)
    caller = await session.company_of("integration", id)
    return Result(await session.app.rulebook.set(caller, id, given))


@command(group, "disallow")
async def disallow(session: Session, id: SomeId, agent: AgentId) -> Result:
    """No longer let an agent use an integration."""
    return Result(await session.app.integrations.disallow(await session.company_of("integration", id), id, agent))


@command(group, "check")
async def check(session: Session, id: SomeId) -> Result:
    """Try the credential at the provider now."""
    return Result(await session.app.integrations.check(await session.company_of("integration", id), id))


@command(group, "rotate")
async def rotate(session: Session, id: SomeId, token_stdin: TokenStdin = False, scope: Scopes = None) -> Result:
    """
    Replace the credential: a consent by a new one, a token by one that is given. It is tried first; if the provider
    refuses it, the old one stays.
    """
    caller = await session.company_of("integration", id)
    integration = await session.app.integrations.get(caller, id)
    if integration.kind == "consent" and not token_stdin:
        from company_agents.integrations.wanted import Wanted

        wanted = Wanted(integration.provider, integration_id=id, scopes=tuple(scope or ()))
        return Result(await consents.rotated(session, caller, id, wanted))
    token = read_secret(from_stdin=token_stdin, prompt="the new token")
    return Result(await session.app.integrations.rotate(caller, id, token))


@command(group, "remind")
async def remind(
    session: Session,
    id: SomeId,
    days: Annotated[
        int, typer.Option("--days", parser=_days, metavar="N|never", help="days after the last rotation, or never")
    ],
) -> Result:
    """Ask for a rotation so many days after the last one."""
    return Result(await session.app.looks.remind(await session.company_of("integration", id), id, days or None))


@command(group, "delete")
async def delete(
    session: Session,
    id: SomeId,
    keep_consent: Annotated[
        bool, typer.Option("--keep-consent", help="leave a consent as it is at the provider")
    ] = False,
) -> Result:
    """Delete an integration and its credential. A consent is revoked at the provider first, where it has a way."""
    caller = await session.company_of("integration", id)
    await session.app.revocation.delete(caller, id, keep_consent=keep_consent)
    return Result({"id": id, "deleted": True})
