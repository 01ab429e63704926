"""
Instances that are there at once: each test has a copy of one database, on a server of the module.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from company_agents.app import open_app
from company_agents.sensitive import Sensitive
from company_agents.settings import read_settings
from tests.cli.postgres import OwnPostgres, own_postgres
from tests.conftest import LOCAL
from tests.rotation.place import PASSWORD, Place

SECRETS = 30


@pytest.fixture(scope="session")
def server() -> Iterator[OwnPostgres]:
    with own_postgres(PASSWORD) as server:
        yield server


@pytest.fixture(scope="session")
def original(server: OwnPostgres, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An instance with a company, an agent and some secrets. Nobody opens it: it is copied."""
    home = tmp_path_factory.mktemp("original") / "home"

    async def make() -> Place:
        address = server.address_of("app", PASSWORD)
        settings = read_settings(home=home, database_url=address, master_key_path=None, master_key_source=None)
        async with open_app(settings) as app:
            company = await app.companies.create(LOCAL, "the company")
            here = await app.identity.in_company(LOCAL, company.id)
            agent, _ = await app.agents.create(here, "ann")
            values = {}
            async with here.scope.transaction() as tx:
                for number in range(SECRETS):
                    value = f"the value number {number}".encode()
                    values[await app.store.put(tx, f"secret {number:03}", Sensitive(value))] = value
        return Place(server, "agents", home, company.id, agent.id, values)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, make()).result()


@pytest.fixture
def places(original: Place, tmp_path: Path) -> Iterator[Callable[[], Place]]:
    """Makes instances, as many as are asked for, each with a copy of the database and of the keys."""
    with contextlib.ExitStack() as stack:

        def make() -> Place:
            home = tmp_path / uuid.uuid4().hex[:8] / "home"
            shutil.copytree(original.home, home)
            place = original.copied(home)
            stack.callback(place.drop)
            return place

        yield make


@pytest.fixture
def place(places: Callable[[], Place]) -> Place:
    return places()
