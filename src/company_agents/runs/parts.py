"""
The parts of this room, built once, in order. No behaviour here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.db.database import Database
from company_agents.integrations.versions import Versions
from company_agents.runs.adapters.base import Adapter
from company_agents.runs.claiming import Claims
from company_agents.runs.dispatch import Dispatcher
from company_agents.runs.jobs import Jobs
from company_agents.runs.model import LEASE
from company_agents.runs.moves import Moves
from company_agents.runs.runs import Runs
from company_agents.runs.sandbox.workspace import workspaces_folder
from company_agents.runs.schedules import Schedules
from company_agents.runs.starting import Starts
from company_agents.runs.sweeping import Sweeper
from company_agents.runs.workspaces import Workspaces
from company_agents.secret_store.store import SecretStore


@dataclass(frozen=True)
class RunParts:
    """Everything about runs but who executes them."""

    db: Database
    jobs: Jobs
    moves: Moves
    starts: Starts
    runs: Runs
    schedules: Schedules
    sweeper: Sweeper

    @classmethod
    def build(
        cls,
        store: SecretStore,
        audit: AuditLog,
        versions: Versions,
        lease: float = LEASE,
        adapters: Mapping[str, Adapter] = MappingProxyType({}),
        clean: Callable[[str], str] = lambda text: text,
    ) -> RunParts:
        """`lease` in seconds; `adapters` by their kind; `clean` takes open values out of a text."""
        jobs = Jobs(store.db)
        moves = Moves(store, audit, versions, jobs.defer, lease)
        starts = Starts(moves, adapters)
        return cls(
            db=store.db,
            jobs=jobs,
            moves=moves,
            starts=starts,
            runs=Runs(moves, versions, starts, clean),
            schedules=Schedules(moves, starts),
            sweeper=Sweeper(store.db, moves, versions),
        )

    def dispatcher(
        self,
        replica: UUID,
        adapters: Mapping[str, Adapter],
        home: Path,
        *,
        url: str,
        at_once: int,
        sealed: Callable[[], bool],
        clean: Callable[[str], str],
    ) -> Dispatcher:
        """Who executes them on this orchestrator; see `Dispatcher`."""
        given: dict[str, Any] = {"url": url, "at_once": at_once, "sealed": sealed, "clean": clean}
        return Dispatcher(
            db=self.db,
            jobs=self.jobs,
            moves=self.moves,
            claims=Claims(self.moves, adapters, replica),
            sweeper=self.sweeper,
            schedules=self.schedules,
            workspaces=Workspaces(workspaces_folder(home)),
            adapters=adapters,
            **given,
        )
