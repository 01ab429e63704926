"""
Connections that are kept: one whose server has gone is not what the next caller finds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from company_agents.app import App
from tests.conftest import Tenant
from tests.promises.evidence import connect_past, sql

SERVING = "usename = 'company_agents_serve' AND pid <> pg_backend_pid()"


async def test_connections_that_the_server_has_ended_fail_nobody(
    app: App, tenant: Callable[[], Awaitable[Tenant]]
) -> None:
    one = await tenant()
    # Several of each kind are open by now.
    await asyncio.gather(*(app.agents.get(one.local, one.agent.agent_id()) for _ in range(8)))
    async with await connect_past(app, "postgres") as past:
        for _ in range(3):
            ended = await sql(
                past, f"SELECT pg_terminate_backend(pid, 10000) AS gone FROM pg_stat_activity WHERE {SERVING}"
            )
            assert len(ended) >= 3 and all(row["gone"] for row in ended)
            caller = await app.identity.agent(one.token)
            await app.audit.append(one.company.id, "test.looked")
            assert (await app.agents.get(one.local, caller.agent_id())).name == "ann"


async def test_nobody_waits_for_a_lock_or_a_statement_without_end(app: App) -> None:
    async with app.store.db.connection() as connection:
        found = await (
            await connection.execute(
                "SELECT current_setting('lock_timeout') AS lock, current_setting('statement_timeout') AS statement"
            )
        ).fetchone()
    assert found == {"lock": "10s", "statement": "30s"}
