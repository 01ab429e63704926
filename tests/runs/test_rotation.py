"""
A rotation while runs are under way: who uses which credential, on two orchestrators at once.
"""

from __future__ import annotations

import asyncio

import pytest

from company_agents.app import App
from company_agents.errors import Conflict, NotFound, Refused, Unavailable
from tests.promises.evidence import Past, recorded, sql
from tests.runs.conftest import Desk, MakeDesk, Revoker, consent, use


async def brought(desk: Desk, app: App, token: str) -> str:
    """Which token a call of this run or agent brings to the provider."""
    desk.service.brought.clear()
    await use(app, token, desk.integration.id)
    [found] = desk.service.brought
    return found


async def cut_off(app: App, desk: Desk, token: str) -> Refused:
    """The refusal of a call; nothing reached the provider."""
    desk.service.brought.clear()
    with pytest.raises(Refused) as refused:
        await use(app, token, desk.integration.id)
    assert desk.service.brought == []
    assert (refused.value.reason, refused.value.http_status) == ("credential_cut", 403)
    return refused.value


# — pins —


async def test_a_run_uses_the_value_that_it_began_with_until_it_ends_on_every_orchestrator(
    app: App, other: App, desk: MakeDesk
) -> None:
    here = await desk()
    run, before = await here.open()
    assert (await here.rotate("second-token", other)).version == 2
    _, after = await here.open(other)
    for one in (app, other):
        assert await brought(here, one, before) == "first-token"
        assert await brought(here, one, after) == "second-token"
        assert await brought(here, one, here.tenant.token) == "second-token"
    assert await here.versions() == {2: ("current", 1), 1: ("draining", 1)}

    await other.runs.finish(here.agent, run.id, run.fencing_token)
    assert await here.versions() == {2: ("current", 1), 1: ("retired", 0)}
    assert await here.secrets() == {"2"}
    assert await brought(here, app, after) == "second-token"
    assert len(await recorded(app, here.tenant.company.id, "credential.retired", version=1)) == 1


async def test_a_version_that_no_run_holds_goes_with_the_rotation(desk: MakeDesk) -> None:
    here = await desk()
    await here.rotate("second-token")
    assert await here.versions() == {2: ("current", 0), 1: ("retired", 0)}
    assert await here.secrets() == {"2"}


async def test_runs_of_three_times_hold_three_versions(app: App, desk: MakeDesk) -> None:
    here = await desk()
    tokens = []
    for version in (1, 2, 3):
        tokens.append((await here.open())[1])
        await here.rotate(f"token-number-{version + 1}")
    assert await here.versions() == {4: ("current", 0), 3: ("draining", 1), 2: ("draining", 1), 1: ("draining", 1)}
    assert [await brought(here, app, token) for token in tokens] == ["first-token", "token-number-2", "token-number-3"]


async def test_what_is_allowed_after_the_start_is_pinned_at_its_first_use(app: App, other: App, desk: MakeDesk) -> None:
    here = await desk(allowed=False)
    run, token = await here.open()
    assert run.pins == []
    with pytest.raises(NotFound):
        await use(app, token, here.integration.id)
    await app.integrations.allow(here.local, here.integration.id, here.agent.agent_id())
    await here.rotate("second-token")
    assert await brought(here, app, token) == "second-token"
    await here.rotate("third-token", other)
    assert await brought(here, app, token) == "second-token"
    assert await brought(here, other, here.tenant.token) == "third-token"
    [pin] = (await app.runs.get(here.agent, run.id)).pins
    assert (pin.integration, pin.version, pin.cut_at) == (here.integration.id, 2, None)


async def test_what_is_no_longer_allowed_is_refused_to_a_run_that_is_pinned_to_it(app: App, desk: MakeDesk) -> None:
    here = await desk()
    _, token = await here.open()
    await app.integrations.disallow(here.local, here.integration.id, here.agent.agent_id())
    with pytest.raises(NotFound):
        await use(app, token, here.integration.id)


async def test_a_deleted_integration_is_gone_for_runs_that_hold_it(app: App, desk: MakeDesk) -> None:
    here = await desk()
    run, token = await here.open()
    await here.rotate("second-token")
    await app.revocation.delete(here.local, here.integration.id, keep_consent=True)
    with pytest.raises(NotFound):
        await use(app, token, here.integration.id)
    assert (await app.runs.finish(here.agent, run.id, run.fencing_token)).state == "finished"
    assert await here.secrets() == set()


