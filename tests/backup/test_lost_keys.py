"""
Backups whose master key got out, and was destroyed.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from company_agents.backup.schedule import due
from company_agents.cli.doctor import _backups
from company_agents.sensitive import Sensitive
from tests.backup.instances import PASSPHRASE, exported
from tests.conftest import LOCAL
from tests.rotation.place import Place, rotate

QUIET, YEAR = timedelta(hours=3), timedelta(days=365)


async def test_after_a_key_that_got_out_was_destroyed_no_backup_of_before_counts_until_one_is_made(
    new: Place, tmp_path: Path
) -> None:
    async with new.open() as app:
        company = await app.companies.create(LOCAL, "Acme")
        here = await app.identity.in_company(LOCAL, company.id)
        async with here.scope.transaction() as tx:
            await app.store.put(tx, "a secret", Sensitive("a value"))
        old = new.only("active")
        made = await app.backups.make("schedule", scheduled=True)
        plain = await exported(app, tmp_path / "plain.tar.zst")
        ring = await exported(app, tmp_path / "ring.tar.zst", PASSPHRASE)
        assert all(row.good for row in await app.backups.rows())
        new.sql("UPDATE backups SET state = 'gone' WHERE id = %(i)s", i=ring.id)
        assert (await rotate(app, compromised=True)).destroyed

        rows = await app.backups.rows()
        assert {(row.id, row.good, row.lost_keys) for row in rows} == {
            (each.id, False, (old,)) for each in (made, plain)
        }
        [concern] = app.backup_watch.of(rows)
        assert concern.kind == "key" and old in concern.sentence
        found = await _backups(app)
        assert not found.ok and found.detail.startswith(f"no backup restores any more: the key {old} was destroyed")
        assert "`company-agents backup make`" in found.hint
        now = datetime.now(UTC)
        assert due(now, rows, quiet=QUIET, since=now - YEAR, secrets=True)

        again = await app.backups.make("schedule", scheduled=True)
        rows = await app.backups.rows()
        assert [row.id for row in rows if row.good] == [again.id]
        assert app.backup_watch.of(rows) == []
        assert (await _backups(app)).ok
        assert not due(now + timedelta(minutes=1), rows, quiet=QUIET, since=now - YEAR, secrets=True)


async def test_a_backup_that_has_its_key_ring_outlives_the_key(new: Place, tmp_path: Path) -> None:
    async with new.open() as app:
        made = await exported(app, tmp_path / "ring.tar.zst", PASSPHRASE)
        await rotate(app, compromised=True)
        [row] = await app.backups.rows()
        assert (row.id, row.good, len(row.lost_keys)) == (made.id, True, 1)


async def test_a_key_that_is_being_destroyed_or_that_nobody_knows_is_lost_and_an_archived_one_is_not(
    new: Place,
) -> None:
    async with new.open() as app:
        old = new.only("active")
        await app.backups.make("local:tester")
        await rotate(app)
        assert new.states()[old] == "archived"
        for change, lost in (
            ("UPDATE master_keys SET state = 'destroying' WHERE key_id = %(k)s", True),
            ("UPDATE master_keys SET state = 'archived' WHERE key_id = %(k)s", False),
            ("DELETE FROM master_keys WHERE key_id = %(k)s", True),
        ):
            new.sql(change, k=old)
            [row] = await app.backups.rows()
            assert row.lost is lost and row.lost_keys == ((old,) if lost else ())
