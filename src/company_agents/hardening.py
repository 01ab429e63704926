"""
What this process does so that its memory and environment are not left lying about (Linux).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Iterable

# prctl(2)
_PR_SET_DUMPABLE = 4


def harden() -> None:
    """
    No core dumps; and not dumpable: no other process of this user may read our memory, trace us or open
    /proc/<pid>/environ. To be called after the last exec, which would undo it.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def step_back() -> None:
    """Let others go first from now on: what this process does is long, and nobody waits for it."""
    with contextlib.suppress(OSError):
        os.nice(10)


def wipe_environment(names: Iterable[str]) -> None:
    """
    Forget variables that may hold a secret: for our children, and in the block that the kernel shows as
    /proc/self/environ. `os.environ` is a copy, so deleting from it would leave that block as it was.
    """
    wanted = {name.encode() for name in names if name in os.environ}
    if sys.platform == "linux":
        environ = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
        index = 0
        while address := environ[index]:
            name, _, value = ctypes.string_at(address).partition(b"=")
            if name in wanted:
                ctypes.memset(address + len(name) + 1, ord("*"), len(value))
            index += 1
    for name in wanted:
        with contextlib.suppress(KeyError):
            del os.environ[name.decode()]
