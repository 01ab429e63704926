"""
A trial restore: what it says of a good backup and of others, and that nothing of it stays.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from company_agents.app import App
from company_agents.db.host import SYSTEM_FOLDER
from company_agents.errors import NotFound
from tests.rotation.place import Place


def databases(home: Path) -> list[str]:
    """What embedded databases of homes below this one have in the system folder, as root."""
    if os.geteuid() != 0:
        return []
    return [note.name for note in SYSTEM_FOLDER.glob("*.home") if note.read_bytes().startswith(os.fsencode(home))]


def drilled_events(place: Place) -> list[dict[str, Any]]:
    """What the audit log has of trials, oldest first."""
    rows = place.sql("SELECT record FROM audit_events WHERE record LIKE '%%\"backup.drilled\"%%' ORDER BY chain, seq")
    return [json.loads(row["record"]) for row in rows]


async def drilled(app: App) -> tuple[str, str]:
    """What a trial says, and what is remembered of it."""
    found = await app.drill.run(None, "tester")
    [row] = [row for row in await app.backups.rows() if row.id == found.id]
    assert row.drilled_at is not None
    return found.problem, row.drill_problem


async def test_a_trial_opens_everything_and_leaves_nothing(copy: Place) -> None:
    async with copy.open() as app:
        with pytest.raises(NotFound):
            await app.drill.run(None, "tester")
        made = await app.backups.make("tester")
        # What a trial has left that was killed.
        (copy.home / "data" / ".drill-0123").mkdir()
        found = await app.drill.run(None, "tester")
        assert (found.id, found.problem, found.bad, found.faults) == (made.id, "", [], [])
        assert (found.rows, found.taken_at) == (made.rows, made.taken_at)
        # Tokens of runs and consents that were being asked for are dead after a restore, and so not opened.
        assert made.secrets - 5 < found.opened <= made.secrets
        assert found.events > 0
        assert (await app.keys.status()).source  # this instance's own key source is as it was
        assert not (await app.keys.verify()).bad
    assert not list((copy.home / "data").glob(".drill-*"))
    assert databases(copy.home) == []


async def test_a_trial_says_what_is_wrong_with_a_backup(copy: Place) -> None:
    async with copy.open() as app:
        made = await app.backups.make("tester")
        file = copy.home / "data" / "backups" / made.file
        content = bytearray(file.read_bytes())
        content[len(content) // 2 + 40_000] ^= 1
        file.write_bytes(content)
        found = await app.drill.run(None, "tester")
        assert (found.rows, found.opened, found.file) == (0, 0, made.file)
        said, remembered = await drilled(app)
        assert said == remembered
        assert "not whole" in said
        event = drilled_events(copy)[-1]
        assert (event["rows"], event["opened"], event["problem"]) == (0, 0, said)
    assert not list((copy.home / "data").glob(".drill-*"))
    assert databases(copy.home) == []


async def test_a_trial_fails_where_the_key_is_not_in_the_source_any_more(copy: Place) -> None:
    async with copy.open() as app:
        await app.backups.make("tester")
        keys = [*(copy.home / "secrets" / "keys").glob("*.key"), copy.home / "secrets" / "master.key"]
        for key in keys:
            key.rename(key.with_suffix(".away"))
        said, _ = await drilled(app)
        assert "is not in the key source" in said
        for key in keys:
            key.with_suffix(".away").rename(key)
