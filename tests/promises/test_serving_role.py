"""
What the role that serves requests may not do, and that nothing starts with one that could do more. These keep the
boundary between companies where it is.
"""

from __future__ import annotations

import pytest
from psycopg import errors

from company_agents.app import App, open_app
from company_agents.errors import MayNotStart
from tests.promises.evidence import Past, connect_past, sql

FORBIDDEN = {
    "change an event": "UPDATE audit_events SET record = record",
    "delete an event": "DELETE FROM audit_events",
    "empty the chains": "TRUNCATE audit_events",
    "delete the end of a chain": "DELETE FROM audit_heads",
    "rename a company": "UPDATE companies SET name = name",
    "delete a company": "DELETE FROM companies",
    "turn row-level security off": "ALTER TABLE secrets DISABLE ROW LEVEL SECURITY",
    "not force it": "ALTER TABLE secrets NO FORCE ROW LEVEL SECURITY",
    "drop a policy": "DROP POLICY of_company ON secrets",
    "make a policy": "CREATE POLICY all_of_it ON secrets USING (true)",
    "change a function": "ALTER FUNCTION scope_company() SECURITY DEFINER",
    "replace a function": "CREATE OR REPLACE FUNCTION scope_instance() RETURNS boolean LANGUAGE sql AS 'SELECT true'",
    "make a function": "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "make a table": "CREATE TABLE mine (n int)",
    "make a temporary table": "CREATE TEMPORARY TABLE mine (n int)",
    "make a schema": "CREATE SCHEMA mine",
    "make a trigger": "CREATE TRIGGER mine AFTER INSERT ON secrets EXECUTE FUNCTION scope_company()",
    "become the instance's role": "SET ROLE company_agents_instance",
    "become the owner": "SET ROLE company_agents_migrate",
    "become a superuser": "SET ROLE postgres",
    "become somebody else": "SET SESSION AUTHORIZATION company_agents_instance",
    "be given a role": "GRANT company_agents_instance TO company_agents_serve",
    "make itself stronger": "ALTER ROLE company_agents_serve BYPASSRLS",
    "make a role": "CREATE ROLE mine",
    "switch triggers off": "SET session_replication_role = replica",
    "read a file of the server": "SELECT pg_read_file('PG_VERSION')",
    "run a program": "COPY (SELECT 1) TO PROGRAM 'true'",
    "register a master key": "INSERT INTO master_keys (key_id, state, source) VALUES ('ffffffffffffffff', 'active', '')",
    "change a master key": "UPDATE master_keys SET state = 'destroyed'",
    "count seals anew": "SELECT setval('master_key_seals', 0)",
    "read the ledger of the schema": "SELECT * FROM schema_migrations",
    "change the instance": "UPDATE instance SET id = id",
}


@pytest.mark.parametrize("what", FORBIDDEN)
async def test_the_role_that_serves_requests_may_not(serving: Past, what: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        await sql(serving, FORBIDDEN[what])


async def test_asking_for_no_row_level_security_gives_an_error_and_no_rows(serving: Past) -> None:
    await sql(serving, "SET row_security = off")
    with pytest.raises(errors.InsufficientPrivilege):
        await sql(serving, "SELECT * FROM secrets")


@pytest.mark.parametrize("role", ["company_agents_serve", "company_agents_instance", "company_agents_migrate"])
async def test_none_of_the_three_roles_is_stronger_than_it_must_be(superuser: Past, role: str) -> None:
    [row] = await sql(
        superuser,
        """SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication,
                  EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid) AS member
           FROM pg_roles r WHERE rolname = %(r)s""",
        r=role,
    )
    assert not any(row.values())


@pytest.mark.parametrize("statement", ["UPDATE audit_events SET record = record", "DELETE FROM audit_events"])
async def test_not_even_the_instance_role_may_change_what_is_recorded(app: App, statement: str) -> None:
    async with await connect_past(app, "company_agents_instance") as connection:
        with pytest.raises(errors.InsufficientPrivilege):
            await sql(connection, statement)


# — a role that could see more —

STRONGER = {
    "is a superuser": ("ALTER ROLE company_agents_serve SUPERUSER", "ALTER ROLE company_agents_serve NOSUPERUSER"),
    "has BYPASSRLS": ("ALTER ROLE company_agents_serve BYPASSRLS", "ALTER ROLE company_agents_serve NOBYPASSRLS"),
    "owns the tables": (
        "GRANT company_agents_migrate TO company_agents_serve",
        "REVOKE company_agents_migrate FROM company_agents_serve",
    ),
    "has the rights of company_agents_instance": (
        "GRANT company_agents_instance TO company_agents_serve",
        "REVOKE company_agents_instance FROM company_agents_serve",
    ),
}


@pytest.mark.parametrize("what", STRONGER)
async def test_an_instance_whose_serving_role_could_see_past_one_company_does_not_start(
    app: App, superuser: Past, what: str
) -> None:
    make, unmake = STRONGER[what]
    await sql(superuser, make)
    try:
        with pytest.raises(MayNotStart, match=what) as caught:
            async with open_app(app.settings):
                pass
    finally:
        await sql(superuser, unmake)
    assert (int(caught.value.exit_status), caught.value.reason) == (78, "serving_role")
    async with open_app(app.settings) as again:
        assert again.instance.id == app.instance.id
