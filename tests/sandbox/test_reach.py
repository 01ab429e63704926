"""
What an agent cannot reach from its sandbox, and can without.

Each attempt is made by the same program in the same way: in a process as the orchestrator is one, where it must work, since it
would prove nothing otherwise; and in each kind of sandbox, where it must not.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from company_agents.app import App
from company_agents.db.host import SOCKET_NAME
from company_agents.runs.sandbox.workspace import passing_workspace
from tests.sandbox.conftest import ROOT, WAYS, MakeRunner, script

ATTEMPTS = (
    *(
        "master key",
        "key ring",
        "home",
        "database files",
        "database socket",
        "other workspace",
        "other workspace listed",
    ),
    *("memory map", "memory", "environment", "open files", "orchestrator's socket", "abstract socket"),
    *("another port", "other process", "orchestrator", "file of the home"),
    *("new user namespace", "session keyring", "being traced", "shared segment", "message queue"),
)
# As another user and in no namespace, the network is the machine's, and so are the names of sockets in it.
OPEN_TO_USERS = {"abstract socket", "another port"}
# What the kernel lets nobody but root do to another process, or to one that is not its child.
AS_ROOT = {"memory"}

ATTEMPTED = [
    pytest.param(attempt, way, id=f"{attempt} {way}")
    for way in WAYS
    for attempt in ATTEMPTS
    if not (way == "user" and attempt in OPEN_TO_USERS) and (ROOT or attempt not in AS_ROOT)
]


@pytest.fixture(scope="module")
async def victim() -> AsyncIterator[int]:
    """A process that holds what it must keep, as an orchestrator does: it is like ours, and is not hardened."""
    code = "import sys; sys.stdout.write('ready'); sys.stdout.flush(); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(5)
    yield process.pid
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
async def wanted(app: App, victim: int, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Any]]:
    """Everything that there is to get at."""
    home = app.settings.home
    data = Path(os.path.realpath(home / "db"))
    note = home / "locks" / "database-socket-folder"
    sockets = Path(note.read_text().strip()) if note.exists() else data
    ring = next((home / "secrets" / "keys").glob("*.key"))
    abstract = f"company-agents-{uuid.uuid4().hex}"
    with (
        passing_workspace() as another,
        socket.create_server(("127.0.0.1", 0)) as port,
        socket.socket(socket.AF_UNIX) as own,
        socket.socket(socket.AF_UNIX) as named,
    ):
        (another / "work").write_text("another run's")
        path = str(tmp_path_factory.mktemp("s") / "s")
        own.bind(path)
        own.listen()
        named.bind("\0" + abstract)
        named.listen()
        process = f"/proc/{victim}"
        yield {
            "read": {
                "master key": str(home / "secrets" / "master.key"),
                "key ring": str(ring),
                "database files": str(data / "data" / "PG_VERSION"),
                "other workspace": str(another / "work"),
                "memory map": f"{process}/maps",
                "memory": f"{process}/mem",
                "environment": f"{process}/environ",
            },
            "list": {"home": str(home), "other workspace listed": str(another), "open files": f"{process}/fd"},
            "write": {"file of the home": str(home / "logs" / "written-by-a-run")},
            "sockets": {"database socket": str(sockets / SOCKET_NAME), "orchestrator's socket": path},
            "ports": {"another port": port.getsockname()[1]},
            "abstract": abstract,
            "kill": {"other process": victim, "orchestrator": os.getpid()},
        }


@pytest.fixture
async def tried(runner: MakeRunner, wanted: dict[str, Any]) -> Any:
    """What works of everything, by the way in which the process is started; once for each."""

    async def attempts(way: str) -> dict[str, bool]:
        if way not in _DONE:
            outcome, written = await runner(way).python(script("attempt.py"), prompt=json.dumps(wanted))
            assert outcome.state == "finished", (outcome, written.of())
            _DONE[way] = json.loads(written.of("output"))
        return _DONE[way]

    return attempts


_DONE: dict[str, dict[str, bool]] = {}


@pytest.mark.parametrize(("attempt", "way"), ATTEMPTED)
async def test_out_of_reach(attempt: str, way: str, tried: Any) -> None:
    assert (await tried("unsandboxed"))[attempt], "it does not work without a sandbox either: this shows nothing"
    assert not (await tried(way))[attempt]


async def test_every_attempt_is_looked_at(tried: Any) -> None:
    assert set(await tried("unsandboxed")) == set(ATTEMPTS)


async def test_nothing_but_the_loopback_is_in_the_network_of_a_sandbox(runner: MakeRunner) -> None:
    code = """
import socket
names = [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]]
routes = open("/proc/net/route").readlines()[1:]
try:
    socket.create_connection(("169.254.169.254", 80), 5)
    said = "connected"
except OSError as error:
    said = error.strerror
print(names, routes, said)
"""
    _, written = await runner("bubblewrap").python(code)
    assert written.of() == "['lo'] [] Network is unreachable\n"


async def test_only_its_own_processes_are_in_its_list(runner: MakeRunner) -> None:
    code = "import os; print(sorted(os.readlink(f'/proc/{p}/exe') for p in os.listdir('/proc') if p.isdigit() and p != '1'))"
    _, written = await runner("bubblewrap").python(code)
    assert written.of().count("python") == 1, written.of()
    assert written.of().count("'") == 2, written.of()


async def test_what_it_writes_elsewhere_is_gone_with_it(runner: MakeRunner) -> None:
    name = f"left-behind-{uuid.uuid4().hex}"
    code = f"""
for place in ("/", "/usr/", "/etc/", "/home/", "/var/", "/run/", "/dev/", "/tmp/", "/dev/shm/", "/var/tmp/", ""):
    try:
        open(place + "{name}", "w").close()
        print(place or "workspace")
    except OSError:
        pass
"""
    here = runner("bubblewrap")
    _, written = await here.python(code)
    assert written.of().split() == ["/tmp/", "/dev/shm/", "/var/tmp/", "workspace"]
    assert [place for place in ("/tmp", "/dev/shm", "/var/tmp", "/usr", "/") if (Path(place) / name).exists()] == []
    assert (here.folder / name).exists()


@pytest.mark.parametrize("way", WAYS)
async def test_it_gains_no_rights_and_has_none(way: str, runner: MakeRunner) -> None:
    code = "print(*[line for line in open('/proc/self/status') if line.startswith(('Cap', 'NoNew', 'Seccomp:', 'Groups'))])"
    _, written = await runner(way).python(code)
    said = dict(line.split(":", 1) for line in written.of().replace("\t", "").strip().split("\n "))
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(said[kind], 16) == 0, said
    assert (said["NoNewPrivs"], said["Seccomp"]) == ("1", "2")


@pytest.mark.skipif(not ROOT, reason="only root can start a process as another user")
@pytest.mark.parametrize("way", WAYS)
async def test_a_process_of_roots_is_a_user_of_its_own(way: str, runner: MakeRunner) -> None:
    code = "import os; print(os.getresuid(), os.getresgid(), os.getgroups()); import time; time.sleep(0.2)"
    one, another = runner(way), runner(way)
    (_, first), (_, second) = await asyncio.gather(one.python(code), another.python(code))
    uids = {int(written.of().split(",")[0].strip("(")) for written in (first, second)}
    assert len(uids) == 2, "two at once are two users"
    assert 0 not in uids
    groups = first.of().split("[")[1].strip().strip("]")
    assert groups in ("", str(one.folder.stat().st_gid))
