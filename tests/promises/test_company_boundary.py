"""
One company cannot see another, whatever a statement says: the database itself sees to it. The tables are taken
from its catalog, so that one that is new is covered, or fails here.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from psycopg import errors

from company_agents.app import App
from company_agents.errors import ApprovalNeeded, NotFound, Unauthenticated
from company_agents.identity.permissions import Role
from company_agents.identity.tokens import new_agent_token, new_run_token
from company_agents.integrations.rules import Rules
from company_agents.integrations.usage import Usage
from company_agents.integrations.wanted import Wanted
from company_agents.outbox.events import Message
from company_agents.outbox.webhooks import queue
from company_agents.sensitive import Sensitive
from tests.conftest import LOCAL, Tenant
from tests.dashboard.people import member
from tests.promises.evidence import Past, connect_integration, recorded, sql

MakeTenant = Callable[[], Awaitable[Tenant]]

# What every role may read: the id of the instance, and which master keys there are. Nothing of a company.
OF_NOBODY = {"instance", "master_keys"}
# Invitations lead to a company and are the instance's, as people are: the scope of a company shows none.
OF_THE_INSTANCE = {"sign_in_links"}
SEEN_BY_THE_INSTANCE = {"companies", "memberships", *OF_THE_INSTANCE}

TABLES = """
SELECT c.relname AS name, c.relkind AS kind, c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced,
       CASE WHEN c.relname = 'companies' THEN 'id' ELSE
           (SELECT a.attname FROM pg_attribute a
            WHERE a.attrelid = c.oid AND a.attname IN ('company_id', 'chain') AND NOT a.attisdropped) END AS owner,
       ARRAY(SELECT p.polname FROM pg_policy p WHERE p.polrelid = c.oid ORDER BY 1)::text[] AS policies
FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
ORDER BY c.relname
"""


@dataclass(frozen=True)
class World:
    """Two companies with a row in every table, and which column of each table says whose a row is."""

    mine: Tenant
    theirs: Tenant
    tables: dict[str, str]

    async def of(self, superuser: Past, tenant: Tenant) -> dict[str, list[str]]:
        """Every row of a company with the transaction that wrote it last, as text."""
        rows = {}
        for table, owner in self.tables.items():
            query = f"SELECT t::text || t.xmin::text AS row FROM {table} t WHERE {owner} = %(c)s ORDER BY 1"
            rows[table] = [row["row"] for row in await sql(superuser, query, c=tenant.company.id)]
        return rows


async def catalog(superuser: Past) -> list[dict[str, Any]]:
    return await sql(superuser, TABLES)


async def furnish(app: App, tenant: Tenant, provider: Any) -> Tenant:
    """One of everything that a company can have."""
    integration = await connect_integration(app, tenant, provider)
    await app.rulebook.set(tenant.local, integration.id, Rules.read(ask=["POST /asked"], per_minute=1000))
    with pytest.raises(ApprovalNeeded):
        await app.requests.request(tenant.agent, str(integration.id), "POST", "/asked")
    task = await app.tasks.create(tenant.local, "a task", assignee=tenant.agent.agent_id())
    await app.tasks.comment(tenant.local, task.id, "a remark")
    await app.memory.write(tenant.agent, "a note")
    run, _ = await app.runs.open(tenant.agent)
    await app.clients.configure(tenant.local, "slack", client_id="17.17", secret=Sensitive("a-client-secret"))
    await app.flows.begin(tenant.local, Wanted("slack", name="by consent"), session_id=uuid.uuid4())
    hook, _ = await app.outbox.webhooks.create(tenant.local, "https://hooks.example.com/", ["key.rotated"])
    async with tenant.local.scope.transaction() as tx:
        of_run = {"id": run.id, "company_id": tenant.company.id, "fence": run.fencing_token}
        await tx.run("run_output_add", streams=["output"], texts=["a word"], **of_run)
        await queue(tx, hook.id, Message(f"evt_{uuid.uuid4().hex}", "key.rotated", "{}"))
    await app.operators.invite(tenant.local, Role.VIEWER)
    await app.limits.set(tenant.local, None, {"month_tokens": 1000})
    await app.spending.record(tenant.agent, uuid.uuid4(), "anthropic", Usage(model="a-model", input_tokens=5))
    agent = tenant.agent.agent_id()
    await app.adapters.set(
        tenant.local, agent, "http", {"url": "http://127.0.0.1:9/work", "allow_private_network": True}
    )
    await app.schedules.create(tenant.local, agent, "each morning", "0 9 * * *", "the morning's work")
    return tenant


@pytest.fixture
async def world(app: App, tenant: MakeTenant, provider: Any, superuser: Past) -> World:
    tables = {row["name"]: row["owner"] for row in await catalog(superuser) if row["owner"]}
    both = [await furnish(app, await tenant(), provider) for _ in range(2)]
    operator = uuid.uuid4()
    await sql(
        superuser,
        "INSERT INTO operators (id, name, password_hash) VALUES (%(o)s, %(n)s, 'x')",
        o=operator,
        n=f"person {operator.hex[:8]}",
    )
    for one in both:
        given = {"c": one.company.id, "o": operator}
        await sql(
            superuser,
            "INSERT INTO memberships (operator_id, company_id, role) VALUES (%(o)s, %(c)s, 'viewer')",
            **given,
        )
        await sql(
            superuser,
            "INSERT INTO idempotency_keys (company_id, principal, key, request_hash) VALUES (%(c)s, 'x', 'x', 'x')",
            c=one.company.id,
        )
        await sql(
            superuser,
            "INSERT INTO audit_sink_cursors (sink, chain, seq, mac) VALUES ('a sink', %(c)s, 1, 'x')",
            c=one.company.id,
        )
    found = World(both[0], both[1], tables)
    for one in both:
        empty = [table for table, rows in (await found.of(superuser, one)).items() if not rows]
        assert empty == [], "a table is new: give it a row in this fixture, so that the boundary is tried on it"
    return found


# — the catalog —


async def test_row_level_security_is_enabled_and_forced_on_every_table_with_a_companys_rows(superuser: Past) -> None:
    tables = [row for row in await catalog(superuser) if row["owner"]]
    assert {row["name"] for row in tables} > {"secrets", "agents", "integrations", "audit_events", "companies"}
    assert [row["name"] for row in tables if not (row["enabled"] and row["forced"])] == []
    assert [row["name"] for row in tables if row["kind"] != "r"] == []
    assert [row["name"] for row in tables if len(row["policies"]) != 2] == []


async def test_every_table_that_a_request_can_read_is_behind_a_policy_or_has_nothing_of_a_company(
    superuser: Past,
) -> None:
    readable = await sql(
        superuser,
        """SELECT c.relname AS name FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
           AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
           AND has_any_column_privilege('company_agents_serve', c.oid, 'SELECT, INSERT, UPDATE, REFERENCES')""",
    )
    assert {row["name"] for row in readable} == OF_NOBODY


async def test_nothing_in_the_schema_runs_with_the_rights_of_somebody_else(superuser: Past) -> None:
    functions = await sql(
        superuser,
        "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND (prosecdef OR proleakproof)",
    )
    rules = await sql(
        superuser, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relhasrules"
    )
    assert (functions, rules) == ([], [])


async def test_only_the_instance_role_has_a_policy_that_shows_every_company(superuser: Past) -> None:
    policies = await sql(
        superuser,
        """SELECT tablename, policyname, roles::text[] AS roles, permissive, cmd, qual, with_check FROM pg_policies
           WHERE schemaname = 'public'""",
    )
    assert policies
    for policy in policies:
        if policy["roles"] == ["company_agents_instance"]:
            continue
        assert policy["roles"] == ["public"]
        # No check of its own: what may be seen is what may be written. And what may be seen hangs on the scope.
        assert policy["with_check"] is None
        assert "scope_company()" in policy["qual"] or "scope_instance()" in policy["qual"]


# — a connection that serves requests —


async def in_scope(connection: Past, company: UUID | None) -> None:
    await sql(connection, "SELECT set_config('company_agents.company', %(c)s, true)", c=str(company or ""))


async def rights(connection: Past, table: str) -> set[str]:
    names = ("SELECT", "INSERT", "UPDATE", "DELETE")
    [row] = await sql(
        connection,
        "SELECT " + ", ".join(f"has_table_privilege('{table}', '{name}') AS {name.lower()}" for name in names),
    )
    return {name for name in names if row[name.lower()]}


async def test_every_statement_without_a_where_touches_only_the_rows_of_its_company(
    app: App, world: World, superuser: Past, serving: Past
) -> None:
    mine = world.mine.company.id
    await app.store.flush_used()
    before = await world.of(superuser, world.theirs)
    for table, owner in world.tables.items():
        async with serving.transaction():
            await in_scope(serving, mine)
            seen = {row["owner"] for row in await sql(serving, f"SELECT {owner} AS owner FROM {table}")}
            assert seen == (set() if table in OF_THE_INSTANCE else {mine}), table
            if "UPDATE" in await rights(serving, table):
                changed = await serving.execute(f"UPDATE {table} SET {owner} = {owner}".encode())
                assert (changed.rowcount >= 1) == (table not in OF_THE_INSTANCE)
    await delete_everything(serving, mine, world.tables)
    assert await world.of(superuser, world.theirs) == before
    left = {table for table, rows in (await world.of(superuser, world.mine)).items() if rows}
    assert left == {"companies", "audit_events", "audit_heads", *OF_THE_INSTANCE}


async def delete_everything(serving: Past, company: UUID, tables: dict[str, str]) -> None:
    """DELETE FROM every table that it may delete from, those first that others refer to last."""
    left = [table for table in tables if "DELETE" in await rights(serving, table)]
    assert len(left) >= 10
    while left:
        kept = []
        for table in left:
            try:
                async with serving.transaction():
                    await in_scope(serving, company)
                    await sql(serving, f"DELETE FROM {table}")
            except errors.ForeignKeyViolation:
                kept.append(table)
        assert len(kept) < len(left)
        left = kept


async def test_a_row_of_another_company_can_neither_be_inserted_nor_made_of_ones_own(
    world: World, superuser: Past, serving: Past
) -> None:
    mine, theirs = world.mine.company.id, world.theirs.company.id
    for table, owner in world.tables.items():
        query = f"SELECT to_jsonb(t) AS row FROM {table} t WHERE {owner} = %(c)s LIMIT 1"
        [found] = await sql(superuser, query, c=theirs)
        insert = f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_record(NULL::{table}, %(r)s::jsonb)"
        await is_refused(serving, mine, insert, r=json.dumps(found["row"]))
        if table not in OF_THE_INSTANCE and "UPDATE" in await rights(serving, table):
            await is_refused(serving, mine, f"UPDATE {table} SET {owner} = %(c)s", c=theirs)


async def is_refused(serving: Past, scope: UUID | None, statement: str, **params: Any) -> None:
    with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
        async with serving.transaction():
            await in_scope(serving, scope)
            await sql(serving, statement, **params)


@pytest.mark.parametrize("scope", ["none", "an empty one", "of a company that there is not"])
async def test_without_the_scope_of_a_company_nothing_of_any_is_found_or_written(
    world: World, superuser: Past, serving: Past, scope: str
) -> None:
    given = {"none": None, "an empty one": None, "of a company that there is not": uuid.uuid4()}[scope]
    for table, owner in world.tables.items():
        async with serving.transaction():
            if scope != "none":
                await in_scope(serving, given)
            assert await sql(serving, f"SELECT {owner} FROM {table}") == []
            if "UPDATE" in await rights(serving, table):
                assert (await serving.execute(f"UPDATE {table} SET {owner} = {owner}".encode())).rowcount == 0
            if "DELETE" in await rights(serving, table):
                assert (await serving.execute(f"DELETE FROM {table}".encode())).rowcount == 0
        query = f"SELECT to_jsonb(t) AS row FROM {table} t WHERE {owner} = %(c)s LIMIT 1"
        [found] = await sql(superuser, query, c=world.mine.company.id)
        insert = f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_record(NULL::{table}, %(r)s::jsonb)"
        await is_refused(serving, given, insert, r=json.dumps(found["row"]))


async def test_the_scope_of_the_instance_shows_which_companies_there_are_and_nothing_that_is_theirs(
    app: App, world: World, serving: Past
) -> None:
    async with serving.transaction():
        await sql(serving, "SELECT set_config('company_agents.instance', 'on', true)")
        for table, owner in world.tables.items():
            found = {row["owner"] for row in await sql(serving, f"SELECT {owner} AS owner FROM {table}")}
            if table in SEEN_BY_THE_INSTANCE:
                assert world.mine.company.id in found
            else:
                assert found <= {None, app.instance.id}, table


async def test_a_scope_ends_with_its_transaction_and_a_statement_that_was_prepared_does_not_keep_it(
    world: World, serving: Past
) -> None:
    query = "SELECT id FROM agents"
    for tenant in (world.mine, world.theirs) * 5:
        async with serving.transaction():
            await in_scope(serving, tenant.company.id)
            rows = await (await serving.execute(query.encode(), prepare=True)).fetchall()
            assert [row["id"] for row in rows] == [tenant.agent.agent_id()]
        assert await (await serving.execute(query.encode(), prepare=True)).fetchall() == []


async def test_a_scope_that_is_no_id_is_an_error_and_no_scope(serving: Past) -> None:
    with pytest.raises(errors.InvalidTextRepresentation):
        async with serving.transaction():
            await sql(serving, "SELECT set_config('company_agents.company', '%%', true)")
            await sql(serving, "SELECT id FROM agents")


async def test_companies_at_work_at_once_on_shared_connections_see_their_own_rows_each(
    app: App, tenant: MakeTenant
) -> None:
    tenants = [await tenant() for _ in range(4)]

    async def look(one: Tenant) -> None:
        found = await app.agents.list(one.local)
        assert [agent.id for agent in found.items] == [one.agent.agent_id()]
        assert (await app.identity.agent(one.token)).agent_id() == one.agent.agent_id()
        async with one.local.scope.transaction() as tx:
            names = [row["name"] for row in await tx.all("secret_list", company_id=one.company.id)]
        assert names == [f"agent_token/{one.agent.agent_id()}"]

    await asyncio.gather(*(look(one) for _ in range(25) for one in tenants))


# — look-ups —


async def test_a_token_that_claims_another_company_or_agent_finds_nothing(app: App, world: World) -> None:
    mine, theirs = world.mine, world.theirs
    false = [
        (theirs.company.id, mine.agent.agent_id()),
        (mine.company.id, theirs.agent.agent_id()),
        (uuid.uuid4(), mine.agent.agent_id()),
    ]
    for company, agent in false:
        with pytest.raises(Unauthenticated):
            await app.identity.agent(new_agent_token(company, agent).reveal_text())
    ours, others = [(await app.runs.open(one.agent))[0].id for one in (mine, theirs)]
    for company, run in [(theirs.company.id, ours), (mine.company.id, others), (uuid.uuid4(), ours)]:
        with pytest.raises(Unauthenticated):
            await app.identity.run(new_run_token(company, run).reveal_text())
    refused = await recorded(app, None, "token.refused", reason="unknown")
    assert refused
    for tenant in (mine, theirs):
        assert (await app.identity.agent(tenant.token)).agent_id() == tenant.agent.agent_id()


async def test_a_false_claim_that_is_looked_up_together_with_good_ones_finds_nothing(app: App, world: World) -> None:
    async def who(token: str) -> UUID | None:
        try:
            return (await app.identity.agent(token)).agent_id()
        except Unauthenticated:
            return None

    mine, theirs = world.mine, world.theirs
    false = new_agent_token(mine.company.id, theirs.agent.agent_id()).reveal_text()
    answers = await asyncio.gather(*(who(token) for token in [mine.token, false, theirs.token, false] * 10))
    assert answers == [mine.agent.agent_id(), None, theirs.agent.agent_id(), None] * 10


async def test_a_secret_of_another_company_is_not_there(app: App, world: World) -> None:
    async with world.theirs.local.scope.transaction() as tx:
        theirs = [row["id"] for row in await tx.all("secret_list", company_id=world.theirs.company.id)]
    assert len(theirs) == 9
    for secret in theirs:
        with pytest.raises(NotFound):
            async with app.store.use(world.mine.local.scope, secret, actor="tester"):
                pass
        async with app.store.use(world.theirs.local.scope, secret, actor="tester") as use:
            assert use.secret


async def test_the_use_of_another_companys_secret_cannot_be_noted(app: App, world: World, superuser: Past) -> None:
    await app.store.flush_used()
    before = await world.of(superuser, world.theirs)
    async with world.theirs.local.scope.transaction() as tx:
        [secret, *_] = [row["id"] for row in await tx.all("secret_list", company_id=world.theirs.company.id)]
    app.store.used(world.mine.company.id, secret)
    app.store.used(None, secret)
    await app.store.flush_used()
    assert await world.of(superuser, world.theirs) == before


async def test_an_operator_of_one_company_is_nothing_in_another(app: App, world: World) -> None:
    person = await member(app, world.mine.local, Role.OWNER)
    _, token = await app.operators.create_token(LOCAL, "tests", 1, Role.OWNER, person.operator.id)
    principal = await app.identity.operator(token.reveal_text())
    assert (await app.identity.in_company(principal, world.mine.company.id)).role is Role.OWNER
    with pytest.raises(NotFound) as other:
        await app.identity.in_company(principal, world.theirs.company.id)
    with pytest.raises(NotFound) as none:
        await app.identity.in_company(principal, uuid.uuid4())
    assert (other.value.sentence, other.value.hint) == (none.value.sentence, none.value.hint)
