"""
What a page says of how an integration is used, and when a rotation is asked for.
"""

from __future__ import annotations

from dataclasses import replace

from tests.flows.conftest import Here


async def test_uses_that_lie_further_back_than_is_counted_are_said_to_be_missing(here: Here) -> None:
    integration = await here.connected(here.wanted(allow_all=True))
    for _ in range(3):
        await here.app.requests.request(here.tenant.agent, str(integration.id), "GET", "/api/me")
    whole = await here.app.looks.of(here.tenant.local, integration.id)
    assert (whole.uses[-1][1], whole.uses_partial) == (3, False)
    part = await replace(here.app.looks, most_events=3).of(here.tenant.local, integration.id)
    assert part.uses[-1][1] < 3
    assert part.uses_partial
