"""
A run that is a process: any command, or a command-line agent that is known here.

It gets an environment of its own and nothing of the orchestrator's; a folder of its own; what it is to do, through standard
input or as an argument. What it writes is passed on as it comes. It runs in a sandbox (`runs/sandbox/`), and when it has
ended, or has to, nothing that it started is left.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from company_agents.ending import ended
from company_agents.errors import Failed
from company_agents.runs.adapters.base import Kind, Outcome, Output, Stream, Work
from company_agents.runs.adapters.presets import KNOWN, TOKEN, USUAL_PATH, Invocation, Located, locate
from company_agents.runs.adapters.process_config import PROMPT, ProcessConfig
from company_agents.runs.sandbox.keeping import End, Kept
from company_agents.runs.sandbox.places import SYSTEM
from company_agents.runs.sandbox.sandbox import Asked, Sandbox, Way

# How long what was written before a stop may still take to be passed on, in seconds.
LAST_WORDS = 5.0

# MAX_ARG_STRLEN of the kernel, without the zero at its end.
LONGEST_WORD = 128 * 1024 - 1

_PIECE = 65536


class ProcessAdapter:
    """Starts a process for each run."""

    kind: Kind = "process"

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            WrongUsage: a field that there is not, or a value that will not do.
        """
        return ProcessConfig.read(config, self.sandbox.places).stored()

    def opens(self, config: Mapping[str, Any]) -> Sequence[str]:
        """An open network, more places to read, a program from a place that sandboxes do not show."""
        return ProcessConfig.read(config, self.sandbox.places).opens

    async def ready(self, *, unsandboxed: bool) -> None:
        """
        Whether this machine can execute such a run.

        Raises:
            Refused: it has no sandbox, and the agent may not do without (`no_sandbox`).
        """
        await self.sandbox.way(unsandboxed=unsandboxed)

    async def execute(self, work: Work, output: Output) -> Outcome:
        """
        Do the work of one start.

        Raises:
            Refused: there is no sandbox here.
            Failed: the command is not there, or cannot be started.
        """
        stop = asyncio.Event()
        task = asyncio.create_task(self._execute(work, output, stop))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            stop.set()
            # However often we are cancelled meanwhile: before nothing of it is left, this does not return.
            while not task.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({task})
            if not task.cancelled():
                task.exception()
            raise

    async def _execute(self, work: Work, output: Output, stop: asyncio.Event) -> Outcome:
        config = ProcessConfig.read(work.config, self.sandbox.places)
        way = await self.sandbox.way(unsandboxed=work.unsandboxed)
        asked, spoken = _asked(config, way, work, self.sandbox)
        if stop.is_set():
            raise Failed("it was stopped before it began")
        if way.kind == "unsandboxed":
            await output.write("note", "not in a sandbox: this process can read the master key\n")
        elif way.kind == "user":
            await output.write("note", "as another user of this machine, and not in a sandbox: its network is open\n")
        async with self.sandbox.started(way, asked) as process:
            end = await _attended(process, spoken, output, stop)
        if not end.started:
            return Outcome("failed", "the command could not be started: what it put out says why")
        return Outcome("failed", end.words) if end.words else Outcome("finished")


