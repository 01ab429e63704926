"""
How bubblewrap is called: what a sandbox shows, and what it takes away.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from company_agents.runs.sandbox.keeping import Bubblewrap
from company_agents.runs.sandbox.places import CONFIGURATION, SYSTEM, Shown

# Where a run works, and where it finds this orchestrator, as seen from the inside.
WORKSPACE = "/workspace"
PORT = 3101

# Files in memory, in bytes: what is in /tmp, and what processes share.
TEMPORARY = 512 * 1024 * 1024
SHARED = 64 * 1024 * 1024

OLDEST = (0, 4)


@dataclass(frozen=True, slots=True)
class Program:
    """bubblewrap as it is here. `options` are those that not every version has."""

    path: Path
    version: str
    options: frozenset[str]


def look_at(path: Path) -> Program | str:
    """The program, or why it cannot be used."""
    try:
        version = _said(path, "--version").split()[-1]
        options = frozenset(re.findall(r"--[a-z-]+", _said(path, "--help")))
    except (OSError, subprocess.SubprocessError, IndexError):
        return f"{path} cannot be started"
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST or "--json-status-fd" not in options:
        return f"{path} is bubblewrap {version}; it has to be {'.'.join(map(str, OLDEST))} or newer"
    return Program(path, version, options)


def _said(path: Path, option: str) -> str:
    done = subprocess.run([path, option], capture_output=True, check=True, timeout=10, text=True, env={})
    return done.stdout


def sandbox(
    program: Program, workspace: Path, uid: int, *, readable: Sequence[Shown] = (), open_network: bool = False
) -> Bubblewrap:
    """How to call it for a process of this user that works in this folder, and may read these places."""
    arguments = ["--unshare-all", "--unshare-user", *(["--share-net"] if open_network else [])]
    # The second: it is given no environment, but may be a script that sets one for itself.
    arguments += [option for option in ("--disable-userns", "--clearenv") if option in program.options]
    arguments += ["--hostname", "agent", "--new-session", "--die-with-parent", "--cap-drop", "ALL"]
    arguments += [*_system(), "--proc", "/proc", "--dev", "/dev", *_memory(program, SHARED, "/dev/shm")]  # noqa: S108
    arguments += [*_memory(program, TEMPORARY, "/tmp"), "--dir", "/run", "--dir", "/home"]  # noqa: S108
    arguments += ["--dir", "/var", "--symlink", "../tmp", "/var/tmp"]  # noqa: S108
    for shown in readable:
        # What was looked at, not what its name leads to by then.
        arguments += ["--ro-bind", str(shown.found), str(shown.place)]
    arguments += ["--bind", str(workspace), WORKSPACE, "--chdir", WORKSPACE]
    # The root and /dev are in memory, and would hold what is written there without a limit.
    arguments += ["--remount-ro", "/dev", "--remount-ro", "/"]
    files = {
        "/etc/passwd": f"root:x:0:0::/:/usr/sbin/nologin\nagent:x:{uid}:{uid}::{WORKSPACE}:/bin/sh\n",
        "/etc/group": f"root:x:0:\nagent:x:{uid}:\n",
    }
    return Bubblewrap(program.path, arguments, files)


def _system() -> list[str]:
    arguments = []
    for place in map(Path, SYSTEM):
        if place.is_symlink():
            arguments += ["--symlink", str(place.readlink()), str(place)]
        elif place.is_dir():
            arguments += ["--ro-bind", str(place), str(place)]
    for path in (Path("/etc") / name for name in CONFIGURATION):
        # Not a link to what is not there, which bubblewrap takes amiss.
        if path.exists():
            arguments += ["--ro-bind-try", str(path), str(path)]
    return arguments


def _memory(program: Program, size: int, place: str) -> list[str]:
    return [*(["--size", str(size)] if "--size" in program.options else []), "--tmpfs", place]
