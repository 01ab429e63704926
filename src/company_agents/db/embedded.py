"""
The embedded Postgres, from the side of who uses it: an orchestrator, or a command.

A user joins. The first one starts the supervisor (`supervisor.py`), a small process of its own which runs
Postgres for as long as there is any user. So a command that happened to start the database does not take
it away when it ends. `locks.py` has the protocol.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from company_agents.db import locks
from company_agents.db.host import remove_database
from company_agents.db.locks import Report
from company_agents.errors import Busy, CompanyAgentsError, MayNotStart

DATABASE = "company_agents"
PORT = 5432

# How long to wait for the server, in seconds. A cold start takes about one, recovery after a crash more.
PATIENCE = 60.0

# What the supervisor gets of our environment: it lives longer than we do, and has no use for a secret.
ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ")

# Beyond this the supervisor's own log moves aside, in bytes.
LOG_SIZE = 1_000_000

LONGEST_PAUSE = 30.0


@dataclass(frozen=True, slots=True)
class EmbeddedDatabase:
    """What a user needs to connect. `server_user` is the OS user that must be at the other end of the socket."""

    socket_dir: Path
    server_user: str = ""

    def conninfo(self, role: str) -> str:
        """The connection string of libpq for a role. There is no password in it, nor is there any."""
        parts = {
            "host": str(self.socket_dir),
            "port": str(PORT),
            "dbname": DATABASE,
            "user": role,
            "gssencmode": "disable",
        }
        if self.server_user:
            parts["requirepeer"] = self.server_user
        return " ".join(f"{name}={_quoted(value)}" for name, value in parts.items())


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


@dataclass(frozen=True, slots=True)
class _Start:
    """How to start a supervisor."""

    home: Path
    postgres_bin: Path | None
    service_user: str

    def spawn(self, lock: int) -> subprocess.Popen[bytes]:
        """
        Start one. It has the supervisor's lock from its birth, because it shares our open file; so there
        are never two, and never a moment in which none seems to live.
        """
        options = {
            "home": str(self.home),
            "postgres_bin": str(self.postgres_bin) if self.postgres_bin else None,
            "service_user": self.service_user,
            "runtime_dir": os.environ.get("XDG_RUNTIME_DIR"),
            "lock": lock,
        }
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
        # -P and -S: modules come from where ours came from, not from the present folder.
        command = [sys.executable, "-P", "-S", "-m", "company_agents.db.supervisor", json.dumps(options)]
        with open(_log(self.home), "ab", opener=_private) as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd="/",
                pass_fds=(lock,),
                start_new_session=True,
            )
        # It may end before we do; somebody has to take note, or it stays in the table of processes.
        threading.Thread(target=child.wait, name="database-supervisor", daemon=True).start()
        return child


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _log(home: Path) -> Path:
    return home / "logs" / "database.log"


class Membership:
    """
    A user's hold on the database. While it lasts the server stays; the kernel ends it when the process dies.
    """

    def __init__(self, start: _Start, users: int, database: EmbeddedDatabase) -> None:
        self.database = database
        self._start = start
        self._users = users
        self._closed = threading.Event()

    def watch(self, on_lost: Callable[[MayNotStart | None], None] | None = None) -> None:
        """
        From now on, start a new supervisor when the present one dies. For a user that lives long.

        `on_lost` is called from a thread: with None once the server is back, with the error when it could
        not be started; then it is tried again.
        """
        threading.Thread(target=self._watch, args=(on_lost,), name="database-watch", daemon=True).start()

    def _watch(self, on_lost: Callable[[MayNotStart | None], None] | None) -> None:
        pause = 0.5
        while True:
            self._await_loss()
            if self._closed.is_set():
                return
            failure = None
            try:
                self.database = _found(_ensure(self._start, time.monotonic() + PATIENCE))
                pause = 0.5
            except MayNotStart as error:
                failure = error
            if on_lost is not None:
                on_lost(failure)
            if failure is not None:
                self._closed.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    def _await_loss(self) -> None:
        """Block until no supervisor lives: it holds this lock for all its life."""
        with contextlib.suppress(OSError):
            lock = locks.open_lock(self._start.home, locks.SUPERVISOR)
            try:
                fcntl.flock(lock, fcntl.LOCK_SH)
            finally:
                locks.close_lock(lock)

    def close(self) -> None:
        """Let go of the database; the last one to do so ends it."""
        if not self._closed.is_set():
            self._closed.set()
            locks.close_lock(self._users)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def join(home: Path, *, postgres_bin: Path | None = None, service_user: str = "company-agents") -> Membership:
    """
    Become a user of the database in an instance home, starting it where it does not run. Blocks: a few
    milliseconds when it runs, about a second on a fresh home.

    Args:
        postgres_bin: the folder of another Postgres' programs, 15 or newer, instead of the one installed with us.
        service_user: as whom Postgres runs when we are root.

    Raises:
        MayNotStart: the home cannot be used, or the server does not start.
    """
    home = make_home(home)
    until = time.monotonic() + PATIENCE
    start = _Start(home, postgres_bin, service_user)
    with locks.translated(home):
        users = locks.open_lock(home, locks.USERS)
        try:
            # In the way can only be a supervisor that is just stopping the server.
            if not locks.wait_lock(users, fcntl.LOCK_SH, until):
                raise _too_slow(home, "stop")
            database = _found(_ensure(start, until))
        except BaseException:
            locks.close_lock(users)
            raise
    return Membership(start, users, database)


def _ensure(start: _Start, until: float) -> Report:
    """See to it that a supervisor lives, and wait until its server is ready."""
    with locks.translated(start.home):
        lock = locks.open_lock(start.home, locks.SUPERVISOR)
        try:
            return _ensure_with(start, lock, until)
        finally:
            locks.close_lock(lock)


def _ensure_with(start: _Start, lock: int, until: float) -> Report:
    waited = False
    child: subprocess.Popen[bytes] | None = None
    while time.monotonic() < until:
        # Shared first: two who look at once do not take each other for a supervisor.
        if not locks.try_lock(lock, fcntl.LOCK_SH):
            report = locks.read_report(lock)
            if report.state == locks.READY:
                return report
            waited = True
        elif locks.try_lock(lock, fcntl.LOCK_EX):
            report = locks.read_report(lock)
            if waited and report.state == locks.FAILED:
                raise MayNotStart(report.sentence, hint=report.hint, code="database")
            if child is not None and report.state == locks.STARTING:
                raise _died(start.home)
            locks.write_report(lock, Report(locks.STARTING))
            _bound_log(start.home)
            child = start.spawn(lock)
            # Only the supervisor's copy of the open file keeps the lock from here on.
            lock = _reopened(start.home, lock)
            waited = True
        time.sleep(locks.PAUSE)
    raise _too_slow(start.home, "start")


def _reopened(home: Path, lock: int) -> int:
    """The same lock through a new open file, under the same number."""
    fresh = locks.open_lock(home, locks.SUPERVISOR)
    os.dup2(fresh, lock, inheritable=False)
    locks.close_lock(fresh)
    return lock


def _found(report: Report) -> EmbeddedDatabase:
    return EmbeddedDatabase(Path(report.socket_dir), report.server_user)


def _too_slow(home: Path, what: str) -> MayNotStart:
    return MayNotStart(
        f"the database did not {what} within {PATIENCE:.0f} seconds",
        hint=f"it may still be at it: try again, and see {home / 'logs'}",
        code="database",
    )


def _died(home: Path) -> MayNotStart:
    lines = _log(home).read_text(errors="replace").splitlines()
    cause = f": {lines[-1].strip()}" if lines else ""
    return MayNotStart(f"the database supervisor ended at once{cause}", hint=f"see {_log(home)}", code="database")


def _bound_log(home: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if _log(home).stat().st_size > LOG_SIZE:
            _log(home).replace(_log(home).with_suffix(".log.1"))


def make_home(home: Path) -> Path:
    """
    The instance home, made where it is missing, closed to others (0700), with the folders `locks` and `logs`.

    Raises:
        MayNotStart: it belongs to somebody else, or cannot be made or written.
    """
    home = home.absolute()
    if "\n" in str(home) or not _is_utf8(home):
        raise MayNotStart(
            "the path of the instance home is not one line of UTF-8", hint="choose another with COMPANY_AGENTS_HOME"
        )
    with locks.translated(home):
        home.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            home.mkdir(mode=0o700)
        found = home.stat()
        if found.st_uid != os.geteuid():
            raise MayNotStart(
                f"the instance home {home} belongs to {_name_of(found.st_uid)}",
                hint="run this as that user, or choose another home with COMPANY_AGENTS_HOME",
            )
        if found.st_mode & 0o077:
            _close_to_others(home, found)
        for name in ("locks", "logs"):
            (home / name).mkdir(mode=0o700, exist_ok=True)
    return home


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # Python stands bytes that do not decode in for by lone surrogates
        return False
    return True


def _close_to_others(home: Path, found: os.stat_result) -> None:
    # A shared folder, the root or a person's home is not ours to close, even if we could.
    if found.st_mode & stat.S_ISVTX or str(home) in ("/", os.path.expanduser("~")):  # noqa: PTH111 - may fail quietly
        raise MayNotStart(
            f"{home} is a folder for other things too", hint="choose a folder of its own with COMPANY_AGENTS_HOME"
        )
    home.chmod(0o700)


def _name_of(uid: int) -> str:
    try:
        return f"the user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"another user (number {uid})"


class HomeLock:
    """The one orchestrator's hold on its home. Ends with `close`, or with the process."""

    def __init__(self, lock: int) -> None:
        self._lock = lock

    def close(self) -> None:
        """Let go."""
        locks.close_lock(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def discard(home: Path) -> None:
    """
    Remove a home that nobody uses any more, with its database, when the server there has stopped. Blocks.

    Raises:
        MayNotStart: the server does not stop, or something cannot be removed.
    """
    with locks.translated(home):
        lock = locks.open_lock(home, locks.SUPERVISOR)
        try:
            if not locks.wait_lock(lock, fcntl.LOCK_SH, time.monotonic() + PATIENCE):
                raise _too_slow(home, "stop")
        finally:
            locks.close_lock(lock)
        remove_database(home)
        shutil.rmtree(home)


def hold_home(home: Path) -> HomeLock:
    """
    Be the only orchestrator on an instance home.

    Raises:
        Busy: there is one.
        MayNotStart: the home cannot be used.
    """
    home = make_home(home)
    with locks.translated(home):
        lock = locks.open_lock(home, locks.UP)
        try:
            if not locks.try_lock(lock, fcntl.LOCK_EX):
                holder = locks.read_text(lock)
                who = f" (process {holder})" if holder.isdigit() else ""
                raise Busy(
                    f"another orchestrator{who} runs on this home",
                    hint="stop it first, or choose another home with COMPANY_AGENTS_HOME",
                )
            locks.write_text(lock, str(os.getpid()))
        except (CompanyAgentsError, OSError):
            locks.close_lock(lock)
            raise
    return HomeLock(lock)
