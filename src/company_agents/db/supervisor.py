"""
The process that runs the embedded Postgres for as long as anybody uses it.

    python -m company_agents.db.supervisor <options as JSON>

It is started by a user (`embedded.py`), with the supervisor's lock already held through an inherited open
file. It waits for the users' lock: when it gets that, nobody is left, and it stops the server and ends
while holding it, so that who comes then waits for the stop. Postgres is its child, and the kernel tells
Postgres to stop (SIGINT, a fast shutdown) when the supervisor dies in any other way.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import IO, NoReturn

from company_agents.db import cluster, host, locks
from company_agents.db.locks import Report
from company_agents.errors import CompanyAgentsError, Exit, MayNotStart

# Beyond this postgres.log moves aside, in bytes; one older one is kept.
LOG_SIZE = 10_000_000

# Between two looks whether the server is up, in seconds.
PAUSE = 0.005

# After so many starts in a row that came to nothing, give up. The pauses in between double, in seconds.
MOST_FAILURES = 5
FIRST_PAUSE = 0.05

# How long a fast shutdown may take before an immediate one, and that one before a kill, in seconds.
FAST_SHUTDOWN = 30.0
IMMEDIATE_SHUTDOWN = 10.0

# How long to wait for a server that a killed supervisor left to end by itself, in seconds.
ORPHAN_PATIENCE = 50.0

# The server before is gone, its children are still about to notice: wait, however long.
_STILL_ENDING = ("pre-existing shared memory block", 'lock file "postmaster.pid" already exists')


class ServerLog:
    """What the server says, into a file of bounded size; and the last serious line of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self.serious = ""

    def take(self, said: bytes) -> None:
        """Keep it. A full disk loses lines rather than the server."""
        for line in said.decode(errors="replace").splitlines():
            for mark in ("FATAL:", "PANIC:"):
                # Not what it tells who knocks while it starts or stops.
                if mark in line and "the database system is" not in line:
                    self.serious = line.split(mark, 1)[1].strip()
        with contextlib.suppress(OSError):
            if self._file is None or self._file.tell() > LOG_SIZE:
                self._open()
            assert self._file is not None
            self._file.write(said)

    def _open(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_size > LOG_SIZE:
                self._path.replace(self._path.with_suffix(".log.1"))
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        self._file = os.fdopen(fd, "ab", buffering=0)
        self._file.seek(0, os.SEEK_END)


class Supervisor:
    """
    The life of one supervisor: `prepare`, then `run`. All of it in the main thread, because Postgres is told
    of the death of the thread that started it; only the waiting for the users' lock is in another.
    """

    def __init__(self, home: Path, lock: int) -> None:
        self.home = home
        self._lock = lock
        self._log = ServerLog(home / "logs" / "postgres.log")
        self._server: subprocess.Popen[bytes] | None = None
        self._selector = selectors.DefaultSelector()
        self._ready = False
        self._failures = 0
        self._next_start = 0.0
        self._end = False

    def prepare(self, postgres_bin: Path | None, service_user: str, runtime_dir: str | None) -> None:
        """
        Everything before the first start of the server.

        Raises:
            MayNotStart, OSError: it cannot be done.
        """
        self._account = host.find_account(service_user)
        programs = host.find_programs(postgres_bin, self._account)
        self._folder = host.database_folder(self.home, self._account)
        setup = Path(__file__).with_name("embedded.sql").read_text()
        client = os.geteuid()
        host.as_account(self._account, lambda: cluster.prepare(self._folder, programs, client, setup))
        self._socket_dir = host.socket_folder(self.home, self._folder, self._account, runtime_dir)
        self._command = cluster.server_command(programs, self._folder, self._socket_dir)
        self._await_orphan()

    def _await_orphan(self) -> None:
        """
        A supervisor before us was killed and its server is still stopping: wait for that. A pid file that
        names a process which is something else (numbers are used again) would keep Postgres from starting,
        so that one goes; every other case Postgres itself decides.
        """
        pid = cluster.recorded_pid(self._folder)
        if pid is None or pid == os.getpid():
            return
        data = self._folder / "data"
        with contextlib.suppress(OSError):
            orphan = os.pidfd_open(pid)
            try:
                if Path(f"/proc/{pid}/cwd").readlink() != data:
                    host.as_account(self._account, lambda: (data / "postmaster.pid").unlink())
                elif not select.select([orphan], [], [], ORPHAN_PATIENCE)[0]:
                    raise MayNotStart(
                        f"another Postgres (process {pid}) runs on the database of this home",
                        hint="stop it, then try again",
                    )
            finally:
                os.close(orphan)

    def run(self) -> None:
        """
        Run the server until its last user has gone or we are told to end.

        Raises:
            MayNotStart: it does not come up.
        """
        self._watch_signals()
        threading.Thread(target=self._await_last_user, args=(self._pipe(self._on_end),), daemon=True).start()
        while not self._end:
            if self._server is None and time.monotonic() >= self._next_start:
                self._start()
            self._turn(self._pause())
            if self._server is not None and not self._ready:
                self._look()
        self.stop()

    def _pause(self) -> float | None:
        if self._server is None:
            return max(self._next_start - time.monotonic(), 0.0)
        return None if self._ready else PAUSE

    def _turn(self, pause: float | None) -> None:
        for key, _ in self._selector.select(pause):
            # One event may close what another in the same batch is about.
            if self._selector.get_map().get(key.fd) is key:
                key.data(key.fd)

    def _pipe(self, on_byte: object) -> int:
        read, write = os.pipe()
        os.set_blocking(write, False)
        self._selector.register(read, selectors.EVENT_READ, on_byte)
        return write

    def _watch_signals(self) -> None:
        signal.set_wakeup_fd(self._pipe(self._on_end))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

    def _await_last_user(self, write: int) -> None:
        """Get the users' lock: then there are none. It is held until this process has ended."""
        fcntl.flock(locks.open_lock(self.home, locks.USERS), fcntl.LOCK_EX)
        os.write(write, b"0")

    def _on_end(self, fd: int) -> None:
        os.read(fd, 16)
        self._end = True

    def _start(self) -> None:
        self._ready = False
        self._log.serious = ""
        locks.write_report(self._lock, Report(locks.STARTING))
        account = self._account
        self._server = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=cluster.ENVIRONMENT,
            cwd="/",
            umask=0o077,
            user=account.uid if account.switch else None,
            group=account.gid if account.switch else None,
            extra_groups=[] if account.switch else None,
            # After the change of user, which would undo it.
            preexec_fn=host.die_with_parent(signal.SIGINT),
        )
        assert self._server.stderr is not None
        os.set_blocking(self._server.stderr.fileno(), False)
        self._selector.register(self._server.stderr, selectors.EVENT_READ, self._on_said)
        self._ended = os.pidfd_open(self._server.pid)
        self._selector.register(self._ended, selectors.EVENT_READ, self._on_ended)

    def _look(self) -> None:
        assert self._server is not None
        if cluster.is_ready(self._folder, self._server.pid):
            self._ready = True
            self._failures = 0
            found = Report(locks.READY, socket_dir=str(self._socket_dir), server_user=self._account.name)
            locks.write_report(self._lock, found)
            say("the database is ready")

    def _on_said(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            said = os.read(fd, 65536)
            if said:
                self._log.take(said)
            else:
                self._selector.unregister(fd)

    def _on_ended(self, fd: int) -> None:
        """The server has ended, and not by us: start it again, soon."""
        status = self._collect()
        if self._end:
            return
        say(f"the server ended (status {status}){': ' + self._log.serious if self._log.serious else ''}")
        self._ready = False
        locks.write_report(self._lock, Report(locks.STARTING))
        if not self._log.serious.startswith(_STILL_ENDING):
            self._failures += 1
        if self._failures >= MOST_FAILURES and cluster.DISK_FULL in self._log.serious:
            raise cluster.disk_full()
        if self._failures >= MOST_FAILURES:
            raise MayNotStart(
                f"the database does not start: {self._log.serious or f'status {status}'}",
                hint=f"see {self.home / 'logs' / 'postgres.log'}",
            )
        self._next_start = time.monotonic() + FIRST_PAUSE * 2**self._failures

    def _collect(self) -> int:
        assert self._server is not None and self._server.stderr is not None
        status = self._server.wait()
        fd = self._server.stderr.fileno()
        if fd in self._selector.get_map():
            self._on_said(fd)
        with contextlib.suppress(KeyError):
            self._selector.unregister(fd)
        self._server.stderr.close()
        self._selector.unregister(self._ended)
        os.close(self._ended)
        self._server = None
        return status

    def stop(self) -> None:
        """Stop the server, if it runs."""
        self._end = True
        locks.write_report(self._lock, Report(locks.STOPPING))
        steps = ((signal.SIGINT, FAST_SHUTDOWN), (signal.SIGQUIT, IMMEDIATE_SHUTDOWN), (signal.SIGKILL, 5.0))
        for number, patience in steps:
            if self._server is not None:
                self._server.send_signal(number)
                self._await_end(time.monotonic() + patience)
        if self._socket_dir != self._folder:
            with contextlib.suppress(OSError):
                self._socket_dir.rmdir()
        say("the database has stopped")

    def _await_end(self, until: float) -> None:
        while self._server is not None and time.monotonic() < until:
            self._turn(max(until - time.monotonic(), 0.0))


def say(text: str) -> None:
    """A line for logs/database.log, which is our standard error."""
    with contextlib.suppress(OSError):
        os.write(2, f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n".encode(errors="replace"))


def main(arguments: list[str]) -> NoReturn:
    """Run, and report through the lock how it went."""
    options = json.loads(arguments[0])
    home, lock = Path(options["home"]), int(options["lock"])
    os.set_inheritable(lock, False)
    os.umask(0o077)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    postgres_bin = Path(options["postgres_bin"]) if options["postgres_bin"] else None
    status = Exit.DONE
    supervisor = Supervisor(home, lock)
    try:
        with locks.translated(home):
            supervisor.prepare(postgres_bin, options["service_user"], options["runtime_dir"])
            supervisor.run()
    except CompanyAgentsError as error:
        say(error.sentence)
        locks.write_report(lock, Report(locks.FAILED, sentence=error.sentence, hint=error.hint))
        status = error.exit_status
    except Exception:
        say(traceback.format_exc())
        sentence = "the database supervisor failed"
        locks.write_report(lock, Report(locks.FAILED, sentence=sentence, hint=f"see {home / 'logs' / 'database.log'}"))
        status = Exit.FAILED
    # The supervisor's lock goes before the users' lock: who gets that one finds no supervisor.
    os.close(lock)
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
