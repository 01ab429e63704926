"""
In whose name rows are read and written. You are given a scope; you never pass a company id along.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from uuid import UUID

from company_agents.db.database import Database, Tx


@dataclass(frozen=True, slots=True)
class CompanyScope:
    """The rows of one company. Row-level security sees to it that a forgotten WHERE finds nothing else."""

    company_id: UUID
    db: Database = field(repr=False, compare=False)

    def transaction(self) -> AbstractAsyncContextManager[Tx]:
        """A transaction that sees this company."""
        return self.db.transaction(self.company_id)


@dataclass(frozen=True, slots=True)
class InstanceScope:
    """The instance's own rows: operators, sessions, the names of the companies. No company's secrets or work."""

    db: Database = field(repr=False, compare=False)

    @property
    def company_id(self) -> None:
        """There is none."""
        return None

    def transaction(self) -> AbstractAsyncContextManager[Tx]:
        """A transaction that sees the instance's own rows."""
        return self.db.transaction(None)


Scope = CompanyScope | InstanceScope
