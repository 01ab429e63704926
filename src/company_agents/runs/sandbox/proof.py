"""
Proof that the sandbox holds on this machine: a process in it tries to reach what it must not, and so does one outside, to
show that there is something to reach.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from company_agents.db.host import SOCKET_NAME, SYSTEM_FOLDER
from company_agents.errors import Refused
from company_agents.runs.sandbox.sandbox import Asked, Kind, Sandbox
from company_agents.runs.sandbox.workspace import passing_workspace
from company_agents.settings import Settings

# Each place that it can reach, in a line: a socket that is there, a folder that can be listed, a file that can be read. In
# another space of processes a number means another process, and in another network there is nobody to be asked.
_TRY = """
same=$(readlink /proc/self/ns/pid)
[ "$(readlink /proc/self/ns/net)" = "$2" ] && echo network
there=$1
shift 2
for place; do
    case $place in /proc/*) [ "$same" = "$there" ] || continue ;; esac
    if [ -S "$place" ] || ls "$place/" >/dev/null 2>&1 || head -c 1 "$place" 2>/dev/null | grep -q .; then
        echo "$place"
    fi
done
exit 0
"""

# Seconds that it may take.
TIME = 30


@dataclass(frozen=True, slots=True)
class Proof:
    """
    Which way processes are started here, and what one that is started so can reach of what it must not. `way` is None where
    there is none, and `missing` says why. `tried` counts the places that can be reached from outside.
    """

    way: Kind | None
    missing: str = ""
    tried: int = 0
    reached: tuple[str, ...] = ()
    open_network: bool = False


async def prove(sandbox: Sandbox, settings: Settings) -> Proof:
    """
    Start one, and see.

    Raises:
        Failed: it cannot be started.
    """
    try:
        way = await sandbox.way()
    except Refused as error:
        return Proof(None, missing=error.sentence)
    with passing_workspace() as workspace, passing_workspace() as another:
        (another / "file").write_text("another run's")
        places = [*map(str, _secret(sandbox, settings)), str(another)]
        command = ("/bin/sh", "-c", _TRY, "sh", *_spaces(), *places)
        outside = await _plainly(command)
        async with (
            asyncio.timeout(TIME),
            sandbox.started(way, Asked(command, {}, workspace, "http://127.0.0.1")) as kept,
        ):
            reading = asyncio.create_task(kept.output.read())
            await kept.give(b"")
            end = await kept.ended()
            inside = (await reading).decode(errors="replace").splitlines()
    if end.words or not end.started:
        return Proof(None, missing=end.words or "the command could not be started")
    reached = tuple(place for place in inside if place != "network")
    return Proof(way.kind, "", len([place for place in outside if place != "network"]), reached, "network" in inside)


def _secret(sandbox: Sandbox, settings: Settings) -> Sequence[Path]:
    """The home, the key, the database's files and socket, and this process as the kernel shows it."""
    # The system folder everybody may list; what lies in it counts.
    found = [place for place in sandbox.places.hidden if place != SYSTEM_FOLDER and place.exists()]
    found += [place / SOCKET_NAME for place in found if (place / SOCKET_NAME).exists()]
    for name in ("secrets/master.key", "config.toml", "locks/up.lock"):
        if (settings.home / name).exists():
            found.append(settings.home / name)
    process = Path(f"/proc/{os.getpid()}")
    return [*found, process / "environ", process / "maps", process / "fd"]


def _spaces() -> list[str]:
    """The space of processes and the network that we are in, by their names."""
    return [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("pid", "net")]


async def _plainly(command: Sequence[str]) -> list[str]:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env={})
    said, _ = await process.communicate()
    return said.decode(errors="replace").splitlines()
