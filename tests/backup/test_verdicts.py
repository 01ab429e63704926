"""
What is said of a backup is what the backup says: not what is missing here, and not what another one says that lies there.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from company_agents.app import App
from company_agents.backup import backups as backups_module
from company_agents.backup import files as files_module
from company_agents.backup.health import attempts_after, health, newest_good
from company_agents.backup.manifest import Broken, Newer, read_manifest
from company_agents.backup.place_failures import PlaceRefused
from company_agents.backup.places import FolderPlace
from company_agents.backup.rows import STOPPED, BackupRow
from company_agents.backup.schedule import due
from company_agents.backup.signature import sign
from company_agents.cli.doctor import _backups
from company_agents.crypto.keyring import KeyRing
from company_agents.errors import Failed, NotFound, Sealed, Unavailable
from tests.backup.instances import exported, manifest_of, remade
from tests.conftest import LOCAL
from tests.rotation.place import Place


@pytest.fixture
async def app(new: Place) -> AsyncIterator[App]:
    async with new.open(long_lived=True) as opened:
        yield opened


@pytest.fixture
async def made(app: App) -> Path:
    """The file of a backup of the schedule."""
    found = await app.backups.make("schedule", scheduled=True)
    return Path(found.place.removeprefix("file://")) / found.file


async def row_of(app: App) -> BackupRow:
    [row] = await app.backups.rows()
    return row


# — what is missing here —


def away(app: App, file: Path) -> None:
    file.parent.rename(file.parent.with_name("unmounted"))


def no_file(app: App, file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(("hinder", "error"), [(away, NotFound), (no_file, Unavailable)])
async def test_that_one_could_not_be_read_is_no_fault_of_it(
    app: App, made: Path, hinder: Callable[[App, Path], None], error: type[Exception]
) -> None:
    before = await row_of(app)
    hinder(app, made)
    with pytest.raises(error):
        await app.backups.verify(before.id)
    assert await row_of(app) == before and before.proved


async def test_that_its_key_is_not_in_the_source_just_now_is_no_fault_of_it(app: App, made: Path) -> None:
    before, ring = await row_of(app), app.held.ring
    app.held.ring = KeyRing()
    verdict = await app.backups.verify(before.id)
    assert (verdict.would_restore, verdict.at_fault) == (False, False) and "is not here" in verdict.because
    with pytest.raises(Failed, match="is not here"):
        await app.backups.prove(before.id)
    app.held.ring = ring
    assert await row_of(app) == before


async def test_under_a_seal_nobody_says_anything_of_it(app: App, made: Path) -> None:
    before = await row_of(app)
    await app.panic.seal("local:tester")
    try:
        with pytest.raises(Sealed):
            await app.backups.verify(before.id)
    finally:
        await app.panic.unseal("local:tester")
    assert await row_of(app) == before


async def test_one_of_a_later_version_is_not_said_to_be_bad_nor_whole(app: App, made: Path, tmp_path: Path) -> None:
    before, manifest = await row_of(app), manifest_of(made)
    later = replace(manifest, schema=replace(manifest.schema, step=manifest.schema.step + 1))
    signed = sign(app.held.ring.get(app.held.ring.keys[0].key_id), remade_text(made, tmp_path, later.schema))
    shutil.copy(remade(made, tmp_path / "later", signature=signed, schema=later.schema), made)
    for look in (app.backups.verify(before.id), app.backups.verify_file(made)):
        with pytest.raises(Newer):
            await look
    assert await row_of(app) == before


def remade_text(file: Path, folder: Path, schema: object) -> bytes:
    """What has to be signed of a file that is made anew."""
    text: bytes = manifest_of(remade(file, folder / uuid4().hex, schema=schema)).text()
    assert read_manifest(text).schema == schema
    return text


# — what lies there instead —


async def test_another_good_one_under_its_name_is_not_taken_for_it(app: App, made: Path) -> None:
    first = await row_of(app)
    other = await app.backups.make("local:tester")
    shutil.copy(made.parent / other.file, made)
    with pytest.raises(Broken, match="another one lies in its place"):
        await app.backups.verify(first.id)
    rows = {row.id: row for row in await app.backups.rows()}
    assert not rows[first.id].good and "another one" in rows[first.id].verify_problem
    assert rows[other.id].proved


# — what is not there —


async def test_one_that_is_not_there_any_more_does_not_count_until_it_is_there_again(app: App, made: Path) -> None:
    await app.backups.look()
    assert (await row_of(app)).proved and (await _backups(app)).ok
    aside = made.rename(made.with_name("aside"))
    await app.backups.look()
    row = await row_of(app)
    assert not row.good and row.missing_at is not None and "not where it was made" in row.problem
    found = await _backups(app)
    assert not found.ok and "is not where it was made" in found.detail
    # Asked again, it is missing since then.
    await app.backups.look()
    assert (await row_of(app)).missing_at == row.missing_at
    # It still keeps its keys.
    assert row.key_ids
    aside.rename(made)
    await app.backups.look()
    assert (await row_of(app)).proved and (await row_of(app)).problem == ""


async def test_where_the_place_is_another_folder_now_what_lies_there_counts(
    app: App, made: Path, tmp_path: Path
) -> None:
    await app.backups.look()
    moved = made.parent.rename(tmp_path / "moved")
    await app.backups.look()
    assert (await row_of(app)).missing_at is not None
    app.backups._place = FolderPlace(moved)
    await app.backups.look()
    row = await row_of(app)
    assert row.proved and row.scheduled and row.place == app.backups.place.address


async def test_one_that_cannot_be_read_hides_no_other_and_no_key_goes_meanwhile(
    app: App, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, beginning = app.backups.place, app.backups.place.beginning
    found = await exported(app, tmp_path / "a.backup")
    for number in (1, 2):
        shutil.copy(tmp_path / "a.backup", made.parent / f"company-agents-20260101T00000{number}Z-{0:012x}.tar.zst")
    async with app.backups.db.instance_transaction() as tx:
        await tx.run("backup_gone", id=found.id)

    async def begins(name: str, length: int) -> bytes:
        if "T000001Z" in name:
            raise PlaceRefused("it is another's")
        return await beginning(name, length)

    monkeypatch.setattr(place, "beginning", begins)
    before = await row_of(app)
    made.rename(made.with_name("aside"))
    with pytest.raises(Failed, match="cannot be read: it is another's"):
        await app.backups.look()
    rows = {row.id: row for row in await app.backups.rows()}
    assert rows[found.id].state == "whole" and rows[before.id].missing_at is not None
    with pytest.raises(Failed, match="cannot be read"):
        await app.pruner.prune(None, "tester")


# — whose clock —


class Slow(datetime):
    """The clock of a machine that is an hour behind the database's."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Slow:
        return cls.fromtimestamp(datetime.now(tz).timestamp() - 3600, tz)


