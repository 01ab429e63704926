"""
The instance as a whole: is it ready, and whose is this id.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from company_agents.db.database import Database
from company_agents.errors import NotFound


@dataclass(frozen=True)
class Instance:
    """One database with its key source."""

    id: UUID
    db: Database

    async def ready(self) -> None:
        """
        Raises:
            Unavailable: the database does not answer.
        """
        async with self.db.transaction(None) as tx:
            await tx.one("instance_get")

    async def company_of_agent(self, agent_id: UUID) -> UUID:
        """
        In which company an agent is. For the command line: it sees all companies.

        Raises:
            NotFound: there is no such agent.
        """
        return await self._located("locate_agent", agent_id, "agent")

    async def company_of_integration(self, integration_id: UUID) -> UUID:
        """
        In which company an integration is. For the command line: it sees all companies.

        Raises:
            NotFound: there is no such integration.
        """
        return await self._located("locate_integration", integration_id, "integration")

    async def company_of_run(self, run_id: UUID) -> UUID:
        """
        In which company a run is. For the command line: it sees all companies.

        Raises:
            NotFound: there is no such run.
        """
        return await self._located("locate_run", run_id, "run")

    async def company_of_schedule(self, schedule_id: UUID) -> UUID:
        """
        In which company a schedule is. For the command line: it sees all companies.

        Raises:
            NotFound: there is no such schedule.
        """
        return await self._located("locate_schedule", schedule_id, "schedule")

    async def company_of_approval(self, approval_id: UUID) -> UUID:
        """
        In which company an approval is. For the command line: it sees all companies.

        Raises:
            NotFound: there is no such approval.
        """
        return await self._located("locate_approval", approval_id, "approval")

    async def _located(self, query: str, row_id: UUID, what: str) -> UUID:
        async with self.db.instance_transaction() as tx:
            row = await tx.one(query, id=row_id)
        if row is None:
            raise NotFound(f"this {what} does not exist", hint=f"`company-agents {what} list --company ID` shows them")
        company_id: UUID = row["company_id"]
        return company_id


async def instance_id(db: Database) -> UUID:
    """The id of the instance that a database holds."""
    async with db.transaction(None) as tx:
        row = await tx.one("instance_get")
    assert row is not None
    found: UUID = row["id"]
    return found
