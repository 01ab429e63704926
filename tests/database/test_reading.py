"""
How much is read to find one row: as much in a large company as in a small one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from company_agents.app import App
from company_agents.db.database import Tx, array_text
from company_agents.db.sql import statements
from company_agents.sensitive import Sensitive
from tests.conftest import Tenant

OTHERS = 1000

READ = """
    SELECT coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::int AS rows FROM pg_stat_xact_user_tables
    WHERE relname IN ('secrets', 'agents')
"""


@pytest.fixture(scope="module")
async def large(app: App) -> Callable[[Tenant], Awaitable[None]]:
    async def fill(tenant: Tenant) -> None:
        async with tenant.local.scope.transaction() as tx:
            for number in range(OTHERS):
                await app.store.put(tx, f"other/{number}", Sensitive("another secret of the company"))
        # What autovacuum does within a minute.
        async with await app.store.db.logins.migrate.connect() as connection:
            await connection.execute("ANALYZE secrets, agents")

    return fill


async def _rows_read(tx: Tx, statement: str, params: Any) -> int:
    connection = tx._connection
    before = await (await connection.execute(READ)).fetchone()
    found = await (await connection.execute(statement, params)).fetchall()
    after = await (await connection.execute(READ)).fetchone()
    assert before is not None and after is not None and len(found) == 1
    read: int = after["rows"] - before["rows"]
    return read


async def test_one_row_is_found_without_reading_the_others_of_its_company(
    app: App, tenant: Callable[[], Awaitable[Tenant]], large: Callable[[Tenant], Awaitable[None]]
) -> None:
    one = await tenant()
    await large(one)
    company, agent = one.company.id, one.agent.agent_id()
    name = f"agent_token/{agent}"
    async with one.local.scope.transaction() as tx:
        row = await tx.one("secret_by_name", company_id=company, name=name)
        assert row is not None
        ways: dict[str, Any] = {
            "agent_token_lookup": (array_text([company]), array_text([agent])),
            "secret_lookup": (array_text([company]), array_text([row["id"]])),
            "secret_by_name": {"company_id": company, "name": name},
            "agent_get": {"id": agent},
        }
        texts = {**statements(), "secret_lookup": "SELECT * FROM secret_lookup(%s::uuid[], %s::uuid[])"}
        read = {query: await _rows_read(tx, texts[query], params) for query, params in ways.items()}
        # By all that is in the company, it would be a thousand; a table of few rows may be read whole.
        assert all(rows < OTHERS for rows in read.values()), read
        assert await _rows_read(tx, "SELECT count(*) FROM secrets WHERE name LIKE %s", ("%1%",)) > OTHERS
