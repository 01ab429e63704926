"""
Processes of runs, in each way that there is on this machine.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from company_agents.runs.adapters.base import Outcome, Stream, Work
from company_agents.runs.adapters.process import ProcessAdapter
from company_agents.runs.sandbox.sandbox import Sandbox
from company_agents.runs.sandbox.workspace import passing_workspace
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings

ROOT = os.geteuid() == 0
# Apart from what the product takes by itself: its runs may be under way at the same time.
USERS = "60706-60799"
WAYS = ["bubblewrap", *(["user"] if ROOT else [])]
"""What keeps a process apart here; only root can start one as another user."""

TOKEN = "ca_run_this-is-the-token-of-the-run"


def python() -> tuple[str, list[str]]:
    """A Python that every sandbox shows, or this one, and what has to be readable for it."""
    for place in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if os.access(place, os.X_OK):
            return place, []
    return os.path.realpath(sys.executable), [sys.base_prefix]


PYTHON, LIBRARIES = python()


def script(name: str) -> str:
    """A file beside this one, as an argument of Python: another user need not be able to read it."""
    return (Path(__file__).parent / name).read_text()


@dataclass
class Written:
    """What a run has put out. `slow` is how long it takes to take a piece, in seconds."""

    pieces: list[tuple[Stream, str]] = field(default_factory=list)
    slow: float = 0

    async def write(self, stream: Stream, text: str) -> None:
        if self.slow:
            await asyncio.sleep(self.slow)
        self.pieces.append((stream, text))

    def of(self, *streams: Stream) -> str:
        return "".join(text for found, text in self.pieces if found in (streams or ("output", "error")))


@dataclass
class Runner:
    """Starts commands as runs of nobody."""

    adapter: ProcessAdapter
    unsandboxed: bool
    folder: Path
    url: str = "http://127.0.0.1:9"

    def work(self, command: Sequence[str] = (), prompt: str = "", **config: Any) -> Work:
        given = {"command": list(command), **config} if command else config
        return Work(
            *(uuid.uuid4(), uuid.uuid4(), uuid.uuid4(), "ann", 1),
            prompt=prompt,
            task_id=None,
            config=self.adapter.check(given),
            unsandboxed=self.unsandboxed,
            token=Sensitive(TOKEN),
            workspace=self.folder,
            url=self.url,
            seconds=60,
        )

    async def run(
        self, *command: str, prompt: str = "", written: Written | None = None, **config: Any
    ) -> tuple[Outcome, Written]:
        written = written or Written()
        return await self.adapter.execute(self.work(command, prompt, **config), written), written

    async def python(self, code: str, *words: str, prompt: str = "", written: Written | None = None) -> Any:
        return await self.run(PYTHON, "-c", code, *words, prompt=prompt, written=written, readable=LIBRARIES)


def settings_of(way: str, settings: Settings) -> Settings:
    """The settings of a machine that has only this way."""
    if way == "user":
        return settings.model_copy(update={"bubblewrap": Path("/nowhere/bwrap"), "run_users": USERS})
    return settings


@pytest.fixture(scope="session")
def adapters(settings: Settings) -> dict[str, ProcessAdapter]:
    """By what keeps a process apart."""
    found = {way: ProcessAdapter(Sandbox(settings_of(way, settings))) for way in WAYS}
    return {**found, "unsandboxed": found["bubblewrap"]}


@pytest.fixture
def runner(adapters: dict[str, ProcessAdapter]) -> Any:
    """Makes runners, each with a workspace of its own."""
    stack = []

    def make(way: str) -> Runner:
        made = passing_workspace()
        folder = made.__enter__()
        stack.append(made)
        return Runner(adapters[way], way == "unsandboxed", folder)

    yield make
    for made in stack:
        made.__exit__(None, None, None)


MakeRunner = Callable[[str], Runner]


def running_with(mark: str) -> list[int]:
    """The processes of this machine, in whatever namespace, that have a word in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if mark.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


async def until(check: Callable[[], Any], seconds: float = 20) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.01)


def mark() -> str:
    """A word that no other process has in its command line."""
    return f"mark-{uuid.uuid4().hex}"


BUBBLEWRAP = shutil.which("bwrap")
