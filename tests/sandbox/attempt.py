"""
What an agent that means harm tries, in a process of its own. Standard input says on whom, as JSON; standard output says what
of it worked.
"""

import contextlib
import ctypes
import json
import os
import socket
import sys

# The numbers of calls by the kind of machine: unshare, keyctl, ptrace.
CALLS = {"x86_64": (272, 250, 101), "aarch64": (97, 219, 117)}
CLONE_NEWUSER = 0x10000000


def reads(path):
    with open(path, "rb", buffering=0) as file:
        if not path.endswith("/mem"):
            return bool(file.read(1))
        with open(path.replace("/mem", "/maps")) as maps:
            start = int(maps.readline().partition("-")[0], 16)
        file.seek(start)
        return bool(file.read(1))


def connects(family, address):
    with socket.socket(family) as found:
        found.settimeout(5)
        found.connect(address)
        return True


def writes(path):
    with open(path, "ab") as file:
        file.write(b"x")
    return True


def kills(pid):
    os.kill(pid, 0)
    return True


def called(which, *arguments):
    number = CALLS[os.uname().machine][which]
    pid = os.fork()  # so that what it does to itself ends with it
    if pid == 0:
        os._exit(0 if ctypes.CDLL(None).syscall(number, *arguments) >= 0 else 1)
    return os.waitpid(pid, 0)[1] == 0


def makes(what):
    # By the C library: what was made is removed, since it would outlive whoever made it.
    library = ctypes.CDLL(None)
    made = library.shmget(0, 4096, 0o600) if what == "shm" else library.msgget(0, 0o600)
    if made >= 0:
        getattr(library, f"{what}ctl")(made, 0, None)
    return made >= 0


def tried(wanted):
    """By what is wanted, whether it worked; a name tells the attempts of a kind apart."""
    found = {}

    def attempt(name, work, *arguments):
        found[name] = False
        with contextlib.suppress(OSError, ValueError):
            found[name] = bool(work(*arguments))

    for name, path in wanted["read"].items():
        attempt(name, reads, path)
    for name, path in wanted["list"].items():
        attempt(name, os.listdir, path)
    for name, path in wanted["write"].items():
        attempt(name, writes, path)
    for name, path in wanted["sockets"].items():
        attempt(name, connects, socket.AF_UNIX, path)
    for name, port in wanted["ports"].items():
        attempt(name, connects, socket.AF_INET, ("127.0.0.1", port))
    attempt("abstract socket", connects, socket.AF_UNIX, "\0" + wanted["abstract"])
    for name, pid in wanted["kill"].items():
        attempt(name, kills, pid)
    attempt("new user namespace", called, 0, CLONE_NEWUSER)
    attempt("session keyring", called, 1, 0, ctypes.c_long(-3), 0)
    attempt("being traced", called, 2, 0, 0, 0, 0)
    attempt("shared segment", makes, "shm")
    attempt("message queue", makes, "msg")
    return found


if __name__ == "__main__":
    json.dump(tried(json.load(sys.stdin)), sys.stdout)
