"""
Everything of a company by its name: for checkboxes, and for events, which know only ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from company_agents.backup.health import Concern
from company_agents.dashboard import words
from company_agents.dashboard.visit import Visit
from company_agents.errors import NotFound
from company_agents.identity.agents import Agent
from company_agents.identity.paging import MOST
from company_agents.integrations.integrations import Integration


async def all_agents(visit: Visit) -> list[Agent]:
    """Every agent of the company, oldest first."""
    page = await visit.app.agents.list(visit.caller, limit=MOST)
    agents = page.items
    while page.next is not None:
        page = await visit.app.agents.list(visit.caller, page.next, MOST)
        agents += page.items
    return agents


async def all_integrations(visit: Visit) -> list[Integration]:
    """Every integration of the company, oldest first."""
    page = await visit.app.integrations.list(visit.caller, limit=MOST)
    integrations = page.items
    while page.next is not None:
        page = await visit.app.integrations.list(visit.caller, page.next, MOST)
        integrations += page.items
    return integrations


async def key_warnings(visit: Visit) -> list[str]:
    """What an owner of the instance should do about the master key; nobody else is told."""
    return words.key_warnings(await visit.app.keys.status(counted=False)) if visit.may("KEY_READ") else []


async def backup_concerns(visit: Visit) -> list[Concern]:
    """What an owner of the instance should do about the backups; nobody else is told."""
    return await visit.app.backup_watch.concerns() if visit.may("BACKUP_READ") else []


async def events_of(visit: Visit, found: list[dict[str, Any]]) -> list[words.Event]:
    """Events in plain words, with names in place of ids."""
    names = await _people(visit, found)
    if visit.company is not None:
        names |= {str(agent.id): agent.name for agent in await all_agents(visit)}
        names |= {str(integration.id): integration.name for integration in await all_integrations(visit)}
    return [words.event(event, names) for event in found]


class Names:
    """Who did something, by name: of labels as `operator:<id>`. Each person is looked up once."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._known: dict[str, str] = {}

    async def add(self, labels: Iterable[str]) -> None:
        """Look up those that are not known yet."""
        new = {
            label for label in labels if label.startswith("operator:") and label.partition(":")[2] not in self._known
        }
        self._known |= await _people(self._visit, [{"actor": label} for label in new])

    def who(self, label: str, agent: str | None = None) -> str:
        """Somebody by name; `agent` is that of the agent where a label is one's, or its run's."""
        return agent or words.who(label, self._known)


async def _people(visit: Visit, found: list[dict[str, Any]]) -> dict[str, str]:
    names = {}
    for actor in {str(event.get("actor", "")) for event in found}:
        kind, _, name = actor.partition(":")
        if kind == "operator":
            try:
                names[name] = (await visit.app.operators.get(UUID(name))).name
            except NotFound:
                continue
    return names
