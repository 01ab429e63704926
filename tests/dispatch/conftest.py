"""
Runs that are started, executed by adapters of the tests: each does what its agent's configuration says.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from company_agents.app import App, open_app
from company_agents.errors import Conflict, Failed
from company_agents.identity.principal import Caller
from company_agents.runs import dispatch, jobs
from company_agents.runs.adapters.base import Kind, Outcome, Output, Work
from company_agents.runs.dispatch import Dispatcher
from company_agents.runs.model import Run
from company_agents.runs.parts import RunParts
from company_agents.settings import Settings
from tests.conftest import Tenant
from tests.promises.evidence import Past, connect_past, sql

# Seconds after which something did not come to pass.
SLOWEST = 15.0
# Seconds of a lease, where a test waits for its end.
SHORT = 2.0


@dataclass
class Scripted:
    """Does what it is told: by default it puts out a word, and is done."""

    kind: Kind = "llm"
    begun: list[Work] = field(default_factory=list)
    stopped: list[UUID] = field(default_factory=list)
    # What is awaited in each start.
    does: Callable[[Work, Output], Awaitable[Outcome]] | None = None

    def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return dict(config)

    def opens(self, config: Mapping[str, Any]) -> Sequence[str]:
        return ()

    async def execute(self, work: Work, output: Output) -> Outcome:
        self.begun.append(work)
        try:
            if self.does is not None:
                return await self.does(work, output)
            await output.write("output", f"worked on {work.prompt}\n")
            return Outcome("finished", "done")
        except asyncio.CancelledError:
            self.stopped.append(work.run_id)
            raise


async def hang(work: Work, output: Output) -> Outcome:
    """Go on for ever."""
    await asyncio.Event().wait()
    return Outcome("finished")


async def fail(work: Work, output: Output) -> Outcome:
    raise Failed("the model has gone home")


@dataclass
class Orchestrator:
    """Another orchestrator of the instance, which executes runs."""

    app: App
    parts: RunParts
    dispatcher: Dispatcher
    adapter: Scripted

    def works(self, run_id: UUID) -> list[Work]:
        """The starts of a run here."""
        return [work for work in self.adapter.begun if work.run_id == run_id]

    async def begins(self, run_id: UUID) -> Work:
        """The newest start of a run here, once there is one."""

        async def look() -> list[Work]:
            return self.works(run_id)[-1:]

        [work] = await until(look, "the run was not begun")
        return work


@dataclass(frozen=True)
class Desk:
    """A company with an agent whose runs are executed by orchestrators."""

    app: App
    tenant: Tenant
    superuser: Past

    @property
    def local(self) -> Caller:
        return self.tenant.local

    @property
    def agent(self) -> UUID:
        return self.tenant.agent.agent_id()

    async def start(self, prompt: str = "the work", **given: Any) -> Run:
        return await self.app.runs.start(self.local, self.agent, prompt=prompt, **given)

    async def run(self, run_id: UUID) -> Run:
        return await self.app.runs.get(self.local, run_id)

    async def becomes(self, run_id: UUID, *states: str) -> Run:
        """The run, once it is in one of these states."""
        return await until(lambda: self._in(run_id, states), f"the run is none of {states}")

    async def _in(self, run_id: UUID, states: Sequence[str]) -> Run | None:
        run = await self.run(run_id)
        return run if run.state in states else None

    async def events(self, run_id: UUID) -> list[str]:
        """What is on record of a run, oldest first."""
        events = reversed(await self.app.events.newest(self.tenant.company.id, limit=1000))
        return [event["action"] for event in events if event.get("run") == str(run_id)]

    async def set(self, **columns: Any) -> None:
        """Change the agent."""
        text = ", ".join(f"{name} = %({name})s" for name in columns)
        await sql(self.superuser, f"UPDATE agents SET {text} WHERE id = %(id)s", id=self.agent, **columns)


async def until(look: Callable[[], Awaitable[Any]], what: str, seconds: float = SLOWEST) -> Any:
    """What it gives, once that is something."""
    try:
        async with asyncio.timeout(seconds):
            while not (found := await look()):
                await asyncio.sleep(0.02)
            return found
    except TimeoutError:
        raise AssertionError(what) from None


@pytest.fixture(scope="session")
async def superuser(app: App) -> AsyncIterator[Past]:
    async with await connect_past(app, "postgres") as connection:
        # What the tables of the job engine do by themselves is found there too.
        await connection.execute("SET search_path = public, company_agents_jobs")
        yield connection


MakeDesk = Callable[..., Awaitable[Desk]]


@pytest.fixture
async def desk(app: App, tenant: Callable[[], Awaitable[Tenant]], superuser: Past) -> AsyncIterator[MakeDesk]:
    made: list[Desk] = []

    async def make(adapter: str = "llm") -> Desk:
        found = Desk(app, await tenant(), superuser)
        await found.set(adapter=adapter)
        made.append(found)
        return found

    yield make
    # Nothing of it is left for the orchestrators of other tests.
    for each in made:
        await sql(superuser, "DELETE FROM schedules WHERE company_id = %(c)s", c=each.tenant.company.id)
        for state in ("queued", "running"):
            for run in (await app.runs.list(each.local, state=state, limit=200)).items:
                with contextlib.suppress(Conflict):
                    await app.runs.cancel(each.local, run.id)


Orchestrate = Callable[..., Awaitable[Orchestrator]]


@pytest.fixture
async def orchestrator(
    app: App, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Orchestrate]:
    """Starts orchestrators that execute runs, as often as it is called. They look more often than they do elsewhere."""
    monkeypatch.setattr(dispatch, "BEAT", 0.2)
    monkeypatch.setattr(dispatch, "LOOK", 0.2)
    monkeypatch.setattr(jobs, "POLL", 0.2)
    monkeypatch.setattr(jobs, "PAUSE", 0.2)
    monkeypatch.setattr(jobs, "BEAT", 0.5)
    async with contextlib.AsyncExitStack() as stack:

        async def start(
            *, lease: float = 300, at_once: int = 20, adapter: Scripted | None = None, own: bool = False
        ) -> Orchestrator:
            at = await stack.enter_async_context(open_app(settings)) if own else app
            adapter = adapter or Scripted()
            parts = RunParts.build(at.store, at.audit, at.integrations.versions, lease)
            dispatcher = parts.dispatcher(
                uuid.uuid4(),
                {adapter.kind: adapter},
                tmp_path,
                url="http://127.0.0.1:1",
                at_once=at_once,
                sealed=lambda: at.held.sealed,
                clean=at.redactor.clean,
            )
            dispatcher.start()
            stack.push_async_callback(dispatcher.close)
            return Orchestrator(at, parts, dispatcher, adapter)

        yield start
