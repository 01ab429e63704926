"""
Two real orchestrators, one of which is stopped or killed in the middle: all work is finished once, nothing is lost, and no
process stays behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from company_agents.app import App, open_app
from company_agents.identity.principal import Caller
from company_agents.runs.model import Run
from company_agents.settings import read_settings
from tests.conftest import LOCAL
from tests.database.processes import clean
from tests.dispatch.conftest import until

LEASE = 5
RUNS = 50
ENDS = ("run.finished", "run.failed", "run.cancelled")
# Beyond what is left of the lease, a takeover takes no longer than this (seconds).
TAKEN_OVER_WITHIN = 15

# Works for a while, says on its task that it is done, and ends as that went. By the shell alone: nothing is quicker to start.
AGENT = r"""
sleep {seconds}.{mark}
address=${{COMPANY_AGENTS_URL#http://}}
exec 3<>/dev/tcp/${{address%:*}}/${{address#*:}} || exit 3
body='{{"text": "done"}}'
printf 'POST /v1/companies/%s/tasks/%s/comments HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: close\r\n' \
    "$COMPANY_AGENTS_COMPANY_ID" "$COMPANY_AGENTS_TASK_ID" "$address" "$COMPANY_AGENTS_TOKEN" >&3
printf 'Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s' "${{#body}}" "$body" >&3
read -r status <&3
case $status in *' 201 '*) echo done ;; *) echo "$status"; exit 4 ;; esac
"""


@dataclass
class Replica:
    """An orchestrator."""

    process: subprocess.Popen[str]

    @property
    def children(self) -> set[int]:
        """All processes below it."""
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        found: set[int] = set()
        left = {self.process.pid}
        while left:
            left = {child for child, parent in parents.items() if parent in left} - found
            found |= left
        return found

    def signal(self, number: int, *more: int) -> None:
        for process in (self.process.pid, *more):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)


@dataclass
class Place:
    """An instance, and a look into it."""

    home: Path
    app: App

    @contextlib.contextmanager
    def replica(self, runs: int) -> Iterator[Replica]:
        words = [sys.executable, "-m", "tests.dispatch.replica", str(self.home), str(LEASE), str(runs)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline().startswith("http://")
                yield Replica(process)
                process.send_signal(signal.SIGCONT)
                process.terminate()
                process.wait(20)
            finally:
                process.kill()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    home = tmp_path / "home"
    async with open_app(read_settings(home=home)) as app:
        yield Place(home, app)
    clean(home)


@dataclass
class Company:
    """A company whose agent is a process."""

    app: App
    local: Caller
    agent: UUID
    mark: str

    @property
    def processes(self) -> list[int]:
        """Those of its agent, wherever they are."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if self.mark.encode() in (entry / "cmdline").read_bytes() and int(entry.name) != os.getpid():
                    found.append(int(entry.name))
        return found

    async def begin(self) -> tuple[UUID, UUID]:
        """A task, and its run."""
        task = await self.app.tasks.create(self.local, "a task", assignee=self.agent)
        [run] = (await self.app.runs.list(self.local, task=task.id)).items
        return task.id, run.id

    async def run(self, run_id: UUID) -> Run:
        return await self.app.runs.get(self.local, run_id)

    async def comments(self, task: UUID) -> int:
        return len((await self.app.tasks.get(self.local, task)).comments)

    async def events(self, run_id: UUID) -> list[dict[str, Any]]:
        """What is on record of it."""
        found = []
        async for row in self.app.events.linked(self.local.scope.company_id):
            event = json.loads(row["record"])
            if event.get("run") == str(run_id):
                found.append(event)
        return found

    async def finishes(self, run_id: UUID) -> list[int]:
        """The starts that are on record as how it ended."""
        return [event["fence"] for event in await self.events(run_id) if event["action"] in ENDS]


async def company_of(app: App, *, seconds: int) -> Company:
    found = await app.companies.create(LOCAL, f"company {uuid.uuid4().hex[:8]}")
    local = await app.identity.in_company(LOCAL, found.id)
    agent, _ = await app.agents.create(local, "ann")
    mark = str(uuid.uuid4().int)[:15]
    command = ["/bin/bash", "-c", AGENT.format(seconds=seconds, mark=mark)]
    await app.adapters.set(local, agent.id, "process", {"command": command})
    return Company(app, local, agent.id, mark)


async def finished(company: Company, runs: list[UUID], number: int) -> bool:
    page = await company.app.runs.list(company.local, state="finished", limit=200)
    return sum(run.id in runs for run in page.items) >= number


async def gone(processes: set[int]) -> bool:
    return not any(alive(process) for process in processes)


def told_of(processes: set[int]) -> str:
    """What those are that are left."""
    found = []
    for process in sorted(processes):
        with contextlib.suppress(OSError):
            words = (Path(f"/proc/{process}") / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (Path(f"/proc/{process}") / "stat").read_text().rpartition(")")[2].split()[:2]
            found.append(f"{process}, state and parent {state}: {words[:300]}")
    return "\n".join(found)


def alive(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.timeout(120)
async def test_one_that_is_killed_in_the_middle_of_fifty_runs_loses_none_and_none_is_finished_twice(
    place: Place,
) -> None:
    company = await company_of(place.app, seconds=1)
    with place.replica(12) as first, place.replica(12):
        begun = [await company.begin() for _ in range(RUNS)]
        runs = [run for _, run in begun]
        await until(lambda: finished(company, runs, 10), "no run was finished", 40)
        # Stood still for a moment, so that what it has under way is known.
        first.signal(signal.SIGSTOP)
        children = first.children
        held = [run.id for run in (await place.app.runs.list(company.local, state="running", limit=200)).items]
        assert children, "it had nothing under way"
        killed_at = time.monotonic()
        first.signal(signal.SIGKILL)
        try:
            await until(lambda: gone(children), "a process of it is still there")
        except AssertionError as error:
            error.add_note(told_of(children))
            raise
        await until(lambda: taken_over(company, held), "what it held was not taken over", LEASE + TAKEN_OVER_WITHIN)
        assert time.monotonic() - killed_at < LEASE + TAKEN_OVER_WITHIN
        await until(lambda: finished(company, runs, RUNS), "not all of it was finished", 40)
    twice = 0
    for task, run_id in begun:
        run = await company.run(run_id)
        assert (run.state, run.reason) == ("finished", "")
        # An event is written before what it tells of: who is killed between leaves one that did not come to pass.
        *before, last = await company.finishes(run_id)
        assert last == run.fencing_token
        assert before in ([], [last - 1])
        # What was said before the kill is there, and may be said once more by the start after it; never by both at once.
        assert 1 <= await company.comments(task) <= run.fencing_token
        twice += run.fencing_token > 1
    assert 1 <= twice <= 12
    assert company.processes == []


async def taken_over(company: Company, runs: list[UUID]) -> bool:
    """Whether each has ended, or is held by the one that is left."""
    found = [await company.run(run_id) for run_id in runs]
    return all(run.state == "finished" or run.fencing_token > 1 for run in found)


@pytest.mark.timeout(120)
async def test_one_that_stood_still_while_another_took_its_run_on_writes_nothing_when_it_goes_on(place: Place) -> None:
    company, other = await company_of(place.app, seconds=3), await company_of(place.app, seconds=60)
    with place.replica(4) as first:
        task, run_id = await company.begin()
        await until(lambda: at_work(company), "it was not begun", 30)
        stopped = first.children
        first.signal(signal.SIGSTOP, *stopped)
        with place.replica(4):
            await until(lambda: finished(company, [run_id], 1), "nobody took it on", 40)
            assert await company.comments(task) == 1
            first.signal(signal.SIGCONT, *stopped)
            # Its process says that it is done, and is refused; so is what it says of its end.
            await until(lambda: gone_but(company, stopped), "its process is still there", 30)
            for _ in range(3):
                await place.app.runs.list(company.local)
                await asyncio.sleep(0.5)
            # And those that are asked to stop end what they have under way, and leave its work to others.
            _, left = await other.begin()
            await until(lambda: at_work(other), "it was not begun", 30)
    run = await company.run(run_id)
    assert (run.state, run.fencing_token) == ("finished", 2)
    assert await company.finishes(run_id) == [2]
    assert await company.comments(task) == 1
    assert (await other.run(left)).state == "queued"
    actions = {event["action"] for event in await other.events(left)}
    assert {"run.expired", *ENDS} & actions == set()
    assert "run.handed_over" in actions
    assert company.processes + other.processes == []


async def at_work(company: Company) -> bool:
    return bool(company.processes)


async def gone_but(company: Company, stopped: set[int]) -> bool:
    return not set(company.processes) & stopped
