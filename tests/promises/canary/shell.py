"""
Commands in one process, one after the other: to start a process is what takes the time.
"""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from tests.cli.processes import Done, Machine

_ENDED = "— ended with "
_PROGRAM = f"""
import base64, io, json, sys
from company_agents.cli.main import run
for line in sys.stdin.buffer:
    words, given = json.loads(line)
    sys.stdin = io.TextIOWrapper(io.BytesIO(base64.b64decode(given)))
    print({_ENDED!r} + str(run(words)), flush=True)
"""


class Shell:
    """A process that runs commands, each with a standard input of its own."""

    def __init__(self, child: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self._child = child
        self._errors = errors

    def run(self, *words: str, given: bytes | str = b"") -> Done:
        """Run one to its end."""
        data = given.encode() if isinstance(given, str) else given
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(json.dumps([words, base64.b64encode(data).decode()]).encode() + b"\n")
        self._child.stdin.flush()
        lines: list[str] = []
        while not (line := self._child.stdout.readline().decode()).startswith(_ENDED):
            assert line, f"the commands' process has ended: {self._said()}"
            lines.append(line)
        return Done(int(line.removeprefix(_ENDED)), "".join(lines), self._said())

    def _said(self) -> str:
        # Our place in the file is ours; whoever writes to it appends.
        return self._errors.read().decode()


@contextmanager
def shell(machine: Machine) -> Iterator[Shell]:
    """Such a process on a machine."""
    with tempfile.NamedTemporaryFile("ab") as written, open(written.name, "rb") as errors:
        child = subprocess.Popen(
            [machine.program, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=written,
            env=machine.environment,
            cwd="/",
            **machine.user,
        )
        with child:
            try:
                yield Shell(child, errors)
            finally:
                child.kill()
