"""
What a person sees of runs and tasks at one look: each is one statement, so that a page which stays open may ask it every
second. Who says which look they know (`seen`) gets None where nothing has changed since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from company_agents.db.database import Row
from company_agents.errors import NotFound, WrongUsage
from company_agents.identity.paging import Page, cursor_params, page
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.integrations.rules import Rules
from company_agents.runs.model import STATES
from company_agents.work.tasks import STATUSES

# Tasks of one status that a board shows, the newest; one more is asked for, to know that there are more.
MOST_TASKS = 50
MOST_COMMENTS = 100
MOST_RUNS = 50
MOST_AGENTS = 200
# Pieces of output that are handed over at once.
MOST_OUTPUT = 500


@dataclass(frozen=True, slots=True)
class Card:
    """A task on the board, with its newest run."""

    id: UUID
    title: str
    status: str
    assignee: UUID | None
    assignee_name: str | None
    created_at: datetime
    updated_at: datetime
    comments: int
    run: UUID | None
    run_state: str | None


@dataclass(frozen=True, slots=True)
class Board:
    """The tasks by their status, the newest change first. Of `more` statuses there are more than are shown."""

    mark: str
    columns: dict[str, list[Card]]
    more: set[str]


@dataclass(frozen=True, slots=True)
class Said:
    """A comment. `agent` is the name of the agent that said it, by itself or in a run."""

    id: UUID
    created_at: datetime
    author: str
    agent: str | None
    text: str


@dataclass(frozen=True, slots=True)
class TaskRun:
    """A run of a task."""

    id: UUID
    agent_id: UUID
    agent_name: str
    state: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Thread:
    """One task, its comments (newest first), and its newest runs. `creator` is the name of the agent that made it."""

    mark: str
    id: UUID
    title: str
    description: str
    status: str
    assignee: UUID | None
    assignee_name: str | None
    created_by: str
    creator: str | None
    created_at: datetime
    updated_at: datetime
    said: Page[Said]
    runs: list[TaskRun]


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in a list. `starter` is the name of the agent or the schedule that started it; people have theirs elsewhere."""

    id: UUID
    agent_id: UUID
    agent_name: str
    state: str
    purpose: str
    reason: str
    task_id: UUID | None
    task_title: str | None
    started_by: str
    starter: str | None
    starts: int
    tokens: int
    micros: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class RunList:
    """Runs, the newest first."""

    mark: str
    page: Page[RunRow]


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of what a run put out; it may end in the middle of a line."""

    seq: int
    stream: str
    text: str


@dataclass(frozen=True, slots=True)
class Held:
    """The version of an integration that a run holds, and what that version is now. With a time of `cut_at`, it was cut off."""

    integration_id: UUID
    name: str
    version: int
    state: str | None
    cut_at: datetime | None


@dataclass(frozen=True, slots=True)
class RunView:
    """One run. `now` is the database's clock, which decides about the lease. `starts` is the fencing token, too."""

    id: UUID
    agent_id: UUID
    agent_name: str
    adapter: str | None
    unsandboxed: bool
    state: str
    purpose: str
    prompt: str
    reason: str
    task_id: UUID | None
    task_title: str | None
    schedule_id: UUID | None
    started_by: str
    starter: str | None
    starts: int
    lease_until: datetime | None
    time_limit: int | None
    token_limit: int | None
    micros_limit: int | None
    tokens: int
    micros: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    now: datetime
    pins: list[Held]

    @property
    def lease_left(self) -> timedelta:
        """What is left of the lease; nothing, where there is none."""
        left = self.lease_until - self.now if self.lease_until and self.state == "running" else timedelta()
        return max(left, timedelta())

    @property
    def ended(self) -> bool:
        """Whether it is over. The work of one that has expired may be queued again."""
        return self.state in ("finished", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Notes:
    """How much an agent has in its memory. What stands there is the agent's own."""

    notes: int
    newest: datetime | None
    characters: int


@dataclass(frozen=True, slots=True)
class AgentMonth:
    """What an agent has spent this month, and its budgets for one. Money in millionths of a US dollar."""

    id: UUID
    name: str
    state: str
    calls: int
    tokens: int
    micros: int
    unpriced: int
    month_tokens: int | None
    month_micros: int | None


class Views:
    """Looks at the runs and tasks of a caller's company, for people: each needs to see its agents too."""

    async def board(self, caller: Caller, seen: str = "") -> Board | None:
        """The tasks by status."""
        rows = await self._rows(
            caller, Permission.TASK_READ, "board_view", statuses=list(STATUSES), most=MOST_TASKS + 1, seen=seen
        )
        if rows[0]["mark"] == seen:
            return None
        board = Board(rows[0]["mark"], {status: [] for status in STATUSES}, set())
        for row in rows:
            if row["id"] is None:
                continue
            column = board.columns[row["status"]]
            if len(column) == MOST_TASKS:
                board.more.add(row["status"])
            else:
                column.append(Card(**_without(row, "mark", "n")))
        return board

    async def thread(self, caller: Caller, task_id: UUID, seen: str = "", after: str | None = None) -> Thread | None:
        """
        A task with its newest comments, or with those that are older than a cursor.

        Raises:
            NotFound: no such task in this company.
        """
        params = {"id": task_id, "seen": seen, **cursor_params(after, MOST_COMMENTS)}
        row = (await self._rows(caller, Permission.TASK_READ, "thread_view", **params))[0]
        if row["mark"] is None:
            raise NotFound("this task does not exist")
        if row["mark"] == seen:
            return None
        said = [Said(**_from_json(entry)) for entry in row["said"]]
        runs = [TaskRun(**_from_json(entry)) for entry in row["work"]]
        return Thread(**_without(row, "said", "work"), said=page(said, MOST_COMMENTS), runs=runs)

    async def runs(
        self,
        caller: Caller,
        *,
        agent: UUID | None = None,
        state: str | None = None,
        after: str | None = None,
        limit: int = MOST_RUNS,
        seen: str = "",
    ) -> RunList | None:
        """
        The runs, the newest first.

        Raises:
            WrongUsage: there is no such state.
        """
        if state is not None and state not in STATES:
            raise WrongUsage(f"a run has no such state; it may be {', '.join(STATES)}")
        params = {"agent_id": agent, "state": state, "seen": seen, **cursor_params(after, limit)}
        rows = await self._rows(caller, Permission.RUN_READ, "runs_view", **params)
        if rows[0]["mark"] == seen:
            return None
        found = [RunRow(**_without(row, "mark")) for row in rows if row["id"] is not None]
        return RunList(rows[0]["mark"], page(found, limit))

    async def run(
        self, caller: Caller, run_id: UUID, after: int = 0, most: int = MOST_OUTPUT
    ) -> tuple[RunView, list[Piece]]:
        """
        A run, and what it put out after a piece.

        Raises:
            NotFound: no such run in this company.
        """
        rows = await self._rows(caller, Permission.RUN_READ, "run_view", id=run_id, after=after, most=most)
        if not rows:
            raise NotFound("this run does not exist")
        pins = [Held(**_from_json(pin)) for pin in rows[0]["pins"]]
        pieces = [Piece(**piece) for piece in rows[0]["output"]]
        return RunView(**_without(rows[0], "output", "pins"), pins=pins), pieces

    async def output_start(self, caller: Caller, run_id: UUID, most: int) -> int:
        """After which piece to begin, so that the last ones are shown."""
        rows = await self._rows(caller, Permission.RUN_READ, "output_start", id=run_id, most=most)
        return int(rows[0]["after"])

    async def months(self, caller: Caller, limit: int = MOST_AGENTS) -> list[AgentMonth]:
        """What agents have spent this month, the dearest first."""
        rows = await self._rows(caller, Permission.COSTS_READ, "months_view", limit=limit)
        return [AgentMonth(**row) for row in rows]

    async def rules(self, caller: Caller, agent_id: UUID, integrations: Sequence[UUID]) -> dict[UUID, Rules]:
        """What an agent may do with integrations, by their ids; of one that it may not use there is nothing."""
        given = {"agent_id": agent_id, "integrations": [*integrations]}
        rows = await self._rows(caller, Permission.INTEGRATION_READ, "rules_for_agent", **given)
        return {row["id"]: Rules.of(row) for row in rows}

    async def notes(self, caller: Caller, agent_id: UUID) -> Notes:
        """How much an agent remembers; not what."""
        return Notes(**(await self._rows(caller, Permission.AGENT_READ, "memory_view", agent_id=agent_id))[0])

    async def _rows(self, caller: Caller, permission: Permission, query: str, /, **params: Any) -> Sequence[Row]:
        caller.require(permission)
        # With names of agents in it, which an agent is not shown.
        caller.require(Permission.AGENT_READ)
        async with caller.scope.transaction() as tx:
            return await tx.all(query, **params)


def _without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def _from_json(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry that came as JSON, where ids and times are text."""
    found = dict(entry)
    for name, value in entry.items():
        if value is not None and name.endswith("_at"):
            found[name] = datetime.fromisoformat(value)
        elif value is not None and (name == "id" or name.endswith("_id")):
            found[name] = UUID(value)
    return found
