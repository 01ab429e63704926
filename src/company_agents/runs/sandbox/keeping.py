"""
The orchestrator's side of a keeper (`keeper.py`): start one, listen to it, tell it to stop.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
import socket
import struct
import sys
from asyncio.subprocess import Process, SubprocessStreamProtocol
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from company_agents.errors import Failed

# How long a process has to end by itself once it was asked to, in seconds; then what is left of it is killed.
GRACE = 5.0

# Beyond the grace, how long until a keeper that does not answer is killed itself, and with it what it keeps.
PATIENCE = 15.0

# How much of its output is read before somebody wants it, in bytes.
_AHEAD = 65536

_KEEPER = Path(__file__).with_name("keeper.py")


@dataclass(frozen=True)
class Bubblewrap:
    """How bubblewrap is called: its program, its options, and files that are made of a text."""

    program: Path
    arguments: Sequence[str]
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """
    What a keeper is to start, and how. `uid`: as that user, in its own group; None: as we are. `limits` are bytes or
    numbers by the names of `resource`; `processes` may be 0 for no limit. With `port`, something listens there in the
    sandbox's own network, on our behalf.
    """

    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    folder: str
    limits: Mapping[str, int]
    processes: int
    bubblewrap: Bubblewrap | None = None
    uid: int | None = None
    port: int | None = None
    filter: bytes = field(default=b"", repr=False)
    grace: float = GRACE

    def told(self) -> bytes:
        """The plan as a keeper reads it."""
        inner = self.bubblewrap
        text = json.dumps(
            {
                "command": list(self.command),
                "environment": dict(self.environment),
                "folder": self.folder,
                "limits": dict(self.limits),
                "processes": self.processes,
                "bubblewrap": inner
                and {
                    "program": str(inner.program),
                    "arguments": [*inner.arguments, *_variables(self.environment)],
                    "files": dict(inner.files),
                },
                "uid": self.uid,
                "port": self.port,
                "filter": base64.b64encode(self.filter).decode(),
                "grace": self.grace,
            }
        ).encode()
        return struct.pack(">I", len(text)) + text


def _variables(environment: Mapping[str, str]) -> list[str]:
    return [word for name, value in environment.items() for word in ("--setenv", name, value)]


@dataclass(frozen=True, slots=True)
class End:
    """How a process ended: with a status, or by a signal; `started` is whether its program ever ran."""

    status: int
    signal: int
    started: bool

    @property
    def words(self) -> str:
        """In words; none where it went well."""
        if self.signal:
            return f"the command was ended by {_name(self.signal)}"
        if self.status > 128 and _name(self.status - 128):
            return f"the command ended with status {self.status} ({_name(self.status - 128)})"
        return f"the command ended with status {self.status}" if self.status else ""


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


class Kept:
    """
    One process, and its keeper. `door` is the socket that listens in its network, where the plan has a port. `rescue` kills
    what a keeper has left that was killed itself.
    """

    def __init__(
        self, process: Process, control: socket.socket, grace: float, rescue: Callable[[], Awaitable[None]]
    ) -> None:
        loop = asyncio.get_running_loop()
        self._process = process
        self._control = control
        self._grace = grace
        self._rescue = rescue
        self._rescuing: asyncio.Task[None] | None = None
        self._said = b""
        self._end: asyncio.Future[End] = loop.create_future()
        self.door: asyncio.Future[socket.socket] = loop.create_future()
        loop.add_reader(control, self._listen)

    @property
    def output(self) -> asyncio.StreamReader:
        """What it writes to standard output."""
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def errors(self) -> asyncio.StreamReader:
        """What it writes to standard error."""
        assert self._process.stderr is not None
        return self._process.stderr

    async def give(self, text: bytes) -> None:
        """Write this to its standard input, and close that. It need not read it."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(text)
            await self._process.stdin.drain()
        self._process.stdin.close()

    async def ended(self) -> End:
        """
        Wait until it has ended, and all that it started.

        Raises:
            Failed: nothing was started; the sentence says why.
        """
        return await asyncio.shield(self._end)

    async def stop(self) -> None:
        """Ask it to end, wait until it has, and kill what has not in time. All that it started goes with it."""
        with contextlib.suppress(OSError):
            self._control.send(b"s")
        done, _ = await asyncio.wait([self._end], timeout=self._grace + PATIENCE)
        if not done:
            self._process.kill()
        await asyncio.wait([self._end])

    def _listen(self) -> None:
        try:
            said, files, _, _ = socket.recv_fds(self._control, 65536, 4, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            said, files = b"", []
        for file in files:
            self._take(socket.socket(fileno=file))
        self._said += said
        while b"\n" in self._said:
            line, _, self._said = self._said.partition(b"\n")
            self._hear(json.loads(line))
        if not said:
            asyncio.get_running_loop().remove_reader(self._control)
            if not self._end.done():
                self._rescuing = asyncio.create_task(self._lost())

    async def _lost(self) -> None:
        """The keeper was killed; with it the process, which is its child."""
        try:
            await self._rescue()
        finally:
            self._end.set_result(End(0, int(signal.SIGKILL), started=True))

    def _take(self, door: socket.socket) -> None:
        if self.door.done():
            door.close()
        else:
            door.setblocking(False)
            self.door.set_result(door)

    def _hear(self, line: Mapping[str, Any]) -> None:
        if self._end.done():
            return
        if "failed" in line:
            self._end.set_exception(Failed(f"the command could not be started: {line['failed']}"))
            self._end.exception()  # taken note of, in case nobody asks
        elif "ended" in line:
            self._end.set_result(End(**line["ended"]))

    async def close(self) -> None:
        """Let go. Whatever still runs is killed by its keeper, and this returns when that has ended."""
        if not self._end.done():
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)
            await asyncio.wait([self._end], timeout=PATIENCE)
        if not self._end.done():
            self._process.kill()
            await asyncio.wait([self._end])
        if self._rescuing is not None:
            await self._rescuing
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        if self.door.done() and not self.door.cancelled():
            self.door.result().close()
        self.door.cancel()


