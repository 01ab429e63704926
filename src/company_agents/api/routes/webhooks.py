"""
Webhooks: where a company's events are sent to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from company_agents.api.callers import GuardedRoute, InCompany, Parts
from company_agents.api.fields import Id
from company_agents.api.idempotency import Creating
from company_agents.api.paging import After, Limit
from company_agents.api.schemas import PageOf
from company_agents.api.webhook_schemas import (
    DeliveryOut,
    NewWebhook,
    SentOut,
    WebhookCreated,
    WebhookOut,
    WebhookSecret,
)
from company_agents.identity.paging import Page
from company_agents.outbox.sending import Sent
from company_agents.outbox.webhooks import Attempted, Webhook

router = APIRouter(prefix="/v1/companies/{cid}/webhooks", tags=["webhooks"], route_class=GuardedRoute)


@router.get("", response_model=PageOf[WebhookOut], operation_id="listWebhooks", summary="The webhooks, oldest first")
async def list_webhooks(parts: Parts, caller: InCompany, after: After = None, limit: Limit = 50) -> Page[Webhook]:
    return await parts.outbox.webhooks.list(caller, after, limit)


@router.post(
    "",
    status_code=201,
    response_model=WebhookCreated,
    operation_id="createWebhook",
    summary="Register an address for events from now on; its signing secret is shown this once",
)
async def create_webhook(parts: Parts, caller: InCompany, body: NewWebhook, creation: Creating) -> Response:
    async def create() -> BaseModel:
        webhook, secret = await parts.outbox.webhooks.create(
            caller, body.url, body.events, allow_private_network=body.allow_private_network
        )
        shown = WebhookOut.model_validate(webhook)
        return WebhookCreated(**shown.model_dump(), secret=secret.reveal_text(), replayed=False)

    return await creation.answered(caller.scope, caller.label, body, create)


@router.get("/{webhook_id}", response_model=WebhookOut, operation_id="getWebhook", summary="One webhook")
async def get_webhook(parts: Parts, caller: InCompany, webhook_id: Id) -> Webhook:
    return await parts.outbox.webhooks.get(caller, webhook_id)


@router.get(
    "/{webhook_id}/deliveries",
    response_model=PageOf[DeliveryOut],
    operation_id="listDeliveries",
    summary="The newest events for a webhook, and what became of each",
)
async def list_deliveries(parts: Parts, caller: InCompany, webhook_id: Id, limit: Limit = 20) -> dict[str, Any]:
    items: Sequence[Attempted] = await parts.outbox.webhooks.deliveries(caller, webhook_id, limit)
    return {"items": items, "next": None}


@router.post(
    "/{webhook_id}/rotate-secret",
    response_model=WebhookSecret,
    operation_id="rotateWebhookSecret",
    summary="A new signing secret, shown this once; the old one signs beside it for 24 hours",
)
async def rotate_webhook_secret(parts: Parts, caller: InCompany, webhook_id: Id) -> WebhookSecret:
    webhook, secret = await parts.outbox.webhooks.rotate_secret(caller, webhook_id)
    return WebhookSecret(id=webhook.id, secret=secret.reveal_text(), previous_until=webhook.previous_until)


@router.post(
    "/{webhook_id}/test",
    response_model=SentOut,
    operation_id="testWebhook",
    summary="Send a signed message now, once, and say what was answered",
)
async def test_webhook(parts: Parts, caller: InCompany, webhook_id: Id) -> Sent:
    return await parts.outbox.webhooks.test(caller, webhook_id)


@router.post(
    "/{webhook_id}/enable",
    response_model=WebhookOut,
    operation_id="enableWebhook",
    summary="Send again to one that was disabled: what waits, and what happened meanwhile",
)
async def enable_webhook(parts: Parts, caller: InCompany, webhook_id: Id) -> Webhook:
    return await parts.outbox.webhooks.enable(caller, webhook_id)


@router.delete("/{webhook_id}", status_code=204, operation_id="deleteWebhook", summary="Delete it with its secret")
async def delete_webhook(parts: Parts, caller: InCompany, webhook_id: Id) -> None:
    await parts.outbox.webhooks.delete(caller, webhook_id)
