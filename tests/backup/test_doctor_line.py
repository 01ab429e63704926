"""
What `doctor` says of the backups.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from company_agents.app import App
from company_agents.cli.doctor import _backups
from company_agents.sensitive import Sensitive


@pytest.fixture(autouse=True)
async def none_left(app: App) -> AsyncIterator[None]:
    """Each test begins and ends without a backup."""
    await _forget_all(app)
    yield
    await _forget_all(app)


async def _forget_all(app: App) -> None:
    for row in await app.backups.current():
        await app.backups.forget(row.id, "local:tester")


async def _run(app: App, statement: str, **given: Any) -> None:
    async with await app.identity.db.logins.instance.connect() as connection:
        await connection.execute(statement.encode(), given or None)


async def test_a_new_instance_has_none_yet_and_that_is_no_fault(app: App) -> None:
    found = await _backups(app)
    assert found.ok and found.detail.startswith("none yet; the schedule makes the first within a day")


async def test_a_good_one_is_said_with_its_age_and_its_place(app: App) -> None:
    made = await app.backups.make("local:tester")
    await _run(app, "UPDATE backups SET created_at = now() - interval '3 hours'")
    found = await _backups(app)
    assert found.ok
    assert found.detail == f"the newest good one is 3 hours old, {made.file}, in {app.backups.place.address}"


async def test_one_that_is_not_good_is_a_fault_with_what_to_do(app: App) -> None:
    given = {"i": uuid.uuid4(), "p": "it ends too early"}
    row = "INSERT INTO backups (id, file, place, state, verified_at, verify_problem)"
    await _run(app, f"{row} VALUES (%(i)s, 'bad.tar.zst', '/srv', 'whole', now(), %(p)s)", **given)
    found = await _backups(app)
    assert not found.ok and "bad.tar.zst did not pass its last verification: it ends too early" in found.detail
    assert "`company-agents backup verify FILE`" in found.hint


async def test_an_old_instance_whose_schedule_never_made_one_is_a_fault(app: App) -> None:
    watch = dataclasses.replace(app.backup_watch, since=app.backup_watch.since.replace(year=2020))
    found = await _backups(dataclasses.replace(app, backup_watch=watch))
    assert not found.ok and found.detail == "there is no good backup of the schedule"


async def test_on_an_own_database_none_by_schedule_is_no_fault(app: App) -> None:
    settings = app.settings.model_copy(update={"database_url": Sensitive("postgresql://db.example/agents")})
    watch = dataclasses.replace(app.backup_watch, scheduled=False, since=app.backup_watch.since.replace(year=2020))
    found = await _backups(dataclasses.replace(app, settings=settings, backup_watch=watch))
    assert found.ok and "your Postgres service's own are yours to see to" in found.detail
    assert "`company-agents backup export` makes one; none is known" in found.detail
    off = await _backups(dataclasses.replace(app, backup_watch=watch))
    assert off.ok and off.detail == "none is made by schedule, `company-agents backup export` makes one; none is known"


async def test_a_place_that_cannot_be_used_is_a_fault(app: App) -> None:
    made = await app.backups.make("local:tester")
    folder = app.settings.home / "data" / "backups"
    aside = folder.rename(folder.with_name("aside"))
    folder.write_text("no folder")
    try:
        found = await _backups(app)
        assert not found.ok and str(folder) in found.detail and found.hint
        assert [row.id for row in await app.backups.rows()] == [made.id]
    finally:
        folder.unlink()
        aside.rename(folder)
