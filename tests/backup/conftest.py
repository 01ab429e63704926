"""
Instances that are backed up and restored: each on a database of its own, on one server.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from tests.backup.instances import PASSPHRASE, Office, empty_database, exported, make_office
from tests.cli.postgres import OwnPostgres, own_postgres
from tests.oauth.server import AuthorizationServer
from tests.outgoing.servers import Server, reply, serve
from tests.refresh.world import write_services
from tests.rotation.place import PASSWORD, Place

NOBODY = UUID(int=0)


@pytest.fixture(scope="session")
def postgres() -> Iterator[OwnPostgres]:
    with own_postgres(PASSWORD) as server:
        yield server


@pytest.fixture(scope="session")
async def provider() -> AsyncIterator[Server]:
    """The provider behind the agent's integration."""
    async with serve(reply(b'{"fine": true}', content_type="application/json")) as server:
        yield server


@pytest.fixture(scope="session")
async def hooks() -> AsyncIterator[Server]:
    """Who is told by webhook."""
    async with serve(reply(b"", "204 No Content")) as server:
        yield server


@pytest.fixture(scope="session")
def consents() -> Iterator[AuthorizationServer]:
    """The provider that gave a consent."""
    with AuthorizationServer() as server:
        yield server


@pytest.fixture(scope="session")
async def office(
    postgres: OwnPostgres,
    provider: Server,
    hooks: Server,
    consents: AuthorizationServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Office:
    """An instance that has one of everything."""
    home = tmp_path_factory.mktemp("office") / "home"
    place = Place(postgres, empty_database(postgres), home, NOBODY, NOBODY, {})
    return await make_office(place, provider, hooks, consents)


@pytest.fixture(scope="session")
async def files(office: Office, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two backups of it: `plain`, and with its `ring`."""
    folder = tmp_path_factory.mktemp("backups")
    found = {"plain": folder / "plain.tar.zst", "ring": folder / "ring.tar.zst"}
    async with office.place.open() as app:
        await exported(app, found["plain"])
        await exported(app, found["ring"], PASSPHRASE)
    return found


@pytest.fixture
def fresh(postgres: OwnPostgres, tmp_path: Path) -> Iterator[Callable[[], Place]]:
    """Makes new machines: a home with nothing in it but the files of providers, and an empty database."""
    with contextlib.ExitStack() as stack:

        def make() -> Place:
            home = tmp_path / uuid.uuid4().hex[:8] / "home"
            write_services(home)
            home.chmod(0o700)
            place = Place(postgres, empty_database(postgres), home, NOBODY, NOBODY, {})
            stack.callback(place.drop)
            return place

        yield make


@pytest.fixture
def new(fresh: Callable[[], Place]) -> Place:
    return fresh()


@pytest.fixture
def copy(office: Office, files: dict[str, Path], tmp_path: Path) -> Iterator[Place]:
    """The instance itself, to be changed: with a database and a home of its own."""
    home = tmp_path / "copy" / "home"
    shutil.copytree(office.place.home, home)
    place = office.place.copied(home)
    yield place
    place.drop()
