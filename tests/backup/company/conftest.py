"""
A company that moves, and instances that it moves to.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from company_agents.sensitive import Sensitive
from tests.backup.company.moved import (
    AWKWARD,
    PASSPHRASE,
    Source,
    a_company,
    copy_of,
    new_instance,
    remade,
    values_of,
)
from tests.cli.postgres import OwnPostgres
from tests.conftest import LOCAL
from tests.outgoing.servers import Server
from tests.promises.evidence import connect_integration
from tests.promises.test_company_boundary import furnish
from tests.rotation.place import Place

CANARY = "canary-of-another-company-" + uuid.uuid4().hex


@pytest.fixture(scope="session")
async def source(postgres: OwnPostgres, provider: Server, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """An instance with a company that has one of everything, another that nobody is to see, and a file of the first."""
    folder = tmp_path_factory.mktemp("source")
    place = new_instance(postgres, folder / "home")
    async with place.open() as app:
        mine, theirs = await a_company(app, "Acme"), await a_company(app, f"name-{CANARY}")
        for tenant in (mine, theirs):
            await furnish(app, tenant, provider)
        integration = await connect_integration(app, mine, provider, "used again")
        for text in AWKWARD:
            await app.memory.write(mine.agent, text)
            task = await app.tasks.create(mine.local, "awkward", description=text)
            await app.tasks.comment(mine.local, task.id, text)
        await app.memory.write(theirs.agent, f"memory-{CANARY}")
        await app.tasks.create(theirs.local, f"task-{CANARY}")
        async with theirs.local.scope.transaction() as tx:
            await app.store.put(tx, f"secret-{CANARY}", Sensitive(f"value-{CANARY}"))
        async with mine.local.scope.transaction() as tx:
            for number in range(1200):
                await app.store.put(tx, f"secret {number}", Sensitive(f"the value number {number}"))
            await app.store.put(tx, "an empty one", Sensitive(b""))
            await app.store.put(tx, "a long one\t\\N\n", Sensitive(bytes(range(256)) * 256))
        agent = mine.agent.agent_id()
        await app.adapters.set(mine.local, agent, "process", {"command": ["/bin/true"]}, unsandboxed=True)
        file = folder / "acme.company"
        await app.store.flush_used()
        await app.mover.export(LOCAL, "Acme", file, PASSPHRASE)
        canaries = [CANARY, theirs.token, str(theirs.company.id), str(theirs.agent.agent_id())]
        found = await values_of(app, place, mine.company.id)
        keys = [(await app.held.get(key)).secret.reveal() for key in place.states()]
    return Source(
        place,
        mine.company.id,
        agent,
        mine.token,
        integration.id,
        theirs.company.id,
        found,
        (*(canary.encode() for canary in canaries), *keys),
        file,
        remade(file, folder / "light.company"),
    )


@pytest.fixture(scope="session")
async def other(postgres: OwnPostgres, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Another instance, with a company of its own. Nobody opens it: it is copied."""
    place = new_instance(postgres, tmp_path_factory.mktemp("other") / "home")
    async with place.open() as app:
        await a_company(app, "at home here")
    return place


@pytest.fixture
def target(other: Place, tmp_path: Path) -> Iterator[Place]:
    place = copy_of(other, tmp_path / "target" / "home")
    yield place
    place.drop()