async def test_while_runs_begin_and_credentials_rotate_no_run_is_without_a_secret(
    app: App, other: App, desk: MakeDesk, superuser: Past
) -> None:
    here = await desk()

    async def rotating() -> None:
        for number in range(12):
            try:
                await here.rotate(f"token-number-{number:02}", (app, other)[number % 2])
            except Conflict:
                continue

    async def beginning(at: App) -> list[str]:
        tokens = []
        for number in range(15):
            run, token = await at.runs.open(here.agent)
            tokens.append(token.reveal_text())
            if number % 3 == 0:
                await at.runs.finish(here.agent, run.id, run.fencing_token)
                tokens.pop()
        return tokens

    _, *begun = await asyncio.gather(rotating(), rotating(), *(beginning(at) for at in (app, other, app)))
    orphans = await sql(
        superuser,
        """SELECT p.run_id FROM run_pins p JOIN runs r ON r.id = p.run_id
           JOIN credential_versions v ON v.integration_id = p.integration_id AND v.version = p.version
           LEFT JOIN secrets s ON s.id = v.secret_id
           WHERE r.state = 'running' AND p.integration_id = %(i)s AND (v.state = 'retired' OR s.id IS NULL)""",
        i=here.integration.id,
    )
    assert orphans == []
    live = [token for tokens in begun[1:] if tokens is not None for token in tokens]
    assert len(live) == 30
    for token in live:
        await use(other, token, here.integration.id)
    states = await here.versions()
    assert sum(runs for _, runs in states.values()) == 30
    assert all(runs > 0 for state, runs in states.values() if state == "draining")


# — cut —


async def test_after_a_cut_the_old_value_is_refused_everywhere_and_recorded(
    app: App, other: App, desk: MakeDesk
) -> None:
    here = await desk()
    run, before = await here.open()
    await here.rotate("second-token")
    _, after = await here.open()
    assert await brought(here, other, before) == "first-token"

    cut = await app.runs.cut(here.local, here.integration.id)
    assert (cut.integration, cut.versions, cut.runs) == (here.integration.id, [1], 1)
    for one in (other, app):
        refusal = await cut_off(one, here, before)
        assert "first-token" not in refusal.sentence + refusal.hint
        # No fallback for it, and no harm to others.
        assert await brought(here, one, after) == "second-token"
    assert await here.versions() == {2: ("current", 1), 1: ("retired", 0)}
    assert await here.secrets() == {"2"}
    company = here.tenant.company.id
    assert len(await recorded(app, company, "credential.cut", version=1, run=run.id, actor="local:tester")) == 1
    refused = await recorded(app, company, "integration.refused", reason="cut", version=1, actor=f"run:{run.id}")
    assert {event["decision"] for event in refused} == {"refused"}
    [pin] = (await app.runs.get(here.local, run.id)).pins
    assert pin.cut_at is not None
    assert (await app.runs.finish(here.agent, run.id, run.fencing_token)).state == "finished"


async def test_a_cut_of_nothing_cuts_nobody(app: App, desk: MakeDesk) -> None:
    here = await desk()
    _, token = await here.open()
    assert (await app.runs.cut(here.local, here.integration.id)).runs == 0
    assert await brought(here, app, token) == "first-token"


async def test_one_version_can_be_cut_and_the_others_go_on(app: App, desk: MakeDesk) -> None:
    here = await desk()
    _, first = await here.open()
    await here.rotate("second-token")
    _, second = await here.open()
    await here.rotate("third-token")
    assert (await app.runs.cut(here.local, here.integration.id, version=2)).versions == [2]
    await cut_off(app, here, second)
    assert await brought(here, app, first) == "first-token"
    assert await here.versions() == {3: ("current", 0), 2: ("retired", 0), 1: ("draining", 1)}
    with pytest.raises(NotFound, match="no version 4"):
        await app.runs.cut(here.local, here.integration.id, version=4)


async def test_every_version_can_be_cut_and_the_current_one_stays_for_new_runs(app: App, desk: MakeDesk) -> None:
    here = await desk()
    _, first = await here.open()
    await here.rotate("second-token")
    _, second = await here.open()
    cut = await app.runs.cut(here.local, here.integration.id, every=True)
    assert (cut.versions, cut.runs) == ([1, 2], 2)
    await cut_off(app, here, first)
    await cut_off(app, here, second)
    assert await brought(here, app, here.tenant.token) == "second-token"
    assert await brought(here, app, (await here.open())[1]) == "second-token"


async def test_an_agent_may_not_cut_its_colleagues_off(app: App, desk: MakeDesk) -> None:
    here = await desk()
    with pytest.raises(Refused, match="company:run:cut"):
        await app.runs.cut(here.agent, here.integration.id)


# — what becomes of the old one —


async def rotated(desk: Desk, token: str = "second-token") -> None:
    await desk.app.integrations.supersede(desk.local, desk.integration.id, consent(desk.service, token))


async def test_an_old_consent_is_revoked_at_the_provider_when_its_last_run_has_ended(
    app: App, consented: MakeDesk, revoker: Revoker
) -> None:
    here = await consented()
    runs = [await here.open() for _ in range(2)]
    await rotated(here)
    for run, _ in runs:
        assert (revoker.asked, await here.secrets()) == ([], {"1", "2"})
        await app.runs.finish(here.agent, run.id, run.fencing_token)
    await app.sweeper.sweep()
    assert revoker.asked == [(1, "first-token")]
    assert await here.secrets() == {"2"}
    company = here.tenant.company.id
    assert len(await recorded(app, company, "credential.revoked", version=1)) == 1
    assert len(await recorded(app, company, "credential.begun", version=1, purpose="revoke")) == 1


