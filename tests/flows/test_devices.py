"""
The device flow: a code and a link, asked for until the person says yes, no, or nothing.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from company_agents.errors import CompanyAgentsError, Conflict, NotFound, Refused
from company_agents.integrations.devices import Waiting
from company_agents.integrations.integrations import Integration
from company_agents.integrations.oauth.model import Rejected
from tests.flows.conftest import Here
from tests.promises.evidence import connect_past, sql


async def begun(here: Here, **more: Any) -> Waiting:
    return await here.app.devices.begin(here.tenant.local, here.wanted(**more))


async def asked(here: Here, waiting: Waiting, **how: Any) -> Waiting | Integration:
    return await here.app.devices.poll(here.tenant.local, waiting.id, **how)


async def test_a_person_who_says_yes_elsewhere_connects_it(here: Here) -> None:
    waiting = await begun(here)
    assert waiting.link.startswith(f"{here.server.url}/device")
    still = await asked(here, waiting)
    assert isinstance(still, Waiting)
    assert (still.user_code, still.link) == (waiting.user_code, waiting.link)
    here.server.decide(waiting.user_code)
    integration = await asked(here, waiting)
    assert isinstance(integration, Integration)
    assert (integration.kind, integration.account) == ("consent", "ada")
    assert (await here.left())["secrets"] == [f"integration/{integration.id}/1"], "the device code was kept"
    with pytest.raises(Refused, match="not asked for any more"):
        await asked(here, waiting)


async def test_a_person_who_says_no_ends_it(here: Here) -> None:
    waiting = await begun(here)
    here.server.decide(waiting.user_code, approve=False)
    with pytest.raises(Rejected, match="denied"):
        await asked(here, waiting)
    with pytest.raises(Refused, match="not asked for any more"):
        await asked(here, waiting)
    assert await here.left() == {"secrets": [], "integrations": []}


async def test_what_is_not_waited_for_any_more_leaves_nothing(here: Here) -> None:
    waiting = await begun(here)
    await here.app.devices.cancel(here.tenant.local, waiting.id)
    here.server.decide(waiting.user_code)
    with pytest.raises(Refused, match="not asked for any more"):
        await asked(here, waiting)
    assert await here.left() == {"secrets": [], "integrations": []}


async def test_of_two_who_ask_at_once_one_connects_it(here: Here) -> None:
    waiting = await begun(here)
    here.server.decide(waiting.user_code)
    found = await asyncio.gather(*(asked(here, waiting) for _ in range(4)), return_exceptions=True)
    assert len([one for one in found if isinstance(one, Integration)]) == 1
    assert len([one for one in found if isinstance(one, Waiting)]) == 3
    assert len((await here.left())["integrations"]) == 1  # type: ignore[arg-type]


async def test_who_asks_while_another_waits_for_the_answer_does_not_end_it(here: Here) -> None:
    waiting = await begun(here)
    here.server.decide(waiting.user_code)
    here.server.misbehave("hold", on="/token")
    first = asyncio.create_task(asked(here, waiting))
    await asyncio.to_thread(here.server.wait_until_held)
    assert isinstance(await asked(here, waiting), Waiting)
    here.server.release()
    assert isinstance(await first, Integration)
    assert len(here.server.calls_to("/token")) == 1


async def test_an_error_that_says_nothing_of_the_code_leaves_it_good(here: Here) -> None:
    waiting = await begun(here)
    here.server.decide(waiting.user_code)
    here.server.misbehave("status", on="/token", status=400, body='{"error": "invalid_request"}')
    with pytest.raises(Rejected):
        await asked(here, waiting)
    assert isinstance(await asked(here, waiting), Integration)


async def test_a_flow_that_began_in_one_session_is_not_cancelled_by_another(here: Here) -> None:
    waiting = await here.app.devices.begin(here.tenant.local, here.wanted(), session_id=here.session)
    with pytest.raises(NotFound):
        await here.app.devices.cancel(here.tenant.local, waiting.id)
    assert isinstance(await asked(here, waiting, session_id=here.session), Waiting)
    await here.app.devices.cancel(here.tenant.local, waiting.id, session_id=here.session)
    with pytest.raises(Refused, match="not asked for any more"):
        await asked(here, waiting, session_id=here.session)


async def test_where_there_is_no_room_no_provider_is_asked(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("company_agents.integrations.open_flows.MOST_OPEN", 2)
    for _ in range(2):
        # What is used up counts until it is swept: else it would grow without end.
        await here.app.devices.cancel(here.tenant.local, (await begun(here)).id)
    before = len(here.server.calls)
    with pytest.raises(Conflict, match="too many"):
        await begun(here)
    assert len(here.server.calls) == before


async def test_what_was_begun_in_one_session_is_not_there_for_another(here: Here) -> None:
    waiting = await here.app.devices.begin(here.tenant.local, here.wanted(), session_id=here.session)
    for session in (None, uuid.uuid4()):
        with pytest.raises(NotFound):
            await asked(here, waiting, session_id=session)
    assert isinstance(await asked(here, waiting, session_id=here.session), Waiting)


async def test_what_was_begun_in_one_company_is_not_there_for_another(here: Here, tenant: Any) -> None:
    waiting, there = await begun(here), await tenant()
    with pytest.raises(NotFound):
        await here.app.devices.poll(there.local, waiting.id)


async def test_a_provider_that_is_busy_is_asked_again_later_and_slower(here: Here) -> None:
    waiting = await begun(here)
    here.server.misbehave("busy")
    slower = await asked(here, waiting, interval=2)
    assert isinstance(slower, Waiting)
    assert slower.interval == 4


async def test_a_consent_is_rotated_by_the_device_flow(here: Here) -> None:
    integration = await here.connected()
    waiting = await begun(here, integration_id=integration.id)
    here.server.decide(waiting.user_code)
    rotated = await asked(here, waiting)
    assert isinstance(rotated, Integration)
    assert (rotated.id, rotated.version) == (integration.id, 2)


async def test_what_a_code_gave_is_revoked_where_it_cannot_be_used_up_here(here: Here) -> None:
    waiting = await begun(here)
    here.server.decide(waiting.user_code)
    here.server.misbehave("hold", on="/token")
    first = asyncio.create_task(asked(here, waiting))
    await asyncio.to_thread(here.server.wait_until_held)
    async with await connect_past(here.app, "postgres") as superuser:
        await sql(superuser, "ALTER TABLE oauth_flows ADD CONSTRAINT stays CHECK (used_at IS NULL) NOT VALID")
        try:
            here.server.release()
            with pytest.raises(CompanyAgentsError):
                await first
        finally:
            await sql(superuser, "ALTER TABLE oauth_flows DROP CONSTRAINT stays")
    assert [token for token in here.server.state.by_access if here.server.is_good(token)] == []
    assert len(await here.events("consent.not_kept")) == 1
    assert await here.events("consent.given") == []
