"""
Consents that end at their provider: with the last that needs them, and when a person says so.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from company_agents.audit.log import AuditLog
from company_agents.errors import CompanyAgentsError, Conflict, ProbeFailed, Refused, Unavailable
from company_agents.integrations.oauth.model import Rejected
from company_agents.integrations.provider import Provider
from company_agents.sensitive import Sensitive
from tests.flows.conftest import SECRET, Here
from tests.promises.evidence import connect_past, no_right_to_insert

# RFC 7009, 2.2.1.
UNSUPPORTED = '{"error": "unsupported_token_type"}'


async def test_a_consent_that_was_rotated_away_is_revoked_at_the_provider(here: Here) -> None:
    integration = await here.connected()
    before = await here.app.integrations.present(here.tenant.local, integration.id)
    await here.connected(here.wanted(integration_id=integration.id))
    after = await here.app.integrations.present(here.tenant.local, integration.id)
    assert not here.server.is_good(before.token.reveal_text())
    assert here.server.is_good(after.token.reveal_text())
    assert {call.fields["token_type_hint"] for call in here.server.calls_to("/revoke")} == {
        "access_token",
        "refresh_token",
    }
    assert len(await here.events("credential.revoked")) == 1


async def test_a_run_keeps_the_consent_that_it_began_with_until_it_ends(here: Here) -> None:
    integration = await here.connected(here.wanted(allow_all=True))
    run, token = await here.app.runs.open(here.tenant.agent)
    before = await here.app.integrations.present(here.tenant.local, integration.id)
    await here.connected(here.wanted(integration_id=integration.id))
    assert here.server.is_good(before.token.reveal_text())
    caller = await here.app.identity.run(token.reveal_text())
    reply = await here.app.requests.request(caller, str(integration.id), "GET", "/api/me")
    assert reply.status == 200
    await here.app.runs.finish(caller, run.id, run.fencing_token)
    await here.app.sweeper.sweep()
    assert not here.server.is_good(before.token.reveal_text())


async def test_where_one_revocation_ends_all_the_old_one_is_left_alone(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As Google does: the new consent of the same person would die with the old one.
    acme = here.app.providers.get("acme")
    assert acme.oauth is not None
    ending = acme.model_copy(update={"oauth": acme.oauth.model_copy(update={"revocation_ends_all": True})})

    def get(_: object, name: str) -> Provider:
        assert name == "acme"
        return ending

    monkeypatch.setattr(type(here.app.providers), "get", get)
    integration = await here.connected()
    await here.connected(here.wanted(integration_id=integration.id))
    assert here.server.calls_to("/revoke") == []
    assert len(await here.events("credential.not_revoked")) == 1
    # The last one is another matter.
    await here.app.revocation.end(here.tenant.local, integration.id)
    assert here.server.calls_to("/revoke") != []


async def test_a_person_ends_a_consent_and_its_status_says_so(here: Here) -> None:
    integration = await here.connected()
    present = await here.app.integrations.present(here.tenant.local, integration.id)
    ended = await here.app.revocation.end(here.tenant.local, integration.id)
    assert ended.status == "needs attention"
    assert not here.server.is_good(present.token.reveal_text())
    assert len(await here.events("consent.revoked")) == 1


async def test_a_consent_that_cannot_be_kept_is_revoked_and_recorded(here: Here) -> None:
    wanted = here.wanted()
    first, second = await here.asked(wanted), await here.asked(wanted)
    kept = await here.finish(first)
    with pytest.raises(Conflict):
        await here.finish(second)
    present = await here.app.integrations.present(here.tenant.local, kept.id)
    assert here.good() == [present.token.reveal_text()], "the consent that nobody has lives on"
    [event] = await here.events("consent.not_kept")
    assert (event["provider"], event["reason"]) == ("acme", "duplicate")
    assert len(await here.events("consent.revoked")) == 1


async def test_a_consent_that_cannot_be_kept_is_revoked_also_where_that_cannot_be_recorded(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = here.wanted()
    first, second = await here.asked(wanted), await here.asked(wanted)
    kept = await here.finish(first)
    appending = AuditLog.append

    async def failing(log: AuditLog, company_id: UUID, action: str, **facts: Any) -> None:
        if action == "consent.not_kept":
            raise Unavailable
        await appending(log, company_id, action, **facts)

    monkeypatch.setattr(AuditLog, "append", failing)
    with pytest.raises(Conflict) as caught:
        await here.finish(second)
    assert isinstance(caught.value.__cause__, Unavailable)
    present = await here.app.integrations.present(here.tenant.local, kept.id)
    assert here.good() == [present.token.reveal_text()]


async def test_a_consent_that_cannot_be_recorded_is_revoked(here: Here) -> None:
    params = await here.asked()
    here.server.misbehave("hold", on="/token")
    finished = asyncio.create_task(here.finish(params))
    await asyncio.to_thread(here.server.wait_until_held)
    async with await connect_past(here.app, "postgres") as superuser, no_right_to_insert(superuser):
        here.server.release()
        with pytest.raises(Unavailable):
            await finished
    assert here.good() == []
    assert await here.left() == {"secrets": [], "integrations": []}


async def test_a_consent_that_its_service_does_not_take_is_revoked(here: Here) -> None:
    params = await here.asked()
    here.server.misbehave("status", on="/api/me", status=401, body='{"error": "invalid_token"}')
    with pytest.raises(ProbeFailed):
        await here.finish(params)
    assert here.good() == []


async def test_a_consent_for_an_integration_that_is_gone_meanwhile_is_revoked(here: Here) -> None:
    integration = await here.connected()
    waiting = await here.app.devices.begin(here.tenant.local, here.wanted(integration_id=integration.id))
    here.server.decide(waiting.user_code)
    here.server.misbehave("hold", on="/token")
    asked = asyncio.create_task(here.app.devices.poll(here.tenant.local, waiting.id))
    await asyncio.to_thread(here.server.wait_until_held)
    await here.app.revocation.delete(here.tenant.local, integration.id, keep_consent=True)
    here.server.release()
    with pytest.raises(CompanyAgentsError):
        await asked
    assert len(here.server.calls_to("/revoke")) == 2


async def test_where_a_revocation_ends_others_what_is_not_kept_is_only_recorded(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = here.app.providers.get("acme")
    assert acme.oauth is not None
    ending = acme.model_copy(update={"oauth": acme.oauth.model_copy(update={"revocation_ends_all": True})})
    params = await here.asked()
    monkeypatch.setattr(type(here.app.providers), "get", lambda _, name: ending)
    here.server.misbehave("status", on="/api/me", status=401, body='{"error": "invalid_token"}')
    with pytest.raises(ProbeFailed):
        await here.finish(params)
    assert len(await here.events("consent.not_kept")) == 1
    assert here.server.calls_to("/revoke") == []


async def test_a_server_that_revokes_refresh_tokens_only_has_done_it(here: Here) -> None:
    integration = await here.connected()
    present = await here.app.integrations.present(here.tenant.local, integration.id)
    asked = here.app.revocation.end(here.tenant.local, integration.id)
    # The first request is for the refresh token, and is carried out; the second is for the access token.
    here.server.misbehave("replace", on="/revoke", status=200)
    here.server.misbehave("status", on="/revoke", status=400, body=UNSUPPORTED)
    await asked
    assert [call.fields["token_type_hint"] for call in here.server.calls_to("/revoke")] == [
        "refresh_token",
        "access_token",
    ]
    assert here.server.is_dead(present.token.reveal_text())
    assert len(await here.events("consent.revoked")) == 1


async def test_a_server_that_revokes_neither_has_not(here: Here) -> None:
    integration = await here.connected()
    here.server.misbehave("status", on="/revoke", times=2, status=400, body=UNSUPPORTED)
    with pytest.raises(Rejected):
        await here.app.revocation.end(here.tenant.local, integration.id)
    assert await here.events("consent.revoked") == []


async def test_what_cannot_be_revoked_from_here_is_said(here: Here) -> None:
    del here.server.metadata["revocation_endpoint"]
    await here.app.clients.configure(
        here.tenant.local,
        "acme",
        client_id="client-1",
        secret=Sensitive(SECRET),
        issuer=here.server.url,
        allow_private=True,
    )
    integration = await here.connected()
    with pytest.raises(Refused, match="cannot be revoked from here"):
        await here.app.revocation.end(here.tenant.local, integration.id)
    assert (await here.app.integrations.get(here.tenant.local, integration.id)).status == "connected"


async def test_a_client_that_is_another_by_now_is_not_told_of_the_old_ones_token(here: Here) -> None:
    integration = await here.connected()
    await here.app.clients.configure(
        here.tenant.local,
        "acme",
        client_id="client-2",
        secret=Sensitive(SECRET),
        issuer=here.server.url,
        allow_private=True,
    )
    with pytest.raises(Refused, match="cannot be revoked from here"):
        await here.app.revocation.end(here.tenant.local, integration.id)
    assert here.server.calls_to("/revoke") == []


async def test_a_provider_that_is_away_keeps_no_rotation_from_ending(here: Here) -> None:
    integration = await here.connected()
    here.server.misbehave("status", on="/revoke", status=503, times=9)
    rotated = await here.connected(here.wanted(integration_id=integration.id))
    assert rotated.version == 2
    assert await here.events("credential.revoked") == []
