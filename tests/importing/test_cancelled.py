"""
An import that is cancelled tells of all that was written, also where nobody had heard of it yet.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import pytest

from company_agents.app import App
from company_agents.identity.principal import Caller
from company_agents.integrations.env_file import read_env_file
from company_agents.integrations.importing import Addresses, Importer, Item, Outcome
from company_agents.integrations.integrations import Integration, Integrations
from company_agents.integrations.provider import Providers
from tests.cli.standin import StandIn
from tests.conftest import Tenant
from tests.importing.providers import ACME, TOKEN


@dataclasses.dataclass(frozen=True)
class CancelledAfterwards(Integrations):
    """Ctrl-C comes when an integration is committed, and before anybody has been told."""

    async def get(self, caller: Caller, integration_id: UUID) -> Integration:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return await super().get(caller, integration_id)


async def test_what_was_committed_when_the_signal_came_is_told_of_and_on_record(
    app: App, tenant: Callable[[], Awaitable[Tenant]], acme: StandIn, tmp_path: Path
) -> None:
    folder = tmp_path / "providers"
    folder.mkdir()
    (folder / "acme.toml").write_text(ACME)
    providers, caller = Providers.at(tmp_path), (await tenant()).local
    given = {each.name: getattr(app.integrations, each.name) for each in dataclasses.fields(Integrations) if each.init}
    cancelled = CancelledAfterwards(**{**given, "providers": providers})
    importer = Importer(cancelled, providers, app.audit, app.importer.read_vault)
    [candidate], _ = importer.recognised(read_env_file(f"ACME_TOKEN={TOKEN}".encode()))
    items: list[Item] = []

    async def connecting() -> None:
        at = Addresses({"acme": acme.url}, allow_private_network=True)
        await importer.connect(caller, candidate, items, source="file", addresses=at)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(connecting())
    [integration] = (await app.integrations.list(caller)).items
    assert items == [Item("ACME_TOKEN", "acme", Outcome.CONNECTED, integration.id)]
    events = await app.events.after(caller.scope.company_id, 0)
    assert "integration.imported" in [event["action"] for event in events]
