"""
The master key is rotated while two orchestrators work: nobody notices, and nothing is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from company_agents.app import App, open_app
from company_agents.companies.scope import CompanyScope
from company_agents.identity.permissions import Kind
from company_agents.identity.principal import Principal, Via
from company_agents.settings import read_settings
from tests.conftest import remove
from tests.online.fill import fill
from tests.online.load import Load, command, under_load

SECRETS = 100_000
LOCAL = Principal(Kind.LOCAL, "tester", Via.CLI)


@pytest.fixture(scope="module")
async def home(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    folder = tmp_path_factory.mktemp("online") / "home"
    yield folder
    if (folder / "db").is_symlink():
        remove((folder / "db").resolve())


async def at_work_during(app: App, home: Path) -> tuple[Load, list[tuple[int, dict, list[dict]]], CompanyScope]:
    """Two rotations at once while two replicas work; ended when the rotation has, and a little more was written."""
    company = await app.companies.create(LOCAL, "busy")
    caller = await app.identity.in_company(LOCAL, company.id)
    _, token = await app.agents.create(caller, "ann")
    ids = await fill(app, company.id, SECRETS)
    # Over the whole table, so that each batch of the rotation has some that are written to.
    names = [f"filled/{secret_id}" for secret_id in ids[:: SECRETS // 400]]
    async with under_load(home, str(company.id), token.reveal_text(), names) as load:
        ended = await asyncio.gather(command(home, "key", "rotate"), command(home, "key", "rotate"))
        await asyncio.sleep(1)
    return load, list(ended), CompanyScope(company.id, app.store.db)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_hundred_thousand_secrets_are_moved_while_two_orchestrators_read_write_and_check(home: Path) -> None:
    async with open_app(read_settings(home=home)) as app:
        before = (await app.keys.status()).active.key_id
        load, ended, scope = await at_work_during(app, home)

        failures = [failure for seen in load.seen for failure in seen["failures"]]
        assert failures == []
        for seen in load.seen:
            assert {kind: len(calls) > 20 for kind, calls in seen["calls"].items()} == {
                "read": True,
                "write": True,
                "token": True,
            }

        # Of two rotations at once one runs, and the other says so.
        assert sorted(status for status, _, _ in ended) == [0, 75]
        refused = next(result for status, result, _ in ended if status == 75)
        assert refused["error"]["code"] == "key_busy"

        # Every write is there, also those that met the rotation in their row.
        for seen in load.seen:
            for name, value in seen["written"].items():
                secret = await app.store.open_own(scope, name)
                assert secret is not None and secret.reveal_text() == value

        status = await app.keys.status()
        states = {key.key_id: (key.state, key.rows) for key in status.keys}
        assert states[before] == ("archived", 0)
        assert status.active.rows == sum(rows for _, rows in states.values()) > SECRETS
        assert (await app.keys.verify()).bad == []
