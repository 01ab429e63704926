"""
What the routes of webhooks take and give.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from company_agents.api.schemas import In, Out
from company_agents.outbox.events import KINDS
from company_agents.outbox.webhooks import MOST_URL, MOST_WEBHOOKS

Event = Annotated[str, Field(max_length=100, json_schema_extra={"enum": [*KINDS]})]


class NewWebhook(In):
    """An address, and the events that are sent to it."""

    url: Annotated[str, Field(min_length=1, max_length=MOST_URL)]
    events: Annotated[list[Event], Field(min_length=1, max_length=MOST_WEBHOOKS)]
    allow_private_network: bool = False


class WebhookOut(Out):
    """A webhook: everything but its secret."""

    id: UUID
    company_id: UUID
    url: str
    events: Sequence[str]
    status: Literal["enabled", "disabled"]
    status_reason: str
    status_since: datetime
    failing_since: datetime | None
    waiting: int
    previous_until: datetime | None
    created_at: datetime
    updated_at: datetime


class WebhookCreated(WebhookOut):
    """A new webhook with its signing secret: the only time that it is shown; null in a repeated answer."""

    secret: str | None
    replayed: bool


class WebhookSecret(Out):
    """A new signing secret: the only time that it is shown. The one before it signs beside it until then."""

    id: UUID
    secret: str
    previous_until: datetime | None


class DeliveryOut(Out):
    """An event for a webhook, and what became of it."""

    id: UUID
    message_id: str
    type: str
    state: Literal["waiting", "delivered", "given up"]
    attempts: int
    due_at: datetime
    tried_at: datetime | None
    answer: int | None
    error: str
    created_at: datetime


class SentOut(Out):
    """What was answered to a message."""

    delivered: bool
    answer: int | None
    error: str
