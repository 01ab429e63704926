"""
Users of the system for runs, where we are root: each run is a user of its own, which is nobody else's meanwhile.

They are numbers from a range and have no names. Who has one holds a lock, which its keeper holds too: it is free again when
the last process of that run has gone, also where the orchestrator was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from company_agents.db.host import SYSTEM_FOLDER, make_system_folder
from company_agents.errors import Failed, MayNotStart

# Numbers that distributions, systemd and containers leave alone.
USUAL = range(60_800, 61_184)

# Below are the users of the system, above those of its services and of containers.
_LEAST, _MOST, _LARGEST = 1000, 4_000_000_000, 10_000
_NOBODY = range(65_534, 65_536)


@dataclass(frozen=True, slots=True)
class RunUser:
    """A user's number, which is its group's too; and the open file that keeps it ours."""

    uid: int
    lock: int


def read_users(text: str) -> range:
    """
    The numbers of a setting such as `20000-20099`.

    Raises:
        MayNotStart: it is no such range, or holds numbers of others.
    """
    found = re.fullmatch(r"(\d{1,10})-(\d{1,10})", text.strip())
    numbers = range(int(found[1]), int(found[2]) + 1) if found else range(0)
    if not numbers or numbers[0] < _LEAST or numbers[-1] > _MOST or len(numbers) > _LARGEST:
        raise MayNotStart(
            "COMPANY_AGENTS_RUN_USERS is no range of user numbers",
            hint=f"for example 20000-20099: from {_LEAST}, and at most {_LARGEST} of them",
        )
    if any(number in numbers for number in _NOBODY):
        raise MayNotStart("COMPANY_AGENTS_RUN_USERS holds the number of nobody", hint="leave 65534 and 65535 out")
    return numbers


@dataclass(frozen=True)
class RunUsers:
    """The users there are."""

    numbers: range
    folder: Path = SYSTEM_FOLDER / "run-users"

    @contextlib.contextmanager
    def taken(self) -> Iterator[RunUser]:
        """
        One that nobody has.

        Raises:
            Failed: all of them are in use, or belong to people.
        """
        make_system_folder()
        self.folder.mkdir(mode=0o700, exist_ok=True)
        for uid in self.numbers:
            lock = os.open(self.folder / str(uid), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                if _is_free(lock) and not _is_somebody(uid):
                    yield RunUser(uid, lock)
                    return
            finally:
                os.close(lock)
        raise Failed(
            "every user that runs may be started as is in use", hint="COMPANY_AGENTS_RUN_USERS gives them a wider range"
        )


def _is_free(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_somebody(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
