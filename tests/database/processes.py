"""
Processes that use the embedded database, and what can be seen of them from outside.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psycopg

from company_agents.db import locks
from company_agents.db.embedded import EmbeddedDatabase

MIGRATE, SERVE, INSTANCE = "company_agents_migrate", "company_agents_serve", "company_agents_instance"
ROOT = os.geteuid() == 0
NOBODY = 65534
SLOWEST = 30.0
T = TypeVar("T")

# A user in a process of its own. It says a line when it is in, and again each time that the server is back.
USER = """
import os, subprocess, sys, pathlib
from company_agents.db.embedded import join
member = join(pathlib.Path(sys.argv[1]))
if "watch" in sys.argv: member.watch(lambda error: print("back", error, flush=True))
if "child" in sys.argv: subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL)
if "fork" in sys.argv and os.fork() == 0:
    os.close(1)
    os.execvp("sleep", ["sleep", "60"]) if "exec" in sys.argv else __import__("time").sleep(60)
print("joined", flush=True)
sys.stdin.read()
"""


class User:
    """A process that uses the database."""

    def __init__(self, home: Path, *words: str) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(home), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path, "MASTER_KEY_SOURCE": "vault://a-secret"},
            start_new_session=True,
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], SLOWEST)[0], "the user said nothing"
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Kill it and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@contextlib.contextmanager
def using(home: Path, *words: str) -> Iterator[User]:
    user = User(home, *words)
    try:
        yield user
    finally:
        user.end()


def until(look: Callable[[], T | None]) -> T:
    """What `look` finds, as soon as it finds something."""
    end = time.monotonic() + SLOWEST
    while time.monotonic() < end:
        if (found := look()) is not None:
            return found
        time.sleep(0.002)
    raise AssertionError("it did not come to pass")


def wait_gone(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            assert select.select([fd], [], [], SLOWEST)[0], f"process {pid} still runs"
        finally:
            os.close(fd)


def wait_stopped(home: Path) -> None:
    """Until no supervisor lives on this home."""
    if not (home / "locks").is_dir():
        return
    lock = locks.open_lock(home, locks.SUPERVISOR)
    try:
        assert locks.wait_lock(lock, fcntl.LOCK_SH, time.monotonic() + SLOWEST), "the supervisor still runs"
    finally:
        locks.close_lock(lock)


def supervisors(home: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                words = (entry / "cmdline").read_bytes().decode().split("\0")
                pid = int(entry.name)
                ours = "company_agents.db.supervisor" in words and json.loads(words[-2])["home"] == str(home)
                if ours and os.getsid(pid) == pid:  # not a child of it before that becomes another program
                    found.append(pid)
    return found


def the_supervisor(home: Path) -> int:
    return until(lambda: next(iter(supervisors(home)), None))


def postmaster(home: Path) -> int:
    return int((home / "db" / "data" / "postmaster.pid").read_text().split()[0])


def connect(database: EmbeddedDatabase, role: str = SERVE) -> psycopg.Connection:
    """A connection, as soon as there is one: a server that was killed needs a moment."""

    def look() -> psycopg.Connection | None:
        with contextlib.suppress(psycopg.OperationalError):
            return psycopg.connect(database.conninfo(role), autocommit=True)
        return None

    return until(look)


def one(database: EmbeddedDatabase, query: str, role: str = SERVE) -> object:
    with connect(database, role) as connection:
        cursor = connection.execute(query)
        row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def clean(home: Path) -> None:
    wait_stopped(home)
    if home.exists():
        data = Path(os.path.realpath(home / "db"))
        shutil.rmtree(data, ignore_errors=True)
