"""
Schedules of which one cannot be looked at by this machine: the others are started all the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from company_agents.app import App
from company_agents.runs.schedules import PUT_OFF
from tests.conftest import Tenant
from tests.promises.evidence import connect_past, recorded, sql


async def test_one_whose_time_zone_is_not_known_here_keeps_no_other_from_starting(
    app: App, tenant: Callable[[], Awaitable[Tenant]]
) -> None:
    here = await tenant()
    agent = here.agent.agent_id()
    # A superuser, since time does not go by for a test, and no zone is lost.
    async with await connect_past(app, "postgres") as superuser:
        await sql(superuser, "UPDATE agents SET adapter = 'llm' WHERE id = %(a)s", a=agent)
        make = app.schedules.create
        # The one that has waited longest is looked at first.
        odd, good = [await make(here.local, agent, name, "* * * * *", "the round") for name in ("odd", "good")]
        late = "UPDATE schedules SET next_at = clock_timestamp() - interval '1 minute' * %(m)s WHERE id = %(s)s"
        await sql(superuser, late, m=2, s=odd.id)
        await sql(superuser, late, m=1, s=good.id)
        elsewhere = "UPDATE schedules SET timezone = %(z)s WHERE id = %(s)s"
        await sql(superuser, elsewhere, z="Moon/Tranquility", s=odd.id)

        before = datetime.now(UTC)
        await app.schedules.start_due(here.local.scope)
        [run] = (await app.runs.list(here.local)).items
        assert run.schedule_id == good.id
        found = await app.schedules.get(here.local, odd.id)
        assert found.skipped == "there is no such time zone"
        assert found.next_at is not None
        assert before < found.next_at - PUT_OFF < datetime.now(UTC) + timedelta(minutes=1)
        [event] = await recorded(app, here.company.id, "schedule.skipped", schedule=odd.id)
        assert event["reason"] == found.skipped

        # Once it can be looked at, it starts its run; the one that was put off is made up for.
        await sql(superuser, elsewhere, z="UTC", s=odd.id)
        await sql(superuser, late, m=0, s=odd.id)
        await app.schedules.start_due(here.local.scope)
        assert {run.schedule_id for run in (await app.runs.list(here.local)).items} == {odd.id, good.id}
        assert (await app.schedules.get(here.local, odd.id)).skipped == ""
        for run in (await app.runs.list(here.local)).items:
            await app.runs.cancel(here.local, run.id)
        await sql(superuser, "DELETE FROM schedules WHERE company_id = %(c)s", c=here.company.id)
