"""
Company → Webhooks: where its events are sent to, what became of them, and the signing secret.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from company_agents.dashboard.forms import Form
from company_agents.dashboard.visit import Page, Visit, go
from company_agents.errors import CompanyAgentsError, Conflict, WrongUsage
from company_agents.identity.permissions import Permission
from company_agents.outbox.events import KINDS
from company_agents.outbox.webhooks import Webhook
from company_agents.sensitive import Sensitive


async def show_list(visit: Visit) -> Response:
    """Every webhook of the company, and how it is."""
    webhooks = await visit.app.outbox.webhooks.list(visit.caller, after=visit.query("after"))
    return visit.page("webhooks.html", webhooks=webhooks)


async def show_one(visit: Visit) -> Response:
    """One webhook, and what became of the newest events."""
    webhook = await _webhook(visit)
    deliveries = await visit.app.outbox.webhooks.deliveries(visit.caller, webhook.id, 30)
    return visit.page("webhook.html", webhook=webhook, deliveries=deliveries, kinds=KINDS)


async def show_new(visit: Visit) -> Response:
    """The form."""
    return visit.page("webhook_new.html", form=Form({"event": list(KINDS)}), kinds=KINDS)


async def act_new(visit: Visit) -> Response:
    """Register it, and show its secret, this once."""
    form = await visit.form()
    try:
        webhook, secret = await visit.app.outbox.webhooks.create(
            visit.caller,
            form.text("url"),
            form.all("event"),
            allow_private_network=form.has("private_network"),
        )
    except CompanyAgentsError as error:
        if isinstance(error, WrongUsage) and form.all("event"):
            form.failed_at = "url"
        return visit.again("webhook_new.html", form, error, kinds=KINDS)
    return _secret_page(visit, webhook, secret, new=True)


async def show_rotate(visit: Visit) -> Response:
    """What a new secret means."""
    webhook = await _webhook(visit)
    return visit.page("webhook_rotate.html", webhook=webhook, seen=webhook.updated_at.isoformat())


async def act_rotate(visit: Visit) -> Response:
    """Give it a new secret, and show that, this once."""
    webhook = await _webhook(visit)
    form = await visit.form()
    seen: dict[str, Any] = {"webhook": webhook, "seen": webhook.updated_at.isoformat()}
    try:
        # The page with the secret is the answer to this very form: loaded again, it would be sent again.
        if form.text("seen") != seen["seen"]:
            raise Conflict("this webhook was changed a moment ago", hint="rotate again if you do not have its secret")
        webhook, secret = await visit.app.outbox.webhooks.rotate_secret(visit.caller, webhook.id)
    except CompanyAgentsError as error:
        return visit.again("webhook_rotate.html", form, error, **seen)
    return _secret_page(visit, webhook, secret, new=False)


async def act_test(visit: Visit) -> Response:
    """Send a message now."""
    webhook = await _webhook(visit)
    sent = await visit.app.outbox.webhooks.test(visit.caller, webhook.id)
    return go(_path(visit, webhook), done="webhook-tested" if sent.delivered else "webhook-failed")


async def act_enable(visit: Visit) -> Response:
    """Send to it again."""
    webhook = await visit.app.outbox.webhooks.enable(visit.caller, visit.id("webhook"))
    return go(_path(visit, webhook), done="webhook-enabled")


async def show_delete(visit: Visit) -> Response:
    """What deleting means."""
    return visit.page("webhook_delete.html", webhook=await _webhook(visit))


async def act_delete(visit: Visit) -> Response:
    """Delete it."""
    await visit.app.outbox.webhooks.delete(visit.caller, visit.id("webhook"))
    return go(f"{visit.home}/webhooks", done="webhook-deleted")


def _secret_page(visit: Visit, webhook: Webhook, secret: Sensitive, *, new: bool) -> Response:
    # The one place where it is revealed. No redirect: a page that could be asked for again would need it to be kept.
    return visit.page("webhook_secret.html", webhook=webhook, secret=secret.reveal_text(), new=new)


async def _webhook(visit: Visit) -> Webhook:
    return await visit.app.outbox.webhooks.get(visit.caller, visit.id("webhook"))


def _path(visit: Visit, webhook: Webhook) -> str:
    return f"{visit.home}/webhooks/{webhook.id}"


_ALL = "/companies/{company:uuid}/webhooks"
_ONE = _ALL + "/{webhook:uuid}"

PAGES = [
    Page(_ALL, show_list, permission=Permission.WEBHOOK_READ),
    Page(f"{_ALL}/new", show_new, act_new, permission=Permission.WEBHOOK_MANAGE),
    Page(_ONE, show_one, permission=Permission.WEBHOOK_READ),
    Page(f"{_ONE}/rotate-secret", show_rotate, act_rotate, permission=Permission.WEBHOOK_MANAGE),
    Page(f"{_ONE}/test", act=act_test, permission=Permission.WEBHOOK_MANAGE),
    Page(f"{_ONE}/enable", act=act_enable, permission=Permission.WEBHOOK_MANAGE),
    Page(f"{_ONE}/delete", show_delete, act_delete, permission=Permission.WEBHOOK_MANAGE),
]
