"""
company-agents webhook …
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from company_agents.cli.command import Session, command, noun
from company_agents.cli.options import After, CompanyId, Limit, SomeId
from company_agents.cli.terminal import Result
from company_agents.errors import Exit

if TYPE_CHECKING:
    from company_agents.identity.principal import Caller
    from company_agents.outbox.webhooks import Attempted

group = noun("webhook", "Where a company's events are sent to.")


@command(group, "create")
async def create(
    session: Session,
    url: Annotated[str, typer.Argument(metavar="URL", help="https://…; http:// only to private networks")],
    company: CompanyId,
    event: Annotated[
        list[str] | None, typer.Option("--event", metavar="EVENT", help="an event that is sent; can be repeated")
    ] = None,
    allow_private_network: Annotated[
        bool, typer.Option("--allow-private-network", help="the host may be in a private network, or this machine")
    ] = False,
) -> Result:
    """Register an address for events from now on. Its signing secret is printed this once."""
    webhook, secret = await session.app.outbox.webhooks.create(
        await session.company(company), url, event or (), allow_private_network=allow_private_network
    )
    data = {"id": webhook.id, "url": webhook.url, "events": webhook.events, "secret": secret}
    return Result(data, note="the secret is shown this once; the receiver verifies with it")


@command(group, "list")
async def listing(session: Session, company: CompanyId, after: After = None, limit: Limit = 50) -> Result:
    """List the webhooks of a company."""
    page = await session.app.outbox.webhooks.list(await session.company(company), after, limit)
    return Result(page, columns=("id", "url", "events", "status", "waiting"))


@command(group, "show")
async def show(session: Session, id: SomeId) -> Result:
    """Show a webhook, and what became of the newest events: everything but the secret."""
    caller = await _caller(session, id)
    webhook = await session.app.outbox.webhooks.get(caller, id)
    deliveries = await session.app.outbox.webhooks.deliveries(caller, id)
    told = [f"{each.type} {each.state}, {_result(each)}" for each in deliveries]
    return Result({**dataclasses.asdict(webhook), "deliveries": deliveries if session.json else told})


@command(group, "rotate-secret")
async def rotate_secret(session: Session, id: SomeId) -> Result:
    """Give a webhook a new signing secret, printed this once. The old one signs beside it for 24 hours."""
    webhook, secret = await session.app.outbox.webhooks.rotate_secret(await _caller(session, id), id)
    data = {"id": webhook.id, "secret": secret, "previous_until": webhook.previous_until}
    return Result(data, note="the secret is shown this once; the receiver verifies with it")


@command(group, "test")
async def test(session: Session, id: SomeId) -> Result:
    """Send a signed message now, and say what was answered."""
    sent = await session.app.outbox.webhooks.test(await _caller(session, id), id)
    data = {"id": id, "delivered": sent.delivered, "answer": sent.answer, "error": sent.error}
    return Result(data, exit_status=Exit.DONE if sent.delivered else Exit.FAILED)


@command(group, "enable")
async def enable(session: Session, id: SomeId) -> Result:
    """Send again to a webhook that was disabled: what waits, and what happened meanwhile."""
    return Result(await session.app.outbox.webhooks.enable(await _caller(session, id), id))


@command(group, "delete")
async def delete(session: Session, id: SomeId) -> Result:
    """Delete a webhook and its secret."""
    await session.app.outbox.webhooks.delete(await _caller(session, id), id)
    return Result({"id": id, "deleted": True})


def _result(each: Attempted) -> str:
    return each.error or (f"HTTP {each.answer}" if each.answer else "not tried yet")


async def _caller(session: Session, webhook_id: UUID) -> Caller:
    """In the name of a webhook's company."""
    return await session.company(await session.app.outbox.webhooks.company_of(webhook_id))