@contextlib.asynccontextmanager
async def kept(plan: Plan, held: Sequence[int] = ()) -> AsyncIterator[Kept]:
    """
    Start what a plan says, and keep it for as long as the context lasts. `held` are open files that the keeper holds as
    well, and nothing that it keeps: locks that are to last until the last of it has ended.

    Raises:
        Failed: no keeper can be started.
    """

    async def rescue() -> None:
        # What has left its family lives on. Whoever keeps another process of this user begins with killing it.
        if plan.uid is not None:
            again = replace(plan, command=("/bin/true",), folder="/", bubblewrap=None, port=None)
            with contextlib.suppress(Failed):
                async with _kept(again, held, _nothing) as another:
                    await another.ended()

    async with _kept(plan, held, rescue) as found:
        yield found


async def _nothing() -> None:
    return None


@contextlib.asynccontextmanager
async def _kept(plan: Plan, held: Sequence[int], rescue: Callable[[], Awaitable[None]]) -> AsyncIterator[Kept]:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        try:
            transport, protocol = await loop.subprocess_exec(
                lambda: SubprocessStreamProtocol(limit=_AHEAD, loop=loop),
                *(sys.executable, "-I", "-S", "-B", str(_KEEPER), str(theirs.fileno())),
                env={},
                cwd="/",
                pass_fds=(theirs.fileno(), *held),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise Failed("the command could not be started: this machine has no room for another process") from error
    process = Process(transport, protocol, loop)
    found = Kept(process, ours, plan.grace, rescue)
    try:
        with contextlib.suppress(OSError):
            await loop.sock_sendall(ours, plan.told())
        yield found
    finally:
        await found.close()
        for number in (0, 1, 2):
            # What nobody has read is not waited for.
            pipe = transport.get_pipe_transport(number)
            if pipe is not None:
                pipe.close()
        # Not before it has been taken note of: closing would ask the kernel for its end, which is told once.
        await process.wait()
        transport.close()
