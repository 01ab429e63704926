"""
A backup of an older version: it is restored into the schema that it was made of, which is then brought up to date.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from company_agents.backup.export import Export
from company_agents.crypto.keyring import KeyRing
from company_agents.db.copying import CopySession
from company_agents.db.logins import Login, external_logins
from company_agents.db.migrate import known_migrations, migrate
from company_agents.sensitive import Sensitive
from tests.backup.instances import Office, comes_back, empty_database, is_back, manifest_of, restored
from tests.cli.postgres import ADMINISTRATOR, OwnPostgres
from tests.outgoing.servers import Server
from tests.rotation.place import Place, rotate

COLUMNS = """
SELECT c.relname AS name, array_agg(a.attname::text ORDER BY a.attnum) AS columns
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
  AND a.attgenerated = '' AND c.relname <> 'schema_migrations'
GROUP BY 1 ORDER BY 1
"""


@contextlib.contextmanager
def as_of(office: Office, postgres: OwnPostgres, home: Path) -> Iterator[Place]:
    """A place for the same instance, in a database that has no schema yet."""
    shutil.copytree(office.place.home, home)
    place = office.at(Place(postgres, empty_database(postgres), home, office.place.company, office.place.agent, {}))
    try:
        yield place
    finally:
        place.drop()


def filled(older: Place, office: Office) -> None:
    """Every row of the instance, as far as the older schema has room for it."""
    with older.connect() as into, office.place.connect() as source, into.transaction():
        into.execute("SET LOCAL session_replication_role = replica")
        for table in into.execute(COLUMNS.encode()).fetchall():
            name, columns = table["name"], ", ".join(table["columns"])
            into.execute(f"DELETE FROM {name}".encode())
            with (
                source.cursor().copy(f"COPY (SELECT {columns} FROM {name}) TO STDOUT".encode()) as out,
                into.cursor().copy(f"COPY {name} ({columns}) FROM STDIN".encode()) as copy,
            ):
                for part in out:
                    copy.write(part)


@pytest.mark.parametrize("steps", [8, 12])
async def test_one_of_an_older_schema_is_restored_and_brought_up_to_date(
    office: Office,
    files: dict[str, Path],
    postgres: OwnPostgres,
    new: Place,
    provider: Server,
    tmp_path: Path,
    steps: int,
) -> None:
    file = tmp_path / "older"
    with as_of(office, postgres, tmp_path / "older-home") as older:
        await migrate(external_logins(older.settings()), known_migrations()[:steps], [])
        filled(older, office)
        ring = KeyRing((await older.source.read()).keys)
        # The instance role of that time could not read which steps there were.
        login = Login(Sensitive(postgres.address_of(ADMINISTRATOR, ADMINISTRATOR, older.name)), None)
        with CopySession.open(login) as session, session.snapshot(), file.open("w+b") as out:
            Export(login, office.id, ring).write(session, out)
    manifest = manifest_of(file)
    assert manifest.schema.step == known_migrations()[steps - 1].version
    assert manifest.schema != manifest_of(files["plain"]).schema
    shutil.copytree(office.place.folder, new.folder)
    done = await restored(new, file)
    assert done.former == office.id
    await comes_back(office, new, provider)
    ledger = [row["version"] for row in new.sql("SELECT version FROM schema_migrations ORDER BY 1")]
    assert ledger == [step.version for step in known_migrations()]
    async with new.open() as app:
        assert (await rotate(app)).action == "rotated"
        await is_back(app, office, new, provider)
