"""
The whole schema on every Postgres that is at hand: the one installed with us, and those of the system.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from company_agents.app import open_app
from company_agents.sensitive import Sensitive
from company_agents.settings import read_settings
from tests.conftest import LOCAL
from tests.database.processes import clean
from tests.outgoing.servers import reply, serve

# Where Debian and Fedora put them; None is ours.
PLACES = [None, *sorted(Path("/usr").glob("lib/postgresql/1[5-8]/bin")), *sorted(Path("/usr").glob("pgsql-1[5-8]/bin"))]


@pytest.mark.parametrize("programs", PLACES, ids=lambda place: place.parent.name if place else "ours")
async def test_an_instance_works_on_this_postgres(tmp_path: Path, programs: Path | None) -> None:
    home = tmp_path / "home"
    settings = read_settings(home=home, database_url=None, postgres_bin=programs)
    try:
        async with open_app(settings) as app, serve(reply(b"{}", content_type="application/json")) as provider:
            company = await app.companies.create(LOCAL, "Acme")
            local = await app.identity.in_company(LOCAL, company.id)
            agent, token = await app.agents.create(local, "ann")
            caller = await app.identity.agent(token.reveal_text())
            await app.integrations.connect(
                local,
                "generic",
                Sensitive("a-token-of-the-provider"),
                base_url=provider.url,
                allow_private_network=True,
                allow=[agent.id],
            )
            assert (await app.requests.request(caller, "generic", "GET", "/")).status == 200
            await app.memory.write(caller, "what was said")
            assert await app.memory.search(caller, "said")
            task = await app.tasks.create(caller, "a task")
            await app.tasks.comment(caller, task.id, "a remark")
            await app.agents.rotate_token(local, agent.id)
        async with open_app(settings) as app:
            verified = await app.keys.verify()
            assert (len(verified.bad), verified.opened) == (0, 3)
            assert [chain.faults for chain in await app.events.verify_all()] == [(), ()]
            found = await app.agents.get(await app.identity.in_company(LOCAL, company.id), agent.id)
            assert found.token_last_used_at is not None
    finally:
        clean(home)