async def test_a_clock_that_is_behind_the_databases_makes_no_backup_one_of_the_future(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups_module, "datetime", Slow)
    made = await app.backups.make("schedule", scheduled=True)
    rows = await app.backups.rows()
    assert app.backups.now() > rows[0].created_at
    last = newest_good(rows, app.backups.now())
    assert last is not None and last.id == made.id
    assert app.backup_watch.of(rows) == []
    assert not due(app.backups.now(), rows, quiet=timedelta(hours=3), since=rows[0].created_at, secrets=True)


# — what did not come to be —


async def test_one_that_failed_before_it_was_begun_can_be_forgotten(app: App) -> None:
    async with app.backups.db.instance_transaction() as tx:
        backup, place = uuid4(), app.backups.place.address
        await tx.run("backup_schedule_failed", id=backup, place=place, made_by="schedule", problem="no")
    assert (await app.backups.forget(backup, "local:tester")).id == backup
    assert await app.backups.rows() == []


async def test_one_that_was_stopped_has_not_failed(app: App, new: Place) -> None:
    with new.connect() as past, past.transaction():
        past.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        making = asyncio.create_task(app.backups.make("schedule", scheduled=True))
        async with asyncio.timeout(20):
            while not await app.backups.rows():
                await asyncio.sleep(0.02)
        making.cancel()
        # The one who makes it hears of that as soon as the table answers.
        await asyncio.sleep(0.1)
    with pytest.raises(asyncio.CancelledError):
        await making
    row = await row_of(app)
    assert (row.state, row.problem) == ("failed", STOPPED)
    now = datetime.now(UTC)
    assert attempts_after([row], None, now) == [] and "failed" not in {c.kind for c in health([row], now, True, now)}
    assert list((new.home / "data").glob(".new*")) == []


async def test_an_export_that_failed_after_it_had_its_name_keeps_its_keys(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        raise OSError(5, "input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(files_module, "sync_folder", full)
        with pytest.raises(Failed):
            await exported(app, tmp_path / "a.backup")
    row = await row_of(app)
    assert (row.state, (tmp_path / "a.backup").exists()) == ("failed", True)
    assert set(row.key_ids) == {app.held.ring.keys[0].key_id}
    await app.backups.look()
    assert (await row_of(app)).state == "whole"


# — what was tried —


async def test_the_last_trial_is_remembered_when_what_was_tried_was_taken_away(app: App, new: Place) -> None:
    await app.companies.create(LOCAL, "Acme")
    tried = await app.backups.make("schedule", scheduled=True)
    await app.backups.drilled(tried.id, "2 secrets do not open")
    new.sql("UPDATE backups SET created_at = now() - interval '200 days' WHERE id = %(i)s", i=tried.id)
    await app.backups.make("schedule", scheduled=True)
    await app.backups.place.delete(tried.file)
    async with app.backups.db.instance_transaction() as tx:
        await tx.run("backup_schedule_gone", id=tried.id)
        await tx.run("backup_schedule_forget", days=90)
    kinds = [concern.kind for concern in app.backup_watch.of(await app.backups.rows())]
    assert kinds == ["drill"]
    assert tried.id not in _ids(await app.backups.current())
    with pytest.raises(NotFound):
        await app.backups.get(tried.id)


def _ids(rows: list[BackupRow]) -> set[UUID]:
    return {row.id for row in rows}
