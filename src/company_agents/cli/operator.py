"""
company-agents operator …
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from company_agents.cli.command import Session, command, noun
from company_agents.cli.options import SomeId, a_number, an_id
from company_agents.cli.terminal import Result
from company_agents.identity.permissions import Role

group = noun("operator", "The people of this instance.")
token_group = noun("token", "Tokens of people's programs.")
group.add_typer(token_group)


def a_role(text: str) -> Role:
    """
    Raises:
        BadParameter: there is no such role.
    """
    try:
        return Role(text)
    except ValueError:
        raise typer.BadParameter("this is none of viewer, operator, owner") from None


@command(group, "link")
async def link(
    session: Session,
    operator: Annotated[
        UUID | None,
        typer.Option(
            "--operator",
            parser=an_id,
            metavar="ID",
            help="for a person who lost password or device; else for a new owner",
        ),
    ] = None,
) -> Result:
    """Make a sign-in link, good once and for 15 minutes."""
    token = await session.app.operators.link(session.principal, operator)
    address = session.app.settings.url
    url = f"{address}/join?token={token.reveal_text()}"
    return Result({"url": url}, text=url, note="it is good once, and for 15 minutes")


@command(group, "list")
async def listing(session: Session) -> Result:
    """List the people."""
    people = await session.app.operators.list(session.principal)
    columns = ("id", "name", "instance_owner", "created_at", "disabled_at")
    return Result({"items": people, "next": None}, columns=columns)


@command(group, "disable")
async def disable(session: Session, id: SomeId) -> Result:
    """Refuse a person's password, sessions and tokens until they are enabled."""
    person = await session.app.operators.disable(session.principal, id)
    return Result(person, note="their sessions are ended, and all open sign-in links are void")


@command(group, "enable")
async def enable(session: Session, id: SomeId) -> Result:
    """Take a disabled person's password and tokens again."""
    return Result(await session.app.operators.enable(session.principal, id))


@command(token_group, "create")
async def token_create(
    session: Session,
    operator: Annotated[UUID, typer.Option("--operator", parser=an_id, metavar="ID", help="whose token it is to be")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="what it is for")],
    days: Annotated[int, typer.Option("--days", parser=a_number(1, 365), metavar="N", help="how long it lives")] = 90,
    role: Annotated[
        Role,
        typer.Option(
            "--role", parser=a_role, metavar="ROLE", help="viewer, operator or owner: the highest that it may use"
        ),
    ] = Role.OPERATOR,
) -> Result:
    """Make a token for a person's programs. It is shown this once."""
    made, token = await session.app.operators.create_token(session.principal, name, days, role, operator)
    data = {"id": made.id, "name": made.name, "role": made.role, "ends_at": made.ends_at, "token": token}
    return Result(data, note="the token is shown this once")


@command(token_group, "list")
async def token_list(session: Session) -> Result:
    """List the tokens of people's programs, without their values."""
    tokens = await session.app.operators.tokens(session.principal)
    columns = ("id", "name", "operator_id", "role", "ends_at", "revoked_at", "last_used_at")
    return Result({"items": tokens, "next": None}, columns=columns)


@command(token_group, "revoke")
async def token_revoke(session: Session, id: SomeId) -> Result:
    """Refuse a token from now on."""
    await session.app.operators.revoke_token(session.principal, id)
    return Result({"id": id, "revoked": True})