async def _attended(process: Kept, spoken: bytes, output: Output, stop: asyncio.Event) -> End:
    """Give a process its input, pass its output on, stop it when it has to; how it ended."""
    giving = asyncio.create_task(process.give(spoken))
    streams: tuple[tuple[asyncio.StreamReader, Stream], ...] = ((process.output, "output"), (process.errors, "error"))
    pumps = [asyncio.create_task(_pump(reader, stream, output, stop)) for reader, stream in streams]
    stopping, ending = asyncio.create_task(stop.wait()), asyncio.create_task(process.ended())
    try:
        await asyncio.wait({stopping, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            await process.stop()
        end = await ending
        reading: asyncio.Future[Any] = asyncio.gather(*pumps)
        await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            await asyncio.wait({reading}, timeout=LAST_WORDS)
        if reading.done():
            await reading
        return end
    finally:
        await ended(giving, stopping, ending, *pumps)


async def _pump(reader: asyncio.StreamReader, stream: Stream, output: Output, stop: asyncio.Event) -> None:
    """Pass on what comes, piece by piece, and take no more before that is done."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    try:
        while True:
            piece = await reader.read(_PIECE)
            text = decoder.decode(piece, final=not piece)
            if text:
                await output.write(stream, text)
            if not piece:
                return
    except Exception:
        # Nobody reads what it writes any more, so that it would wait for ever.
        stop.set()
        raise


def _asked(config: ProcessConfig, way: Way, work: Work, sandbox: Sandbox) -> tuple[Asked, bytes]:
    """The process for a piece of work, and what it is given through standard input."""
    folder = way.folder(work.workspace)
    url = way.url(work.url, open_network=config.network == "open")
    inside = replace(work, url=url)
    if config.preset:
        name, preset = KNOWN[config.preset]
        others = sandbox.root and way.kind != "unsandboxed"
        located = locate(name, config.program, sandbox.places, for_others=others)
        invocation = preset(config, inside, folder)
    else:
        readable = [shown.place for shown in config.readable]
        located = Located(_program(config.command[0], way, work.workspace, readable), [], [])
        invocation = Invocation(config.command[1:], {})
    asks = any(PROMPT in argument for argument in invocation.arguments)
    command = [str(located.program), *(argument.replace(PROMPT, work.prompt) for argument in invocation.arguments)]
    if any(len(word.encode()) > LONGEST_WORD for word in command):
        raise Failed("the prompt is longer than a word of a command may be", hint="let it read standard input")
    asked = Asked(
        command=command,
        environment=_environment(config, inside, way, folder, located.path) | dict(invocation.environment),
        workspace=work.workspace,
        url=work.url,
        readable=[*config.readable, *located.readable],
        open_network=config.network == "open",
        files=invocation.files,
    )
    return asked, b"" if asks else work.prompt.encode()


def _environment(config: ProcessConfig, work: Work, way: Way, folder: str, path: list[str]) -> dict[str, str]:
    """All that a process finds in its environment: what is not named here is not there."""
    found = {
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "TZ": "UTC",
        **config.environment,
        "PATH": ":".join(dict.fromkeys([*path, *USUAL_PATH])),
        "HOME": folder,
        "TMPDIR": way.temporary(work.workspace),
        "COMPANY_AGENTS_URL": work.url,
        "COMPANY_AGENTS_MCP_URL": work.mcp_url,
        "COMPANY_AGENTS_GATEWAY_URL": f"{work.url}/gateway",
        TOKEN: work.token.reveal_text(),
        "COMPANY_AGENTS_RUN_ID": str(work.run_id),
        "COMPANY_AGENTS_COMPANY_ID": str(work.company_id),
    }
    if work.task_id is not None:
        found["COMPANY_AGENTS_TASK_ID"] = str(work.task_id)
    return found


def _program(name: str, way: Way, workspace: Path, readable: Sequence[Path]) -> Path:
    """
    The program of a command, as the process sees it.

    Raises:
        Failed: it is not there, or not in the sandbox.
    """
    where = [Path(name)] if "/" in name else [Path(place) / name for place in USUAL_PATH]
    found = next((path for path in where if path.is_absolute() and path.is_file() and os.access(path, os.X_OK)), None)
    if found is None:
        raise Failed(
            f"{name} is not there, or cannot be started",
            hint="give the absolute path of a program of this machine, or the name of one in " + ":".join(USUAL_PATH),
        )
    shown = [*map(Path, SYSTEM), *readable]
    if way.program is not None and not any(found.is_relative_to(place) for place in shown):
        raise Failed(
            f"{found} is not in the sandbox, which shows the system's programs only",
            hint="an owner of the instance may add its folder to `readable` in the agent's configuration",
        )
    return found
