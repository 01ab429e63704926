"""
The instance as a whole: is it ready, and whose is this id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from company_agents.db.database import Database
from company_agents.errors import NotFound

# What has an id of its own, and a page of rows in the command of its name.
What = Literal["agent", "approval", "integration", "run", "schedule"]


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

    async def company_of(self, what: What, row_id: UUID) -> UUID:
        """
        In which company something is. For the command line: it sees all companies.

        Raises:
            NotFound: there is no such thing.
        """
        async with self.db.instance_transaction() as tx:
            row = await tx.one(f"locate_{what}", id=row_id)
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
