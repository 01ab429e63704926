"""
The audit log of a company, and that of the instance.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from starlette.responses import Response

from company_agents.dashboard.forms import number
from company_agents.dashboard.named import events_of
from company_agents.dashboard.visit import Page, Visit
from company_agents.dashboard.words import FILTERS, INSTANCE_FILTERS
from company_agents.identity.permissions import Permission

ON_A_PAGE = 50
# How far one request looks back for events that fit the filter; the link to older ones goes on from there.
MOST_LOOKED_AT = 5000
_BATCH = 1000


async def show_events(visit: Visit) -> Response:
    """The newest events first, those of one kind if asked for."""
    prefix = visit.query("kind") or ""
    filters = FILTERS if visit.company else INSTANCE_FILTERS
    if prefix not in filters:
        prefix = ""
    found, older = await _matching(visit, prefix, number(visit.query("before")))
    return visit.page(
        "audit.html", events=await events_of(visit, found), older=older, filters=filters, kind=prefix, base=_base(visit)
    )


async def _matching(visit: Visit, prefix: str, before: int | None) -> tuple[list[dict[str, Any]], int | None]:
    """A page of events with a prefix, and where the older ones begin (None: there are none)."""
    matching: list[dict[str, Any]] = []
    looked_at = 0
    batch_size = _BATCH if prefix else ON_A_PAGE
    while looked_at < MOST_LOOKED_AT:
        batch = await visit.app.events.newest(_chain(visit), limit=batch_size, before=before)
        for event in batch:
            looked_at, before = looked_at + 1, event["seq"]
            if event["action"].startswith(prefix):
                matching.append(event)
            if len(matching) == ON_A_PAGE:
                return matching, _older(before)
        if len(batch) < batch_size:
            return matching, None
    return matching, _older(before)


def _older(before: int | None) -> int | None:
    return before if before is not None and before > 1 else None


async def show_verified(visit: Visit) -> Response:
    """Prove the chain, from its first event."""
    verified = await visit.app.events.verify(_chain(visit))
    return visit.page("audit_verified.html", verified=verified, base=_base(visit))


def _chain(visit: Visit) -> UUID | None:
    return visit.caller.scope.company_id if visit.company else None


def _base(visit: Visit) -> str:
    return f"{visit.home}/audit" if visit.company else "/audit"


_COMPANY = "/companies/{company:uuid}/audit"

# Verifying reads and changes nothing, so it is a GET, if a slow one.
PAGES = [
    Page(_COMPANY, show_events, permission=Permission.AUDIT_READ),
    Page(f"{_COMPANY}/verify", show_verified, permission=Permission.AUDIT_READ),
    Page("/audit", show_events, permission=Permission.INSTANCE_AUDIT),
    Page("/audit/verify", show_verified, permission=Permission.INSTANCE_AUDIT),
]
