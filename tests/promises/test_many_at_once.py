"""
Two hundred agents call at two replicas, all at once, while what they rest upon is ended under them: tokens are
rotated, agents paused, resumed and retired, integrations disallowed, deleted and given another credential.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from company_agents.app import App
from company_agents.settings import Settings
from tests.mcp.slack import Slack, slack_stand_in
from tests.promises.changes import Changes
from tests.promises.crowd import Crowd, Ledger, Pace, Replica, found, owners_token, replica, uses_of

FIRMS, AGENTS, CALLS = 4, 50, 6
# To one firm: two to each agent, but one where it is retired and none where it is untouched; and to integrations.
CHANGES = AGENTS // 5 * 7 + AGENTS // 10 + 1
# For everything together: a call that hangs would go beyond it.
PATIENCE = 60


@pytest.fixture(scope="module")
async def replicas(app: App, settings: Settings) -> AsyncIterator[tuple[Replica, Replica]]:
    """Two orchestrators of one instance: they share the home and the database, and nothing else."""
    async with replica(settings) as one, replica(settings) as other:
        yield one, other


@pytest.fixture(scope="module")
async def slack() -> AsyncIterator[Slack]:
    async with slack_stand_in() as started:
        yield started


@dataclass(frozen=True)
class Past:
    """What has happened, once everybody has ended."""

    crowd: Crowd
    changes: Counter[str]


@pytest.fixture(scope="module")
async def past(replicas: tuple[Replica, Replica], slack: Slack) -> Past:
    """Let it happen, once; the tests look at what it left behind."""
    app = replicas[0].app
    async with asyncio.timeout(PATIENCE):
        owner = await owners_token(app)
        firms = [await found(app, slack, AGENTS) for _ in range(FIRMS)]
        # Everybody calls at once, twice, before the first change is waited for.
        pace = Pace(FIRMS * AGENTS * CALLS, FIRMS * CHANGES, ahead=2 * FIRMS * AGENTS)
        crowd = Crowd(replicas, slack, firms, Ledger(pace))
        changes = [Changes(crowd, firm, owner) for firm in firms]
        async with asyncio.TaskGroup() as everybody:
            for firm in firms:
                for member in firm.members:
                    everybody.create_task(crowd.calls_of(firm, member, CALLS))
            for change in changes:
                everybody.create_task(change.run())
    return Past(crowd, sum((change.made for change in changes), Counter()))


def test_every_call_ends_with_what_it_asked_for_or_with_a_refusal_that_has_a_name(past: Past) -> None:
    outcomes = Counter(call.outcome for call in past.crowd.ledger.calls)
    assert set(outcomes) == {"ok", "401 unauthenticated", "404 not_found", "tool not_found"}
    assert past.crowd.ledger.started == FIRMS * AGENTS * CALLS


def test_no_call_succeeds_that_began_after_what_it_rests_upon_was_ended(past: Past) -> None:
    ledger = past.crowd.ledger
    late = [call for call in ledger.calls if ledger.must_fail(call)]
    assert [call for call in late if call.outcome == "ok"] == []
    # There were many, at every door.
    tried = Counter(call.what.partition(" ")[0] for call in late)
    assert tried.keys() == {"whoami", "me", "request", "send"}
    assert min(tried.values()) > 40


def test_no_call_is_refused_whose_ground_nobody_touched(past: Past) -> None:
    ledger = past.crowd.ledger
    assert [call for call in ledger.calls if call.outcome != "ok" and not ledger.may_fail(call)] == []
    calm = Counter(call.what for call in ledger.calls if not ledger.may_fail(call))
    assert min(calm[f"{kind} {name}"] for kind in ("request", "send") for name in ("steady", "rotating")) > 20


def test_the_provider_never_sees_a_credential_that_was_replaced_before_the_call(past: Past) -> None:
    ledger = past.crowd.ledger
    used = [(bearer, json.loads(body)["text"]) for bearer, body in past.crowd.slack.used]
    assert len(used) > 100
    for bearer, number in used:
        assert bearer in past.crowd.slack.good
        assert not any(span.acknowledged < int(number) for span in ledger.spans.get(bearer, ()))
    for firm in past.crowd.firms:
        # Each credential but the last has been replaced, and most of them had been used.
        assert len(firm.bearers["rotating"]) == 1 + AGENTS // 10
        assert len({bearer for bearer, _ in used} & set(firm.bearers["rotating"])) > 1


async def test_every_use_of_a_credential_is_on_record_with_its_end(past: Past) -> None:
    uses = 0
    for firm in past.crowd.firms:
        begun, ended = await uses_of(past.crowd.replicas[0].app, firm.company.id)
        assert begun == ended
        assert set(begun.values()) == {1}
        uses += begun.total()
    assert uses >= len(past.crowd.slack.used)


async def test_the_chains_that_both_replicas_wrote_to_verify_at_each(past: Past) -> None:
    for at in past.crowd.replicas:
        for company_id in (None, *(firm.company.id for firm in past.crowd.firms)):
            verified = await at.app.events.verify(company_id)
            assert verified.faults == ()
            assert verified.events > 10


async def test_every_change_is_on_record_as_often_as_it_was_made(past: Past) -> None:
    app = past.crowd.replicas[1].app
    recorded: Counter[str] = Counter()
    for firm in past.crowd.firms:
        async for event in app.events.linked(firm.company.id):
            recorded[json.loads(event["record"])["action"]] += 1
    agents = FIRMS * AGENTS // 5
    assert past.changes["rotate-token"] == recorded["agent.token_rotated"] == 2 * agents
    assert past.changes["pause"] == recorded["agent.paused"] == agents
    assert past.changes["resume"] == recorded["agent.active"] == agents
    assert past.changes["retire"] == recorded["agent.retired"] == agents
    assert past.changes["disallow"] == recorded["integration.disallowed"] == agents
    assert past.changes["allow"] == recorded["integration.allowed"] == agents
    assert past.changes["rotate"] == recorded["integration.rotated"] == FIRMS * AGENTS // 10
    assert past.changes["delete"] == recorded["integration.deleted"] == FIRMS


async def test_an_integration_whose_credential_is_good_says_so(past: Past) -> None:
    for firm in past.crowd.firms:
        listed = (await past.crowd.replicas[1].app.integrations.list(firm.local)).items
        assert {one.name: one.status for one in listed} == dict.fromkeys(("steady", "rotating", "guarded"), "connected")


async def test_no_connection_to_the_database_was_lost(past: Past) -> None:
    for at in past.crowd.replicas:
        async with asyncio.timeout(PATIENCE), contextlib.AsyncExitStack() as held:
            for _ in range(at.app.settings.database_pool):
                await held.enter_async_context(at.app.identity.db.transaction(None))
            # The committer has one of its own: what is to be recorded need not wait for those who wait for the record.
            await at.app.audit.append(None, "test.recorded")
        for firm in past.crowd.firms:
            answer = await at.mcp.call(firm.members[0].tokens[-1], "whoami", {})
            assert answer.status == 200
