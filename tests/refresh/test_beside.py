"""
What an integration's older versions mean for it: a consent that runs hold beside a token, and the last use.
"""

from __future__ import annotations

import pytest

from company_agents.integrations.provider import Provider
from company_agents.sensitive import Sensitive
from tests.promises.evidence import sql
from tests.refresh.world import CLIENT, OFTEN, World


async def rotate_to_a_token(world: World, integration_id: object) -> None:
    token = Sensitive(world.server.grant(CLIENT).access)
    await world.app.integrations.rotate(world.tenant.local, integration_id, token)  # type: ignore[arg-type]


async def test_a_consent_that_a_run_still_holds_is_not_ended_with_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = world.app.providers.get(OFTEN)
    assert known.oauth is not None
    ending = known.model_copy(update={"oauth": known.oauth.model_copy(update={"revocation_ends_all": True})})

    def get(_: object, name: str) -> Provider:
        assert name == OFTEN
        return ending

    monkeypatch.setattr(type(world.app.providers), "get", get)
    held = await world.consent(OFTEN)
    run, _ = await world.app.runs.open(world.tenant.agent)
    other = await world.consent(OFTEN)
    # Its present credential is a token; its consent drains.
    await rotate_to_a_token(world, held.id)
    await rotate_to_a_token(world, other.id)
    assert world.server.calls_to("/revoke") == []
    assert len(await world.events(other, "credential.not_revoked")) == 1
    # The last one ends nobody else.
    await world.app.runs.finish(world.tenant.agent, run.id, run.fencing_token)
    await world.app.sweeper.sweep_company(world.scope)
    assert len(await world.events(held, "credential.revoked")) == 1


async def test_right_after_a_rotation_the_last_use_is_still_known(world: World) -> None:
    it = await world.consent()
    await world.app.runs.open(world.tenant.agent)
    await sql(
        world.superuser,
        "UPDATE secrets SET last_used_at = now() WHERE id IN"
        " (SELECT secret_id FROM credential_versions WHERE integration_id = %(i)s)",
        i=it.id,
    )
    before = (await world.now(it)).last_used_at
    assert before is not None
    await rotate_to_a_token(world, it.id)
    assert (await world.now(it)).last_used_at == before
    listed = (await world.app.integrations.list(world.tenant.local)).items
    assert [one.last_used_at for one in listed if one.id == it.id] == [before]


async def test_what_is_due_in_one_company_is_found_without_a_look_at_the_others(world: World) -> None:
    rows = await sql(world.superuser, "SELECT indexdef FROM pg_indexes WHERE indexname = 'credential_versions_due'")
    assert "(company_id, refresh_due_at)" in rows[0]["indexdef"]
