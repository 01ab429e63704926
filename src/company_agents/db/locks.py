"""
The locks of an instance home, and what the database supervisor says through its own.

All are `flock`: the kernel lets go of them when the holder dies, however it dies, so there is no stale one.

| file in `locks/` | held |
|---|---|
| `up.lock` | exclusively, by the orchestrator; its text is a process id, for people only |
| `database-users.lock` | shared, by everyone who uses the database; exclusively, by the supervisor that stops it |
| `database-supervisor.lock` | exclusively, by the supervisor from its birth; its text is its report |

The report is good only while somebody holds the lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from company_agents.errors import CompanyAgentsError, MayNotStart

UP = "up.lock"
USERS = "database-users.lock"
SUPERVISOR = "database-supervisor.lock"

STARTING = "starting"
READY = "ready"
STOPPING = "stopping"
FAILED = "failed"

# One write of one fixed length, so that a reader never sees half of a report. A socket's folder takes at
# most 107 bytes, a path in a sentence 4096.
_REPORT_LENGTH = 16384

# Between two looks at a lock or a report, in seconds.
PAUSE = 0.005


@dataclass(frozen=True, slots=True)
class Report:
    """What the supervisor is at; when ready, where the server is and whose; when failed, why."""

    state: str
    socket_dir: str = ""
    server_user: str = ""
    sentence: str = ""
    hint: str = ""


# Locks of this process that a fork must not keep alive: a child holds the same open file.
_held: set[int] = set()


def open_lock(home: Path, name: str) -> int:
    """A new open file on a lock, which no program that we start inherits. Close it with `close_lock`."""
    fd = os.open(home / "locks" / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    _held.add(fd)
    return fd


def close_lock(fd: int) -> None:
    """Let go. Never LOCK_UN: that would take the lock away from another process with the same open file."""
    if fd in _held:
        _held.discard(fd)
        os.close(fd)


def _close_in_child() -> None:
    for fd in tuple(_held):
        with contextlib.suppress(OSError):
            close_lock(fd)


os.register_at_fork(after_in_child=_close_in_child)


def try_lock(fd: int, operation: int) -> bool:
    """Take the lock if nobody is in the way."""
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_lock(fd: int, operation: int, until: float) -> bool:
    """Take the lock; False when it is still taken at the time `until` (monotonic clock)."""
    while not try_lock(fd, operation):
        if time.monotonic() > until:
            return False
        time.sleep(PAUSE)
    return True


def write_text(fd: int, text: str) -> None:
    """What the lock's file says from now on."""
    os.pwrite(fd, text.encode().ljust(_REPORT_LENGTH), 0)


def read_text(fd: int) -> str:
    """What the lock's file says."""
    return os.pread(fd, _REPORT_LENGTH, 0).decode(errors="replace").strip()


def write_report(fd: int, report: Report) -> None:
    """Say it to whoever waits."""
    write_text(fd, json.dumps(asdict(report)))


def read_report(fd: int) -> Report:
    """What was said last."""
    try:
        return Report(**json.loads(read_text(fd)))
    except (ValueError, TypeError):
        return Report(STARTING)


@contextlib.contextmanager
def translated(folder: Path) -> Iterator[None]:
    """
    Raises:
        MayNotStart: instead of an OSError, in a sentence about the folder.
    """
    try:
        yield
    except CompanyAgentsError:
        raise
    except OSError as error:
        raise explained(error, folder) from error


def explained(error: OSError, folder: Path) -> MayNotStart:
    """The sentence for a failure of the file system."""
    place = error.filename if isinstance(error.filename, str) else folder
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MayNotStart(f"the disk that holds {folder} is full", hint="free some space, then try again")
    if error.errno == errno.EROFS:
        return MayNotStart(
            f"{folder} is on a read-only file system", hint="choose another home with COMPANY_AGENTS_HOME"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return MayNotStart(
            f"{place} may not be used by this user", hint="check its owner and mode, or set COMPANY_AGENTS_HOME"
        )
    return MayNotStart(
        f"{place} cannot be used: {os.strerror(error.errno or 0).lower()}", hint="check the path of the instance home"
    )
