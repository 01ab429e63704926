"""
Keeps the process of one run: starts it, and sees to it that nothing of it stays behind.

    python -I -S keeper.py <number of a socket>

A program of its own, of the standard library alone. It outlives the orchestrator by the moment that it takes to kill what
it keeps: when the socket closes, whoever was at the other end has gone. It has one thread, since the kernel tells a child
of the death of the *thread* that started it; and it is the parent of everything whose own parent has died.

It is told a plan, as four bytes of length and JSON; then one byte, `s`, asks it to stop. It says, in lines of JSON:
`door` with a listening socket of the sandbox's own network, and at the end `ended`, or `failed` where nothing was started.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

# prctl(2), seccomp(2), setns(2), ioctl_ns(2), ip(7)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
SECCOMP_MODE_FILTER = 2
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
NS_GET_USERNS = 0xB701
IP_FREEBIND = 15

# How long bubblewrap may take to set a sandbox up, and what was killed to be gone, in seconds.
SETTING_UP, DYING, PAUSE = 20.0, 10.0, 0.005

# What is kept goes first when memory is short, and last when the processor is.
OOM_SCORE, NICE = 900, 5

# The end of the terminal, or of the service, is the orchestrator's affair: it tells us when.
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)

_libc = ctypes.CDLL(None, use_errno=True)


class NotStartedError(Exception):
    """Nothing was started; the text says why, for people."""


class Keeper:
    """The life of one process: `start`, `watch`, `clear`."""

    def __init__(self, control: socket.socket, plan: dict[str, Any]) -> None:
        self.control, self.plan = control, plan
        self.uid: int | None = plan["uid"]
        self.main = 0
        self.first: int | None = None  # process 1 in the sandbox, by its number out here
        self.status: int | None = None
        self.json: Lines | None = None
        self.wake, write = os.pipe()
        os.set_blocking(write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write)

    def start(self) -> None:
        """
        Raises:
            NotStartedError: there is no such program, or the sandbox does not come up.
        """
        if not self.clear():  # what a keeper that was killed has left of this user
            raise NotStartedError("what ran as the same user before does not end")
        if (bubblewrap := self.plan["bubblewrap"]) is None:
            self.main = self._spawn(self.plan["command"], self.plan["environment"], ())
            return
        (status_read, status_write), (block_read, block_write) = os.pipe(), os.pipe()
        self.json = Lines(status_read)
        options, files = [], [status_write, block_read]
        for place, text in bubblewrap["files"].items():
            files.append(in_memory(text.encode()))
            options += ["--ro-bind-data", str(files[-1]), place]
        options += bubblewrap["arguments"]  # afterwards: some of them close the root
        if self.plan["filter"]:
            files.append(in_memory(base64.b64decode(self.plan["filter"])))
            options += ["--seccomp", str(files[-1])]
        options += ["--json-status-fd", str(status_write), "--block-fd", str(block_read)]
        files.append(in_memory(b"".join(os.fsencode(option) + b"\0" for option in options)))
        # Options through a file: the environment, and with it the token, must not stand in the list of processes. And
        # nothing of it for bubblewrap itself, which runs out here: its loader would obey it.
        called = [bubblewrap["program"], "--args", str(files[-1]), "--"]
        self.main = self._spawn([*called, *self.plan["command"]], {}, files)
        for file in files:
            os.close(file)
        self._set_up(block_write)

    def _set_up(self, block: int) -> None:
        """What is to be done when the sandbox is there and nothing runs in it yet."""
        assert self.json is not None
        self.first = self.json.number("child-pid", time.monotonic() + SETTING_UP)
        if self.first is None:
            raise NotStartedError("bubblewrap ended before the sandbox was there")
        until, done = time.monotonic() + SETTING_UP, errno.EAGAIN
        while done:
            done = as_user(self.uid, lambda: self._inside(self.first or 0))
            # A broken pipe: whoever it was made for has died meanwhile.
            if done and (time.monotonic() > until or self._has_ended() or done == errno.EPIPE):
                raise NotStartedError(f"the sandbox cannot be reached: {os.strerror(done)}")
            time.sleep(PAUSE if done else 0)
        os.close(block)

    def _inside(self, first: int) -> None:
        # Not earlier: in here processes are counted anew, and out there all that the user has.
        if self.plan["processes"]:
            lower(resource.RLIMIT_NPROC, self.plan["processes"], first)
        if self.plan["port"] is None:
            return
        # The socket is made in the sandbox's network and used out here: nothing in there needs to relay.
        network = os.open(f"/proc/{first}/ns/net", os.O_RDONLY)
        owner = fcntl.ioctl(network, NS_GET_USERNS)
        checked(_libc.setns(owner, CLONE_NEWUSER))
        checked(_libc.setns(network, CLONE_NEWNET))
        listening = socket.socket()
        # The loopback may not be up yet.
        listening.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        listening.bind(("127.0.0.1", self.plan["port"]))
        listening.listen(128)
        socket.send_fds(self.control, [b'{"door": true}\n'], [listening.fileno()])

    def _spawn(self, command: list[str], environment: dict[str, str], files: Iterable[int]) -> int:
        read, write = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                close_all_but({*files, write})
                for file in files:
                    os.set_inheritable(file, True)
                self._arrange(parent)
                os.execve(command[0], command, environment)  # noqa: S606
            except OSError as error:
                os.write(write, struct.pack("i", error.errno or errno.EIO))
            finally:
                os._exit(127)
        os.close(write)
        with open(read, "rb") as answer:
            said = answer.read(4)
        if said:
            os.waitpid(pid, 0)
            raise NotStartedError(f"{command[0]}: {os.strerror(struct.unpack('i', said)[0]).lower()}")
        return pid

    def _arrange(self, parent: int) -> None:
        """What the child does before its program."""
        os.setsid()
        for number in (*IGNORED, signal.SIGCHLD, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.umask(0o077)
        with contextlib.suppress(OSError):
            os.nice(NICE)
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write(str(OOM_SCORE))
        for name, most in self.plan["limits"].items():
            lower(getattr(resource, name), most)
        become(self.uid)
        # After the change of user, which would undo it.
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:
            os._exit(127)
        os.chdir(self.plan["folder"])
        if self.plan["bubblewrap"] is None and self.uid is not None:
            lower(resource.RLIMIT_NPROC, self.plan["processes"])
            prctl(PR_SET_NO_NEW_PRIVS, 1)
            program = base64.b64decode(self.plan["filter"])
            text = ctypes.create_string_buffer(program, len(program))
            # struct sock_fprog: how many instructions of 8 bytes, and where they are.
            if program:
                filters = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(text))
                prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filters)

    def watch(self) -> None:
        """Until the process has ended, or has to: then it has so long for it, and what is left of it is killed."""
        deadline: float | None = None
        while not self._has_ended():
            wait = None if deadline is None else max(deadline - time.monotonic(), 0)
            watched: list[Any] = [self.wake, self.control] if deadline is None else [self.wake]
            ready, _, _ = select.select(watched, [], [], wait)
            if self.wake in ready:
                os.read(self.wake, 4096)
            if self.control in ready:
                deadline = time.monotonic()
                if self.control.recv(1) == b"s":
                    deadline += self.plan["grace"]
                    for pid in descendants(os.getpid()) - ({self.main, self.first} if self.first else set()):
                        tell(pid, signal.SIGTERM, signal.SIGCONT)
            if deadline is not None and time.monotonic() >= deadline:
                return

    def _has_ended(self) -> bool:
        return not self._has_children() or self.status is not None

    def clear(self) -> bool:
        """Kill all that there is, until there is nothing; whether it came to that."""
        until = time.monotonic() + DYING
        while time.monotonic() < until:
            if self.uid is None:
                for pid in descendants(os.getpid()):
                    tell(pid, signal.SIGKILL)
            else:
                # All of this user's at once, which nothing can outrun by having children.
                as_user(self.uid, lambda: os.kill(-1, signal.SIGKILL))
            if not self._has_children() and (self.uid is None or not is_alive(self.uid)):
                return True
            time.sleep(PAUSE)
        return False

    def _has_children(self) -> bool:
        """Whether any is left, once those that have ended are buried."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self.main:
                    self.status = status
        except ChildProcessError:
            return False

    def ended(self) -> dict[str, Any]:
        """How it ended: `status`, or the number of a `signal`; and whether the program was ever `started`."""
        code = os.waitstatus_to_exitcode(self.status) if self.status is not None else -int(signal.SIGKILL)
        # bubblewrap says how the program ended, if it was one.
        said = self.json is None or code < 0 or self.json.number("exit-code", time.monotonic() + 1) is not None
        return {"status": max(code, 0), "signal": max(-code, 0), "started": said}


