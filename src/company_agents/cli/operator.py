"""
company-agents operator …
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from company_agents.cli.command import Session, command
from company_agents.cli.options import SomeId
from company_agents.cli.terminal import Result
from company_agents.identity.permissions import Role

group = typer.Typer(name="operator", help="The people of this instance.", no_args_is_help=True)
token_group = typer.Typer(name="token", help="Tokens of people's programs.", no_args_is_help=True)
group.add_typer(token_group)


@command(group, "link")
async def link(
    session: Session,
    operator: Annotated[
        UUID | None, typer.Option("--operator", help="for a person who lost password or device; without: a new owner")
    ] = None,
) -> Result:
    """Make a sign-in link, good once and for 15 minutes."""
    token = await session.app.operators.link(session.principal, operator)
    url = f"{session.app.settings.url}/join?token={token.reveal_text()}"
    return Result({"url": url}, text=url)


@command(group, "list")
async def listing(session: Session) -> Result:
    """List the people."""
    people = await session.app.operators.list(session.principal)
    return Result({"items": people, "next": None}, columns=("id", "name", "instance_owner", "created_at"))


@command(token_group, "create")
async def token_create(
    session: Session,
    operator: Annotated[UUID, typer.Option("--operator", help="whose token it is to be")],
    name: Annotated[str, typer.Option("--name", help="what it is for")],
    days: Annotated[int, typer.Option("--days", help="how long it lives")] = 90,
    role: Annotated[Role, typer.Option("--role", help="the highest role that it may use")] = Role.OPERATOR,
) -> Result:
    """Make a token for a person's programs. It is shown this once."""
    made, token = await session.app.operators.create_token(session.principal, name, days, role, operator)
    return Result({"id": made.id, "name": made.name, "role": made.role, "ends_at": made.ends_at, "token": token})


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
