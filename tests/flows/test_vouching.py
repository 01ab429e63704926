"""
A provider that nothing is tried at: the server that gave a consent says whether it is good.
"""

from __future__ import annotations

import pytest

from company_agents.errors import ProbeFailed, Unavailable
from company_agents.integrations.integrations import Integration
from tests.flows.conftest import SECRET, Here, configure


async def anywhere(here: Here) -> Integration:
    """Any service, which has no probe."""
    here.server.add_client(
        "client-1", SECRET, redirect_uris=[here.app.clients.redirect_uri("generic", here.server.url)]
    )
    await configure(here.app, here.tenant, "generic", here.server)
    wanted = here.wanted(provider="generic", scopes=("read",))
    return await here.finish(await here.asked(wanted), provider="generic")


async def test_a_consent_that_its_server_no_longer_knows_needs_attention(here: Here) -> None:
    integration = await anywhere(here)
    assert (await here.app.integrations.check(here.tenant.local, integration.id)).status == "connected"
    present = await here.app.integrations.present(here.tenant.local, integration.id)
    here.server.kill(present.token.reveal_text())
    checked = await here.app.integrations.check(here.tenant.local, integration.id)
    assert checked.status == "needs attention"
    assert "not good any more" in checked.status_reason
    opened = [event for event in await here.events("credential.begun") if event.get("purpose") == "introspect"]
    assert len(opened) == 2


async def test_a_server_that_does_not_answer_changes_no_status(here: Here) -> None:
    integration = await anywhere(here)
    here.server.misbehave("status", on="/introspect", status=503, times=9)
    with pytest.raises(Unavailable):
        await here.app.integrations.check(here.tenant.local, integration.id)
    assert (await here.app.integrations.get(here.tenant.local, integration.id)).status == "connected"


async def test_a_server_that_does_not_tell_this_client_says_nothing(here: Here) -> None:
    integration = await anywhere(here)
    here.server.misbehave("status", on="/introspect", status=403, body='{"error": "access_denied"}', times=9)
    assert (await here.app.integrations.check(here.tenant.local, integration.id)).status == "connected"


async def test_a_consent_that_is_not_good_to_begin_with_is_not_kept(here: Here) -> None:
    here.server.misbehave("replace", on="/introspect", status=200, body='{"active": false}')
    with pytest.raises(ProbeFailed, match="not good any more"):
        await anywhere(here)
    assert (await here.left())["integrations"] == []


async def test_where_there_is_a_probe_nobody_else_is_asked(here: Here) -> None:
    integration = await here.connected()
    await here.app.integrations.check(here.tenant.local, integration.id)
    assert here.server.calls_to("/introspect") == []
