"""
Which way a process is kept apart here, and starting it that way.

    bubblewrap     in namespaces of its own; as root, as another user as well
    user           as another user of the system, where bubblewrap cannot be had and an operator gave numbers for it
    unsandboxed    as we are: only for an agent that an owner of the instance has marked so

There is no fourth: without one of these nothing is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from company_agents.errors import CompanyAgentsError, Refused
from company_agents.runs.sandbox.bubblewrap import PORT, WORKSPACE, Program, look_at, sandbox
from company_agents.runs.sandbox.door import address_of, door
from company_agents.runs.sandbox.filter import seccomp_filter
from company_agents.runs.sandbox.keeping import GRACE, Kept, Plan, kept
from company_agents.runs.sandbox.places import Places, Shown
from company_agents.runs.sandbox.users import USUAL, RunUsers, read_users
from company_agents.runs.sandbox.workspace import passing_workspace
from company_agents.settings import Settings

Kind = Literal["bubblewrap", "user", "unsandboxed"]

# Since this kernel processes are counted in each namespace of users.
_COUNTED_INSIDE = (5, 14)

# A machine without a sandbox may get one: for so long it is not asked again, in seconds.
ASKED_AGAIN = 30.0

OPEN_FILES = 4096
_TEMPORARY = ".tmp"
_MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Way:
    """One way, and what it is called with."""

    kind: Kind
    program: Program | None = None

    def folder(self, workspace: Path) -> str:
        """Where a process finds its workspace."""
        return WORKSPACE if self.program else str(workspace)

    def temporary(self, workspace: Path) -> str:
        """Where it finds room for files of the moment."""
        return "/tmp" if self.program else str(workspace / _TEMPORARY)  # noqa: S108

    def url(self, url: str, *, open_network: bool) -> str:
        """How a process reaches the orchestrator that is at this address out here."""
        if self.program is None or open_network:
            return url
        _, _, rest = url.partition("://")
        _, slash, path = rest.partition("/")
        return f"http://127.0.0.1:{PORT}{slash}{path}"


@dataclass(frozen=True)
class Asked:
    """
    A process that somebody wants: its command and environment as seen from the inside, its workspace as seen from out
    here, what else it may read, and the orchestrator's address.
    """

    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    workspace: Path
    url: str
    readable: Sequence[Shown] = ()
    open_network: bool = False
    # Files for its workspace, by their names.
    files: Mapping[str, str] = field(default_factory=dict, repr=False)


class Sandbox:
    """The ways that there are on this machine."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.places = Places.of(settings)
        self.root = os.geteuid() == 0
        self.grace = GRACE
        self._given = read_users(settings.run_users) if settings.run_users else None
        self._users = RunUsers(self._given or USUAL)
        self._turn = asyncio.Lock()
        self._found: tuple[Way | str, float] | None = None

    async def way(self, *, unsandboxed: bool = False) -> Way:
        """
        Raises:
            Refused: there is none here, and this agent may not do without (`no_sandbox`).
        """
        if unsandboxed:
            return Way("unsandboxed")
        async with self._turn:
            if self._found is None or (isinstance(self._found[0], str) and time.monotonic() > self._found[1]):
                self._found = await self._look(), time.monotonic() + ASKED_AGAIN
        found, _ = self._found
        if isinstance(found, Way):
            return found
        raise Refused(
            f"an agent's process is started in a sandbox only, and there is none here: {found}",
            hint="install bubblewrap; or, as root, set COMPANY_AGENTS_RUN_USERS: docs/security/sandbox.md",
            code="no_sandbox",
        )

    async def _look(self) -> Way | str:
        if sys.platform != "linux":
            return "sandboxes need Linux"
        exposed = self.places.exposed()
        if exposed is not None:
            return f"every sandbox can read {exposed}, which belongs to this instance: move it away"
        path = self.settings.bubblewrap or shutil.which("bwrap")
        why = "bubblewrap (bwrap) is not installed"
        if path is not None:
            program = await asyncio.to_thread(look_at, Path(path))
            if isinstance(program, Program):
                way = Way("bubblewrap", program)
                why = await self._why_not(way)
                if not why:
                    return way
                why = f"{path} does not work here: {why}"
            else:
                why = program
        if self.root and self._given is not None:
            way = Way("user")
            return await self._why_not(way) or way
        return why

    async def _why_not(self, way: Way) -> str:
        """Try one; what was wrong, if anything was."""
        try:
            with passing_workspace() as workspace:
                asked = Asked(("/bin/sh", "-c", "exit 0"), {}, workspace, "http://127.0.0.1")
                async with self.started(way, asked) as process:
                    said = asyncio.create_task(process.errors.read(2000))
                    end = await process.ended()
                    words = (await said).decode(errors="replace").strip().partition("\n")[0]
        except CompanyAgentsError as error:
            return error.sentence
        return "" if end.started and not end.words else words or end.words

    @contextlib.asynccontextmanager
    async def started(self, way: Way, asked: Asked) -> AsyncIterator[Kept]:
        """
        Start a process, with the way out that it has. When the context ends, nothing of it is left.

        Raises:
            Failed: it cannot be started.
        """
        async with contextlib.AsyncExitStack() as stack:
            uid, locks = None, []
            if self.root and way.kind != "unsandboxed":
                user = stack.enter_context(self._users.taken())
                uid = user.uid
                locks = [user.lock]
            if way.program is None:
                (asked.workspace / _TEMPORARY).mkdir(mode=0o700)
            _furnish(asked.workspace, asked.files, uid)
            plan = self._plan(way, asked, uid)
            process = await stack.enter_async_context(kept(plan, locks))
            if plan.port is not None:
                address = address_of(asked.url)
                listening = await _listening(process)
                if listening is not None:
                    await stack.enter_async_context(door(listening, address))
            yield process

    def _plan(self, way: Way, asked: Asked, uid: int | None) -> Plan:
        inner = (
            None
            if way.program is None
            else sandbox(
                way.program,
                asked.workspace,
                os.geteuid() if uid is None else uid,
                readable=[shown.still() for shown in asked.readable],
                open_network=asked.open_network,
            )
        )
        limits = {"RLIMIT_CORE": 0}
        if way.kind != "unsandboxed":
            limits["RLIMIT_FSIZE"] = self.settings.run_file_size * _MEBIBYTE
            limits["RLIMIT_DATA"] = self.settings.run_memory * _MEBIBYTE
            limits["RLIMIT_NOFILE"] = OPEN_FILES
        return Plan(
            command=asked.command,
            environment=asked.environment,
            folder="/" if inner else str(asked.workspace),
            limits=limits,
            processes=self.settings.run_processes if uid is not None or _counted_inside() else 0,
            bubblewrap=inner,
            uid=uid,
            port=PORT if inner and not asked.open_network else None,
            grace=self.grace,
            filter=b"" if way.kind == "unsandboxed" else seccomp_filter(),
        )


async def _listening(process: Kept) -> socket.socket | None:
    """The socket in the sandbox's network; None where the sandbox has not come up, which `ended` then says."""
    end = asyncio.create_task(process.ended())
    try:
        waiting: set[asyncio.Future[Any]] = {process.door, end}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if process.door.done():
            return process.door.result()
        if end.done():
            await end
        return None
    finally:
        end.cancel()


def _furnish(workspace: Path, files: Mapping[str, str], uid: int | None) -> None:
    """Put files of their owner alone into an empty workspace, and give it to its user."""
    for name, text in files.items():
        path = workspace / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(text)
    if uid is not None:
        for path in (workspace, *workspace.rglob("*")):
            os.chown(path, uid, uid, follow_symlinks=False)


def _counted_inside() -> bool:
    release = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    return release >= _COUNTED_INSIDE
