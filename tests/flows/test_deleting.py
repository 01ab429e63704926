"""
Integrations that are deleted: what was consented to ends at the provider first, or is on record.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from company_agents.audit.log import SinkDown
from company_agents.integrations.oauth.calls import OAuthCalls
from tests.flows.conftest import Here
from tests.promises.evidence import connect_past, sql


async def test_what_is_deleted_is_revoked_first_with_the_versions_that_runs_hold(here: Here) -> None:
    integration = await here.connected(here.wanted(allow_all=True))
    await here.app.runs.open(here.tenant.agent)
    await here.connected(here.wanted(integration_id=integration.id))
    await here.app.revocation.delete(here.tenant.local, integration.id)
    assert here.good() == []
    assert (await here.left())["integrations"] == []
    assert [event["version"] for event in await here.events("consent.revoked")] == [2, 1]


async def test_a_consent_that_is_to_be_kept_is_left_at_its_provider(here: Here) -> None:
    integration = await here.connected()
    await here.app.revocation.delete(here.tenant.local, integration.id, keep_consent=True)
    assert len(here.good()) == 1
    assert here.server.calls_to("/revoke") == []
    assert await here.left() == {"secrets": [], "integrations": []}
    assert len(await here.events("credential.not_revoked")) == 1
    assert [event for event in await here.events("credential.begun") if event["purpose"] == "revoke"] == []


async def test_a_provider_that_is_away_keeps_nobody_from_deleting(here: Here) -> None:
    integration = await here.connected()
    here.server.misbehave("status", on="/revoke", status=503, times=9)
    await here.app.revocation.delete(here.tenant.local, integration.id)
    assert await here.left() == {"secrets": [], "integrations": []}
    assert len(await here.events("credential.not_revoked")) == 1


async def test_where_one_revocation_ends_all_others_outlive_what_is_deleted(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = here.app.providers.get("acme")
    assert acme.oauth is not None
    ending = acme.model_copy(update={"oauth": acme.oauth.model_copy(update={"revocation_ends_all": True})})
    first, second = await here.connected(), await here.connected()
    monkeypatch.setattr(type(here.app.providers), "get", lambda _, name: ending)
    await here.app.revocation.delete(here.tenant.local, first.id)
    assert here.server.calls_to("/revoke") == []
    # Of the last one there are no others.
    await here.app.revocation.delete(here.tenant.local, second.id)
    assert here.server.calls_to("/revoke") != []


async def test_a_consent_that_a_run_holds_behind_a_pasted_token_outlives_what_is_deleted(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = here.app.providers.get("acme")
    assert acme.oauth is not None
    ending = acme.model_copy(update={"oauth": acme.oauth.model_copy(update={"revocation_ends_all": True})})
    first = await here.connected(here.wanted(allow_all=True))
    await here.app.runs.open(here.tenant.agent)
    second = await here.connected()
    pasted = (await here.app.integrations.present(here.tenant.local, second.id)).token
    assert (await here.app.integrations.rotate(here.tenant.local, first.id, pasted)).kind == "token"
    monkeypatch.setattr(type(here.app.providers), "get", lambda _, name: ending)
    await here.app.revocation.delete(here.tenant.local, second.id)
    assert here.server.calls_to("/revoke") == []
    assert len(await here.events("credential.not_revoked")) == 1


async def test_where_a_consent_cannot_be_opened_for_now_nothing_is_deleted(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    integration = await here.connected()
    before = await here.left()

    async def down(company_id: UUID, seq: int) -> None:
        raise SinkDown

    with monkeypatch.context() as patch:
        patch.setattr(here.app.audit, "out", down)
        with pytest.raises(SinkDown):
            await here.app.revocation.delete(here.tenant.local, integration.id)
        assert await here.left() == before
        assert len(here.good()) == 1
    await here.app.revocation.delete(here.tenant.local, integration.id)
    assert here.good() == []


async def test_a_consent_that_is_to_be_kept_is_deleted_also_where_it_cannot_be_opened(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    integration = await here.connected()

    async def down(company_id: UUID, seq: int) -> None:
        raise SinkDown

    with monkeypatch.context() as patch:
        patch.setattr(here.app.audit, "out", down)
        await here.app.revocation.delete(here.tenant.local, integration.id, keep_consent=True)
    assert await here.left() == {"secrets": [], "integrations": []}


async def test_a_consent_that_was_tampered_with_is_deleted_and_on_record(here: Here) -> None:
    integration = await here.connected()
    async with await connect_past(here.app, "postgres") as superuser:
        name = f"integration/{integration.id}/1"
        await sql(superuser, "UPDATE secrets SET value = '\\x00'::bytea || value WHERE name = %(name)s", name=name)
    await here.app.revocation.delete(here.tenant.local, integration.id)
    assert await here.left() == {"secrets": [], "integrations": []}
    [event] = await here.events("credential.not_revoked")
    assert (event["integration"], event["version"]) == (str(integration.id), 1)


async def test_a_token_that_was_pasted_is_deleted_without_being_opened(here: Here) -> None:
    integration = await here.connected()
    pasted = (await here.app.integrations.present(here.tenant.local, integration.id)).token
    before = await here.app.integrations.connect(
        here.tenant.local, "acme", pasted, base_url=here.server.url, allow_private_network=True
    )
    await here.app.revocation.delete(here.tenant.local, before.id)
    opened = [event["integration"] for event in await here.events("credential.begun") if event["purpose"] == "revoke"]
    assert opened == []
    assert await here.events("credential.not_revoked") == []


async def test_a_consent_that_comes_in_while_the_provider_is_asked_is_revoked_too(here: Here) -> None:
    integration = await here.connected()
    params = await here.asked(here.wanted(integration_id=integration.id))
    here.server.misbehave("hold", on="/revoke")
    deleted = asyncio.create_task(here.app.revocation.delete(here.tenant.local, integration.id))
    await asyncio.to_thread(here.server.wait_until_held)
    assert (await here.finish(params)).version == 2
    here.server.release()
    await deleted
    assert here.good() == []
    assert await here.left() == {"secrets": [], "integrations": []}
    assert {event["version"] for event in await here.events("consent.revoked")} == {1, 2}
    assert await here.events("credential.not_revoked") == []


async def test_a_consent_that_is_renewed_again_and_again_is_deleted_at_last_and_on_record(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    integration = await here.connected()
    asking = OAuthCalls.revoke

    async def renewed(*given: Any, **more: Any) -> bool:
        async with await connect_past(here.app, "postgres") as superuser:
            await sql(
                superuser,
                "UPDATE credential_versions SET written_by = written_by + 1 WHERE integration_id = %(id)s",
                id=integration.id,
            )
        return await asking(*given, **more)

    monkeypatch.setattr(OAuthCalls, "revoke", renewed)
    await here.app.revocation.delete(here.tenant.local, integration.id)
    assert await here.left() == {"secrets": [], "integrations": []}
    assert len(await here.events("consent.revoked")) == 3
    assert len(await here.events("credential.not_revoked")) == 1
    [event] = await here.events("integration.deleted")
    assert event["name"] == integration.name


async def test_all_versions_together_keep_who_deletes_waiting_for_a_while_only(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    integration = await here.connected(here.wanted(allow_all=True))
    await here.app.runs.open(here.tenant.agent)
    await here.connected(here.wanted(integration_id=integration.id))
    monkeypatch.setattr("company_agents.integrations.revocation.MOST_SECONDS", 0.5)
    here.server.misbehave("hold", on="/revoke", times=9)
    await here.app.revocation.delete(here.tenant.local, integration.id)
    here.server.behave()
    assert len(here.server.calls_to("/revoke")) < 2, "the second version was waited for too"
    assert (await here.left())["integrations"] == []
    assert [event["version"] for event in await here.events("credential.not_revoked")] == [2, 1]
