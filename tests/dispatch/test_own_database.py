"""
Runs on a Postgres of one's own, with one user for requests and one for everything else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import psycopg

from company_agents.app import open_app
from company_agents.settings import read_settings
from tests.cli.postgres import own_postgres
from tests.conftest import LOCAL
from tests.dispatch.conftest import Scripted, until

PASSWORD = "a password of the tests"


async def test_runs_are_executed_over_the_second_address_where_the_first_may_be_a_pooler(tmp_path: Path) -> None:
    with own_postgres(PASSWORD) as server:
        with server.connect() as administrator:
            administrator.execute(f"CREATE ROLE serving LOGIN PASSWORD '{PASSWORD}'".encode())
            administrator.execute(f"CREATE ROLE direct LOGIN CREATEROLE PASSWORD '{PASSWORD}'".encode())
            administrator.execute(b"CREATE ROLE company_agents_serve; GRANT company_agents_serve TO serving")
            administrator.execute(b"GRANT company_agents_serve TO direct WITH ADMIN OPTION")
            administrator.execute(b"ALTER DATABASE agents OWNER TO direct")
        given = {
            "database_url": server.address_of("serving", PASSWORD, "agents"),
            "database_direct_url": server.address_of("direct", PASSWORD, "agents"),
        }
        adapter = Scripted()
        async with open_app(read_settings(home=tmp_path / "home", port=0, **given), long_lived=True) as app:
            cast(dict[str, Any], app.adapters.kinds)["llm"] = adapter
            company = await app.companies.create(LOCAL, "ours")
            local = await app.identity.in_company(LOCAL, company.id)
            agent, _ = await app.agents.create(local, "ann")
            with psycopg.connect(server.address_of("administrator", "administrator", "agents")) as connection:
                connection.execute("UPDATE agents SET adapter = 'llm'")
            run = await app.runs.start(local, agent.id, prompt="the work")

            async def finished() -> bool:
                return (await app.runs.get(local, run.id)).state == "finished"

            await until(finished, "the run was not finished")
            with psycopg.connect(server.address_of("administrator", "administrator", "agents")) as connection:
                query = "SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name = 'company-agents jobs'"
                assert connection.execute(query).fetchall() == [("direct",)]
        assert len(adapter.begun) == 1