class Lines:
    """What bubblewrap says of itself: an object of JSON in each line."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._rest = b""

    def number(self, name: str, until: float) -> int | None:
        """The first number of this name; None where there is none before the end, or until then."""
        while True:
            left = max(until - time.monotonic(), 0)
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                with contextlib.suppress(ValueError, KeyError):
                    return int(json.loads(line)[name])
            elif select.select([self.file], [], [], left)[0] and (said := os.read(self.file, 65536)):
                self._rest += said
            else:
                return None


def checked(result: int) -> None:
    """Raise what a call of libc has failed with."""
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def prctl(option: int, value: Any, more: Any = 0) -> None:
    """prctl(2)."""
    checked(_libc.prctl(option, value, more, 0, 0))


def become(uid: int | None) -> None:
    """Be that user from now on, in its own group and no other; None: stay."""
    if uid is not None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)


def as_user(uid: int | None, work: Callable[[], None]) -> int:
    """Do something as that user, in a process of its own. Returns the number of the error, 0 for none."""
    pid = os.fork()
    if pid == 0:
        number = errno.EIO
        try:
            signal.set_wakeup_fd(-1)
            become(uid)
            work()
            number = 0
        except OSError as error:
            number = error.errno or errno.EIO
        finally:
            os._exit(number)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def processes(*only: int) -> Iterator[tuple[int, list[str]]]:
    """Every process, or these: its number, and what the kernel says of it, from its state on; see proc_pid_stat(5)."""
    for name in only or filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", errors="replace") as file:
            yield int(name), file.read().rpartition(")")[2].split()


def tell(pid: int, *numbers: int) -> None:
    """Send signals to a process that was seen below this one, and to no other that has its number by now."""
    held = -1
    with contextlib.suppress(AttributeError, OSError):  # before Linux 5.3 the number alone has to do
        held = os.pidfd_open(pid)
    with contextlib.suppress(OSError, StopIteration):
        above = pid
        while above not in (0, os.getpid()):
            above = int(next(processes(above))[1][1])
        for number in numbers if above else ():
            os.kill(pid, number) if held < 0 else signal.pidfd_send_signal(held, number)
    if held >= 0:
        os.close(held)


def descendants(root: int) -> set[int]:
    """The processes below one, by their numbers."""
    children: dict[int, list[int]] = {}
    for pid, (_, parent, *_) in processes():
        children.setdefault(int(parent), []).append(pid)
    found, left = set(), [root]
    while left:
        left += (below := children.get(left.pop(), []))
        found.update(below)
    return found


def is_alive(uid: int) -> bool:
    """Whether a user has processes that have not ended."""
    for pid, (state, *_) in processes():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/status", errors="replace") as file:
            if state != "Z" and f"\nUid:\t{uid}\t" in file.read():
                return True
    return False


def close_all_but(files: set[int]) -> None:
    """Close every file but the first three and these."""
    last = 3
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for file in (*sorted(files), most if most != resource.RLIM_INFINITY else 2**20):
        os.closerange(last, file)
        last = file + 1


def lower(limit: int, most: int, pid: int = 0) -> None:
    """Set a limit of a process, this one without a word, where it is not lower already."""
    _, hard = resource.prlimit(pid, limit)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.prlimit(pid, limit, (most, most))


def in_memory(content: bytes) -> int:
    """A file that holds this, to be read from its beginning."""
    file = os.memfd_create("company-agents", os.MFD_CLOEXEC)
    with open(os.dup(file), "wb") as writing:
        writing.write(content)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def main(file: int) -> NoReturn:
    """Keep what the plan says, and say how it went."""
    control = socket.socket(fileno=file)
    head = control.recv(4, socket.MSG_WAITALL)
    text = control.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL) if len(head) == 4 else b""
    try:
        plan = json.loads(text)
    except ValueError:
        os._exit(0)  # who started us has gone before it was said
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    keeper = Keeper(control, plan)
    try:
        keeper.start()
        prctl(PR_SET_DUMPABLE, 0)
        # What is written there has been written when these close everywhere, and here nobody writes.
        empty = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(empty, standard)
        keeper.watch()
        keeper.clear()
        said: dict[str, Any] = {"ended": keeper.ended()}
    except Exception as error:
        keeper.clear()
        said = {"failed": str(error) if isinstance(error, NotStartedError) else f"its keeper failed: {error!r}"}
    with contextlib.suppress(OSError):
        control.sendall(json.dumps(said).encode() + b"\n")
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