async def test_with_nobody_under_way_it_is_revoked_with_the_rotation(consented: MakeDesk, revoker: Revoker) -> None:
    here = await consented()
    await rotated(here)
    assert revoker.asked == [(1, "first-token")]
    assert await here.secrets() == {"2"}


async def test_after_a_cut_it_is_revoked_at_once(app: App, consented: MakeDesk, revoker: Revoker) -> None:
    here = await consented()
    _, token = await here.open()
    await rotated(here)
    await app.runs.cut(here.local, here.integration.id)
    assert revoker.asked == [(1, "first-token")]
    await cut_off(app, here, token)


async def test_a_provider_without_a_way_to_revoke_has_it_deleted_and_said_so(
    app: App, consented: MakeDesk, revoker: Revoker
) -> None:
    here, revoker.answer = await consented(), False
    await rotated(here)
    assert await here.secrets() == {"2"}
    assert len(await recorded(app, here.tenant.company.id, "credential.not_revoked", version=1)) == 1


async def test_a_provider_that_is_away_is_asked_again_and_given_up_at_last(
    app: App, consented: MakeDesk, revoker: Revoker, superuser: Past
) -> None:
    here, revoker.answer = await consented(), Unavailable("the provider does not answer")
    await rotated(here)
    for tries in range(1, 4):
        assert len(revoker.asked) == tries
        assert await here.secrets() == {"1", "2"}
        # Not before its time.
        await app.sweeper.sweep()
        assert len(revoker.asked) == tries
        await it_is_time(superuser, here)
        await app.sweeper.sweep()
    assert len(revoker.asked) == 4
    assert await here.secrets() == {"2"}
    assert len(await recorded(app, here.tenant.company.id, "credential.not_revoked", version=1)) == 1


async def it_is_time(superuser: Past, desk: Desk) -> None:
    await sql(
        superuser,
        "UPDATE credential_versions SET revoke_after = now() WHERE integration_id = %(i)s AND revoke_after IS NOT NULL",
        i=desk.integration.id,
    )


class Killed(BaseException):
    """The process dies here."""


async def test_killed_between_retiring_and_revoking_nothing_is_left_behind(
    app: App, other: App, consented: MakeDesk, revoker: Revoker, superuser: Past
) -> None:
    here, revoker.answer = await consented(), Killed()
    with pytest.raises(Killed):
        await rotated(here)
    assert await here.versions() == {2: ("current", 0), 1: ("retired", 0)}
    assert await here.secrets() == {"1", "2"}
    await it_is_time(superuser, here)
    revoker.answer = True
    await app.sweeper.sweep()
    assert [version for version, _ in revoker.asked] == [1, 1]
    assert await here.secrets() == {"2"}
    assert (await other.integrations.get(here.local, here.integration.id)).version == 2


async def test_killed_between_the_end_of_a_run_and_the_end_of_its_version_nothing_is_left_behind(
    other: App, desk: MakeDesk, superuser: Past
) -> None:
    here = await desk()
    run, _ = await here.open()
    await here.rotate("second-token")
    await sql(superuser, "UPDATE runs SET state = 'finished', ended_at = now() WHERE id = %(r)s", r=run.id)
    assert await here.versions() == {2: ("current", 0), 1: ("draining", 0)}
    await other.sweeper.sweep()
    assert await here.versions() == {2: ("current", 0), 1: ("retired", 0)}
    assert await here.secrets() == {"2"}


async def test_two_sweeps_at_once_revoke_once(
    app: App, other: App, consented: MakeDesk, revoker: Revoker, superuser: Past
) -> None:
    here, revoker.answer = await consented(), Unavailable("not now")
    await rotated(here)
    await it_is_time(superuser, here)
    revoker.answer = True
    before, other.integrations.versions.revoke = other.integrations.versions.revoke, revoker
    try:
        await asyncio.gather(app.sweeper.sweep(), other.sweeper.sweep())
    finally:
        other.integrations.versions.revoke = before
    assert len(revoker.asked) == 2
    assert await here.secrets() == {"2"}


async def test_where_a_new_consent_kills_the_old_one_runs_move_over_and_nothing_is_revoked(
    app: App, other: App, one_consent: str, consented: MakeDesk, revoker: Revoker
) -> None:
    here = await consented(one_consent)
    run, token = await here.open()
    assert await brought(here, app, token) == "first-token"
    await rotated(here)
    for one in (app, other):
        assert await brought(here, one, token) == "second-token"
    assert await here.versions() == {2: ("current", 1), 1: ("retired", 0)}
    assert (revoker.asked, await here.secrets()) == ([], {"2"})
    [pin] = (await app.runs.get(here.agent, run.id)).pins
    assert pin.version == 2


async def test_a_run_that_was_cut_off_does_not_move_over(
    app: App, one_consent: str, consented: MakeDesk, revoker: Revoker
) -> None:
    here = await consented(one_consent)
    _, token = await here.open()
    await app.runs.cut(here.local, here.integration.id, every=True)
    await rotated(here)
    await cut_off(app, here, token)
