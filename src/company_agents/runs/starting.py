"""
Starting a run of somebody else: by an operator, by the assignment of a task, by a schedule. It is queued; who executes it
is decided later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from company_agents.db.database import Row, Tx
from company_agents.errors import Conflict, NotFound, WrongUsage
from company_agents.identity.limits import Limits, lower
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.runs.adapters.base import Adapter
from company_agents.runs.adapters.process import ProcessAdapter
from company_agents.runs.model import LONGEST_HERE, MOST_PROMPT, Run, check_text, titled
from company_agents.runs.moves import Moves
from company_agents.runs.room import check_queue

# Runs that the assignment of tasks starts in one company within an hour: agents that assign tasks to one another would go on
# for ever.
MOST_BY_TASKS = 60

LEAST_TIME = 10


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run is started for, and how far it may go: seconds, tokens, millionths of a US dollar."""

    prompt: str = ""
    task: UUID | None = None
    schedule: UUID | None = None
    time_limit: int | None = None
    token_limit: int | None = None
    micros_limit: int | None = None

    def check(self) -> None:
        """
        Raises:
            WrongUsage: there is nothing to do, too much is said, or a limit is none.
        """
        if self.task is None and not self.prompt.strip():
            raise WrongUsage("a run needs something to do", hint="give a task, or a prompt")
        check_text(self.prompt, "a prompt", MOST_PROMPT)
        if self.time_limit is not None and not LEAST_TIME <= self.time_limit <= LONGEST_HERE:
            raise WrongUsage(f"the time limit is {self.time_limit} seconds; it may be {LEAST_TIME} to {LONGEST_HERE}")
        for what, limit in (("token", self.token_limit), ("money", self.micros_limit)):
            if limit is not None and not 1 <= limit < 2**63:
                raise WrongUsage(f"the {what} limit is no number that a limit may be")


@dataclass(frozen=True)
class Starts:
    """Queues runs."""

    moves: Moves
    adapters: Mapping[str, Adapter] = field(default_factory=dict)

    async def start(self, caller: Caller, agent_id: UUID, asked: Asked) -> Run:
        """
        Raises:
            NotFound: no such agent, or no such task.
            Conflict: the agent has no adapter (`no_adapter`), or is retired.
            Refused: it is a process, and this machine has no sandbox for one (`no_sandbox`).
            TooMany: it has as many runs waiting as it may.
        """
        caller.require(Permission.RUN_START)
        asked.check()
        await self._check_sandbox(caller, agent_id)
        async with caller.scope.transaction() as tx:
            agent = await startable(tx, agent_id)
            title = asked.prompt
            if asked.task is not None:
                task = await tx.one("task_get", id=asked.task)
                if task is None:
                    raise NotFound("this task does not exist", hint="an operator or an agent of the company makes them")
                title = task["title"]
            return await self.queue(tx, caller.label, agent, asked, title)

    async def _check_sandbox(self, caller: Caller, agent_id: UUID) -> None:
        async with caller.scope.transaction() as tx:
            agent = await startable(tx, agent_id)
        adapter = self.adapters.get(agent["adapter"])
        if isinstance(adapter, ProcessAdapter):
            await adapter.ready(unsandboxed=agent["unsandboxed"])

    async def queue(self, tx: Tx, actor: str, agent: Row, asked: Asked, title: str, *, by_task: bool = False) -> Run:
        """The same in somebody's transaction, for an agent that has been looked at."""
        await check_queue(tx, agent["id"])
        limits = await Limits.of(tx, agent["id"])
        given: dict[str, Any] = {
            "id": uuid4(),
            "agent_id": agent["id"],
            "adapter": agent["adapter"],
            "purpose": titled(title),
            "prompt": asked.prompt,
            "task_id": asked.task,
            "schedule_id": asked.schedule,
            "by_task": by_task,
            "time_limit": lower(asked.time_limit, limits.run_seconds, LONGEST_HERE),
            "token_limit": lower(asked.token_limit, limits.run_tokens),
            "micros_limit": lower(asked.micros_limit, limits.run_micros),
        }
        return await self.moves.queued(tx, actor, **given)

    async def by_assignment(self, tx: Tx, caller: Caller, task: Row) -> Run | None:
        """
        The run for a task that somebody assigned just now, in the transaction of the assignment. None where there is none to
        be started: the task is not open, its assignee executes its own runs or has assigned it to itself, or a run for it is
        queued or under way. Nor where the company has had as many within the hour; that is on record.
        """
        if task["status"] != "open" or task["assignee"] is None or task["assignee"] == caller.principal.id:
            return None
        agent = await tx.one("run_agent", agent_id=task["assignee"])
        if agent is None or agent["adapter"] is None or agent["state"] == "retired":
            return None
        await tx.run("runs_hold", company_id=tx.company_id)
        found = await tx.one("runs_of_task", task_id=task["id"], agent_id=agent["id"])
        assert found is not None
        if found["open"]:
            return None
        if found["lately"] >= MOST_BY_TASKS:
            self.moves.audit.refusal(tx.company_id, "run.not_started", agent=agent["id"], reason="too many by tasks")
            return None
        return await self.queue(tx, caller.label, agent, Asked(task=task["id"]), task["title"], by_task=True)


async def startable(tx: Tx, agent_id: UUID) -> Row:
    """
    An agent for which runs may be started.

    Raises:
        NotFound: no such agent.
        Conflict: it has no adapter, or is retired.
    """
    agent = await tx.one("run_agent", agent_id=agent_id)
    if agent is None:
        raise NotFound("this agent does not exist", hint="`company-agents agent list --company ID` shows them")
    if agent["state"] == "retired":
        raise Conflict("a retired agent gets no work", hint="hire another agent")
    if agent["adapter"] is None:
        raise Conflict(
            "this agent has no adapter: nobody could execute the run",
            hint="`company-agents agent adapter` gives it one",
            code="no_adapter",
        )
    return agent
