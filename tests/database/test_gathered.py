"""
Look-ups that share a round trip: each gets its own answer, and none an old one.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from company_agents.app import App
from company_agents.db.gathered import MOST_AT_ONCE, Gathered
from company_agents.errors import Unavailable
from company_agents.sensitive import Sensitive
from tests.conftest import Tenant

COMPANY = uuid.uuid4()


class Asked:
    """Answers with the id of each; waits for `go` before it does."""

    def __init__(self) -> None:
        self.statements: list[list[UUID]] = []
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, companies: list[UUID], ids: list[UUID]) -> list[dict[str, Any]]:
        assert len(companies) == len(ids)
        self.statements.append(ids)
        await asyncio.sleep(0)
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return [{"n": n, "id": row_id} for n, row_id in enumerate(ids, start=1) if row_id.int % 2]


def _number(row: dict[str, Any] | None) -> int | None:
    return None if row is None else int(row["id"])


async def test_those_that_arrive_meanwhile_go_together_and_not_with_what_was_sent_before() -> None:
    asked = Asked()
    gathered = Gathered(asked)
    first = asyncio.create_task(gathered.one(COMPANY, UUID(int=1)))
    await asyncio.sleep(0)
    assert asked.statements == [[UUID(int=1)]]
    later = [asyncio.create_task(gathered.one(COMPANY, UUID(int=number))) for number in range(2, 12)]
    await asyncio.sleep(0)
    asked.go.set()
    assert _number(await first) == 1
    found = await asyncio.gather(*later)
    assert [_number(row) for row in found] == [number if number % 2 else None for number in range(2, 12)]
    assert asked.statements == [[UUID(int=1)], [UUID(int=number) for number in range(2, 12)]]


async def test_a_statement_takes_a_bounded_number() -> None:
    asked = Asked()
    asked.go.set()
    gathered = Gathered(asked)
    numbers = range(1, 2 * MOST_AT_ONCE + 2)
    found = await asyncio.gather(*(gathered.one(COMPANY, UUID(int=number)) for number in numbers))
    assert [_number(row) for row in found] == [number if number % 2 else None for number in numbers]
    assert [len(ids) for ids in asked.statements] == [1, MOST_AT_ONCE, MOST_AT_ONCE]


async def test_a_failure_is_that_of_all_who_went_together_and_of_nobody_after_them() -> None:
    asked = Asked()
    asked.go.set()
    asked.error = Unavailable("the database does not answer")
    gathered = Gathered(asked)
    failed = await asyncio.gather(*(gathered.one(COMPANY, UUID(int=n)) for n in (1, 3, 5)), return_exceptions=True)
    assert [type(error) for error in failed] == [Unavailable] * 3
    assert [len(ids) for ids in asked.statements] == [1, 2]
    asked.error = None
    assert _number(await gathered.one(COMPANY, UUID(int=7))) == 7


@pytest.mark.parametrize("who", [0, 1], ids=["the one whose look-up is under way", "one of those that wait"])
async def test_one_who_gives_up_takes_nobody_along(who: int) -> None:
    asked = Asked()
    gathered = Gathered(asked)
    tasks = [asyncio.create_task(gathered.one(COMPANY, UUID(int=number))) for number in (1, 3, 5)]
    await asyncio.sleep(0)
    tasks[who].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[who]
    asked.go.set()
    found = [_number(await task) for task in tasks if task is not tasks[who]]
    assert found == [number for number in (1, 3, 5) if number != (1, 3, 5)[who]]
    assert _number(await gathered.one(COMPANY, UUID(int=7))) == 7


async def test_agents_of_many_companies_that_call_at_once_are_each_themselves(
    app: App, tenant: Callable[[], Awaitable[Tenant]]
) -> None:
    tenants = [await tenant() for _ in range(5)]
    callers = await asyncio.gather(*(app.identity.agent(one.token) for one in tenants * 20))
    assert [caller.scope.company_id for caller in callers] == [one.company.id for one in tenants * 20]
    assert [caller.agent_id() for caller in callers] == [one.agent.agent_id() for one in tenants * 20]


async def test_what_is_of_one_company_is_not_found_by_another_in_the_same_statement(
    app: App, tenant: Callable[[], Awaitable[Tenant]]
) -> None:
    one, other = await tenant(), await tenant()
    async with one.local.scope.transaction() as tx:
        secret = await app.store.put(tx, "a secret", Sensitive("a value of one company"))
    agent = one.agent.agent_id()
    claims = [other.company.id, one.company.id, other.company.id, one.company.id]
    looked = (app.store.db.look_up("agent_token_lookup", company, agent) for company in claims)
    found = await asyncio.gather(*looked)
    assert [row and row["company_id"] for row in found] == [None, one.company.id, None, one.company.id]
    read = (app.audit.append_and_read(company, secret, "test.read") for company in claims)
    found = await asyncio.gather(*read)
    assert [row and row["id"] for row in found] == [None, secret, None, secret]
