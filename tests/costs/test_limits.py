"""
Limits: what counts for an agent, who may change it, and what is on record afterwards.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import pytest

from company_agents.app import App
from company_agents.errors import NotFound, Refused, WrongUsage
from company_agents.identity.limits import InForce, Limit
from tests.conftest import Tenant
from tests.promises.evidence import recorded

MakeTenant = Callable[[], Awaitable[Tenant]]


async def in_force(app: App, tenant: Tenant) -> InForce:
    async with tenant.local.scope.transaction() as tx:
        return await app.limits.of(tx, tenant.agent.agent_id())


async def test_without_a_word_there_are_no_limits(app: App, tenant: MakeTenant) -> None:
    one = await tenant()
    assert await in_force(app, one) == InForce(Limit(), Limit())
    assert await app.limits.get(one.local) == await app.limits.get(one.local, one.agent.agent_id()) == Limit()


async def test_of_each_run_the_lower_of_the_agents_and_the_companys_limit_counts(app: App, tenant: MakeTenant) -> None:
    one, other = await tenant(), await tenant()
    await app.limits.set(one.local, None, {"run_tokens": 500, "run_micros": 7_000_000, "runs_at_once": 9})
    await app.limits.set(one.local, one.agent.agent_id(), {"run_tokens": 900, "run_seconds": 60, "month_micros": 1})
    found = await in_force(app, one)
    assert (found.run_tokens, found.run_micros, found.run_seconds) == (500, 7_000_000, 60)
    assert (found.agent.runs_at_once, found.company.runs_at_once) == (None, 9)
    assert (found.agent.month_micros, found.company.month_micros) == (1, None)
    assert await in_force(app, other) == InForce(Limit(), Limit())


async def test_a_change_leaves_the_other_limits_and_the_record_says_old_and_new(app: App, tenant: MakeTenant) -> None:
    one = await tenant()
    await app.limits.set(one.local, None, {"month_micros": 50_000_000, "runs_at_once": 2})
    after = await app.limits.set(one.local, None, {"month_micros": None})
    assert after == await app.limits.get(one.local) == Limit(runs_at_once=2)
    await app.limits.set(one.local, None, {"runs_at_once": 2})
    events = await recorded(app, one.company.id, "limits.changed")
    assert [event["changes"] for event in events] == [
        ["runs_at_once: none to 2", "month_micros: none to 50000000"],
        ["month_micros: 50000000 to none"],
    ]


async def test_two_changes_at_once_lose_nothing(app: App, tenant: MakeTenant) -> None:
    one = await tenant()
    wanted = {"runs_at_once": 3, "run_seconds": 90, "run_tokens": 11, "run_micros": 12, "month_tokens": 13}
    await asyncio.gather(*(app.limits.set(one.local, None, {name: value}) for name, value in wanted.items()))
    assert await app.limits.get(one.local) == Limit(**wanted)


@pytest.mark.parametrize("changes", [{"run_seconds": 9}, {"runs_at_once": 0}, {"month_tokens": 10**14}, {"other": 1}])
async def test_a_number_that_is_no_limit_is_refused(app: App, tenant: MakeTenant, changes: dict[str, int]) -> None:
    one = await tenant()
    with pytest.raises(WrongUsage):
        await app.limits.set(one.local, None, changes)
    assert await app.limits.get(one.local) == Limit()


async def test_an_agent_neither_sees_nor_changes_limits_and_another_companys_agent_is_not_there(
    app: App, tenant: MakeTenant
) -> None:
    one, other = await tenant(), await tenant()
    with pytest.raises(Refused):
        await app.limits.set(one.agent, None, {"run_tokens": 10**9})
    with pytest.raises(Refused):
        await app.limits.get(one.agent)
    for agent_id in (other.agent.agent_id(), uuid.uuid4()):
        with pytest.raises(NotFound):
            await app.limits.set(one.local, agent_id, {"run_tokens": 1})
        with pytest.raises(NotFound):
            await app.limits.get(one.local, agent_id)
