"""
The first start of an instance: what it makes is on record.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from company_agents.app import App, open_app
from company_agents.settings import Settings, read_settings
from tests.database.processes import clean
from tests.promises.evidence import connect_past, sql


@pytest.fixture
async def fresh(tmp_path: Path) -> AsyncIterator[Settings]:
    home = tmp_path / "home"
    yield read_settings(home=home, database_url=None, master_key_path=None, master_key_source=None)
    clean(home)


async def _first_events(app: App) -> list[tuple[int, str, str]]:
    events = await app.events.newest(None, limit=10)
    return [(event["seq"], event["action"], event.get("key", "")) for event in reversed(events)]


async def test_the_first_event_of_an_instance_is_the_creation_of_its_key(fresh: Settings) -> None:
    async with open_app(fresh) as app:
        key = (await app.keys.status()).active.key_id
        created = (1, "key.created", key)
        assert await _first_events(app) == [created]
        # As after a kill between the registration of the key and the event: nothing is in the chain, and the mark that
        # the registration left says so.
        async with await connect_past(app, "postgres") as past:
            await sql(past, "DELETE FROM audit_events")
            await sql(past, "DELETE FROM audit_heads")
            await sql(past, "UPDATE master_keys SET recorded = false")
    async with open_app(fresh) as app:
        assert await _first_events(app) == [created]
    async with open_app(fresh) as app:
        assert await _first_events(app) == [created]
        assert [chain.faults for chain in await app.events.verify_all()] == [()]
