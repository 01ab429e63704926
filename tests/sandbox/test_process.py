"""
A run that is a process: what it is given, what becomes of what it writes, how it ends, and that nothing of it is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from company_agents.errors import Exit, Failed, Refused
from company_agents.runs.adapters.process import ProcessAdapter
from company_agents.runs.sandbox import keeper
from company_agents.runs.sandbox.sandbox import Asked, Sandbox
from company_agents.runs.sandbox.workspace import passing_workspace
from company_agents.settings import Settings
from tests.sandbox.conftest import (
    PYTHON,
    TOKEN,
    WAYS,
    MakeRunner,
    Written,
    mark,
    running_with,
    until,
)

EVERY_WAY = [*WAYS, "unsandboxed"]

# A family that does not want to end: it asks not to be asked, leaves its session, and has children that do the same.
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for depth in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]])
        os._exit(0)
print("up", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("way", EVERY_WAY)
async def test_its_environment_has_what_is_listed_and_nothing_of_the_orchestrators(
    way: str, runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://of-the-orchestrator")
    monkeypatch.setenv("LD_PRELOAD_OF_OURS", "x")
    here = runner(way)
    work = here.work(
        [PYTHON, "-c", "import os, json; print(json.dumps(dict(os.environ)))"], environment={"COLOUR": "blue"}
    )
    written = Written()
    await here.adapter.execute(work, written)
    found = json.loads(written.of("output"))
    folder = "/workspace" if way == "bubblewrap" else str(here.folder)
    url = "http://127.0.0.1:3101" if way == "bubblewrap" else here.url
    found.pop("PWD", None)  # of the sandbox, or of a shell
    found.pop("LC_CTYPE", None)  # of Python
    assert found == {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": folder,
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "TZ": "UTC",
        "TMPDIR": "/tmp" if way == "bubblewrap" else f"{here.folder}/.tmp",
        "COLOUR": "blue",
        "COMPANY_AGENTS_URL": url,
        "COMPANY_AGENTS_MCP_URL": f"{url}/mcp",
        "COMPANY_AGENTS_GATEWAY_URL": f"{url}/gateway",
        "COMPANY_AGENTS_TOKEN": TOKEN,
        "COMPANY_AGENTS_RUN_ID": str(work.run_id),
        "COMPANY_AGENTS_COMPANY_ID": str(work.company_id),
    }


@pytest.mark.parametrize("way", EVERY_WAY)
async def test_it_works_in_a_folder_of_its_own_and_has_no_file_open_but_the_usual_three(
    way: str, runner: MakeRunner
) -> None:
    here = runner(way)
    code = """
import os
open("written", "w").write("here")
print(os.getcwd(), oct(os.stat(".").st_mode & 0o777), sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1])
"""
    _, written = await here.python(code)
    folder = "/workspace" if way == "bubblewrap" else str(here.folder)
    assert written.of("output") == f"{folder} 0o700 [0, 1, 2]\n"
    assert (here.folder / "written").read_text() == "here"


@pytest.mark.parametrize("way", EVERY_WAY)
async def test_the_prompt_comes_through_standard_input_or_where_the_command_says(way: str, runner: MakeRunner) -> None:
    prompt = "Say »$(id)« to 'everybody'\n and \\ leave.  "
    _, written = await runner(way).run("cat", prompt=prompt)
    assert written.of("output") == prompt
    code = "import sys; print(sys.argv[1:], repr(sys.stdin.read()))"
    _, written = await runner(way).python(code, "--say={prompt}!", "{other}", prompt=prompt)
    assert written.of("output") == f"{[f'--say={prompt}!', '{other}']} ''\n"


async def test_a_prompt_that_is_too_long_for_a_word_is_refused(runner: MakeRunner) -> None:
    here, prompt = runner("bubblewrap"), "x" * (128 * 1024 - 2)
    _, written = await here.run("echo", "{prompt}", prompt=prompt)
    assert written.of("output") == f"{prompt}\n"
    with pytest.raises(Failed, match="longer than a word"):
        await here.run("echo", "{prompt}", prompt=f"{prompt}éx")


async def test_a_prompt_that_nobody_reads_is_no_failure(runner: MakeRunner) -> None:
    outcome, _ = await runner("bubblewrap").run("true", prompt="x" * 40_000)
    assert outcome.state == "finished"


@pytest.mark.parametrize("way", EVERY_WAY)
async def test_its_status_says_how_it_went(way: str, runner: MakeRunner) -> None:
    outcome, _ = await runner(way).run("sh", "-c", "exit 0")
    assert (outcome.state, outcome.reason) == ("finished", "")
    outcome, _ = await runner(way).run("sh", "-c", "exit 7")
    assert (outcome.state, outcome.reason) == ("failed", "the command ended with status 7")
    outcome, _ = await runner(way).run("sh", "-c", "kill -SEGV $$")
    assert outcome.state == "failed"
    assert "SIGSEGV" in outcome.reason


@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("command", ["/usr/bin/no-such-program", "no-such-program", "/usr/bin", "relative/program"])
async def test_a_command_that_is_not_there_is_refused_before_anything_starts(
    command: str, way: str, runner: MakeRunner
) -> None:
    with pytest.raises(Failed, match="is not there, or cannot be started"):
        await runner(way).run(command)


async def test_a_program_outside_of_the_sandbox_is_named_as_that(runner: MakeRunner, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho here\n")
    program.chmod(0o755)
    with pytest.raises(Failed, match="is not in the sandbox"):
        await runner("bubblewrap").run(str(program))


async def test_a_program_is_in_the_sandbox_where_its_folder_is_readable(runner: MakeRunner) -> None:
    # Not below a folder of the tests, which are closed to the users of runs.
    folder = Path(tempfile.mkdtemp(prefix="programs-"))
    try:
        folder.chmod(0o755)
        program = folder / "program"
        program.write_text("#!/bin/sh\necho here; echo more >> $0\n")
        program.chmod(0o777)
        _, written = await runner("bubblewrap").run(str(program), readable=[str(folder)])
    finally:
        shutil.rmtree(folder)
    assert written.of("output") == "here\n"
    assert "Read-only" in written.of("error")


@contextlib.contextmanager
def replaced_place() -> Iterator[tuple[Path, Path, Path]]:
    """A link to a folder, that, and another; each folder says in a file which it is."""
    folder = Path(tempfile.mkdtemp(prefix="places-"))
    try:
        folder.chmod(0o755)
        for name in ("one", "other"):
            (folder / name).mkdir(mode=0o755)
            (folder / name / "which").write_text(f"{name}\n")
        (folder / "link").symlink_to(folder / "one")
        yield folder / "link", folder / "one", folder / "other"
    finally:
        shutil.rmtree(folder)


async def test_a_readable_link_shows_what_it_leads_to_under_its_own_name(runner: MakeRunner) -> None:
    with replaced_place() as (link, _, other):
        _, written = await runner("bubblewrap").run("/bin/cat", f"{link}/which", readable=[str(link)])
        assert written.of() == "one\n"
        _, written = await runner("bubblewrap").run("/bin/cat", f"{other}/which", readable=[str(link)])
        assert "No such file" in written.of("error")


async def test_a_readable_link_that_is_replaced_before_the_start_is_refused(runner: MakeRunner) -> None:
    here = runner("bubblewrap")
    sandbox = here.adapter.sandbox
    with replaced_place() as (link, _, other):
        shown = sandbox.places.check(str(link))
        link.unlink()
        link.symlink_to(other)
        asked = Asked(("/bin/cat", f"{link}/which"), {}, here.folder, here.url, [shown])
        with pytest.raises(Failed, match="was replaced while the run was being started"):
            async with sandbox.started(await sandbox.way(), asked):
                raise AssertionError("it was started")


async def test_a_readable_link_that_is_replaced_while_the_sandbox_is_made_shows_what_was_looked_at(
    runner: MakeRunner, settings: Settings
) -> None:
    with replaced_place() as (link, _, other):
        # As late as can be: when bubblewrap is called.
        late = link.parent / "bwrap"
        late.write_text(
            f'#!/bin/sh\n[ "$1" = --args ] && /bin/ln -sfn {other} {link}\nexec {shutil.which("bwrap")} "$@"\n'
        )
        late.chmod(0o755)
        link.parent.chmod(0o777)
        sandbox = Sandbox(settings.model_copy(update={"bubblewrap": late}))
        here = replace(runner("bubblewrap"), adapter=ProcessAdapter(sandbox))
        await sandbox.way()
        link.unlink()
        link.symlink_to(link.parent / "one")
        _, written = await here.run("/bin/cat", f"{link}/which", readable=[str(link)])
        assert (written.of(), link.readlink()) == ("one\n", other)


@pytest.mark.parametrize("way", EVERY_WAY)
async def test_any_output_becomes_text(way: str, runner: MakeRunner) -> None:
    code = r"""
import os, time
os.write(1, b"caf\xc3"); time.sleep(0.05); os.write(1, b"\xa9 \xff\xfe|")
os.write(1, b"\xe2\x82"); os.write(2, b"said\n")
os.write(1, b"|" + b"long" * 500_000 + b"|\xf0\x9f")
"""
    outcome, written = await runner(way).python(code)
    assert outcome.state == "finished"
    assert written.of("output") == "café ��|�|" + "long" * 500_000 + "|�"
    assert "said\n" in written.of("error")


@pytest.mark.parametrize("way", EVERY_WAY)
async def test_output_without_an_end_is_taken_no_faster_than_it_is_kept_and_stopped(
    way: str, runner: MakeRunner
) -> None:
    here, word = runner(way), mark()
    written = Written(slow=0.05)
    code = "import os, sys\nwhile True: os.write(1, b'x' * 65536); open('count', 'ab').write(b'1')"
    running = asyncio.create_task(here.python(code, word, written=written))
    await until(lambda: len(written.pieces) >= 5)
    produced = 65536 * (here.folder / "count").stat().st_size
    # What is under way: the pipe, and what our side has read ahead.
    assert produced <= len(written.of()) + 1024 * 1024
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert running_with(word) == []


@pytest.mark.parametrize("way", EVERY_WAY)
async def test_a_stop_asks_first(way: str, runner: MakeRunner) -> None:
    here, written = runner(way), Written()
    code = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("up", flush=True)
signal.sigwait([signal.SIGTERM])
print("goodbye", flush=True)
"""
    running = asyncio.create_task(here.python(code, written=written))
    await until(lambda: "up" in written.of())
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert written.of("output") == "up\ngoodbye\n"


@pytest.mark.parametrize("holds", [True, False], ids=["held", "by-number"])
def test_a_number_that_is_somebody_elses_by_now_is_told_nothing(monkeypatch: pytest.MonkeyPatch, holds: bool) -> None:
    if not holds:

        def refused(*_: int) -> int:
            raise OSError(errno.ENOSYS, "an old kernel")

        monkeypatch.setattr(os, "pidfd_open", refused)
    sleep = "import time; time.sleep(600)"
    # Its parent has ended, so that it is below nobody here.
    code = """
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)
"""
    stranger = int(subprocess.run([sys.executable, "-c", code, sleep], capture_output=True, check=True).stdout)
    child = subprocess.Popen([sys.executable, "-c", sleep])
    try:
        born = Path(f"/proc/{stranger}/stat").read_text().split()[21]
        for pid in (stranger, child.pid):
            keeper.tell(pid, signal.SIGKILL)
        assert child.wait(30) == -signal.SIGKILL
        said = Path(f"/proc/{stranger}/stat").read_text().split()
        assert (said[2] in "RS", said[21]) == (True, born)
    finally:
        os.kill(stranger, signal.SIGKILL)
        child.kill()
        child.wait()


@pytest.mark.parametrize("way", EVERY_WAY)
async def test_whoever_does_not_go_is_killed_with_everything_that_it_started(
    way: str, runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, word, written = runner(way), mark(), Written()
    monkeypatch.setattr(here.adapter.sandbox, "grace", 0.3)
    running = asyncio.create_task(here.python(STUBBORN, word, written=written))
    await until(lambda: "up" in written.of() and len(running_with(word)) >= 4)
    # Whoever ends a task may cancel it again and again.
    while not running.done():
        running.cancel()
        await asyncio.sleep(0.01)
    assert running.cancelled()
    assert running_with(word) == []


@pytest.mark.parametrize("way", EVERY_WAY)
async def test_what_a_command_leaves_behind_ends_with_it(way: str, runner: MakeRunner) -> None:
    word = mark()
    outcome, written = await runner(way).python(STUBBORN.removesuffix("time.sleep(600)\n"), word)
    assert (outcome.state, written.of("output")) == ("finished", "up\n")
    assert running_with(word) == []


@pytest.mark.parametrize("way", EVERY_WAY)
async def test_nothing_is_left_of_it_when_the_orchestrator_is_killed(way: str, settings: Settings) -> None:
    with driver(way, settings, STUBBORN) as (process, word):
        await until(lambda: len(running_with(word)) >= 5)
        process.kill()
        await until(lambda: not running_with(word))


# Nothing but its keeper holds together what runs as we do: what has left its family would stay.
@pytest.mark.parametrize("way", WAYS)
async def test_nothing_is_left_of_it_when_its_keeper_is_killed(way: str, settings: Settings) -> None:
    with driver(way, settings, STUBBORN) as (process, word):
        await until(lambda: len(running_with(word)) >= 5)
        (keeper,) = [pid for pid in running_with("keeper.py") if parent_of(pid) == process.pid]
        os.kill(keeper, signal.SIGKILL)
        assert process.stdout is not None
        said = await asyncio.to_thread(process.stdout.readline)
        assert said == b"failed the command was ended by SIGKILL\n"
        assert running_with(word) == [process.pid]


@contextlib.contextmanager
def driver(
    way: str, settings: Settings, code: str, before: Sequence[str] = ()
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """
    An orchestrator in a process of its own that runs some code of Python; and a word in the command line of both. `before`
    are words before its own.
    """
    word, program, made = mark(), Path(__file__).with_name("driver.py"), contextlib.ExitStack()
    folder = made.enter_context(passing_workspace())
    paths = [
        *map(str, (program.parents[2], program.parents[2] / "src")),
        *(e for e in sys.path if "site-packages" in e),
    ]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "PATH": os.environ["PATH"]}
    command = [*before, sys.executable, str(program), str(settings.home), way, str(folder), code, word]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process, word
    finally:
        process.kill()
        process.wait()
        for pid in running_with(word):
            os.kill(pid, signal.SIGKILL)
        made.close()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("way", WAYS)
async def test_a_bomb_of_processes_meets_its_limit_and_nobody_else_does(
    way: str, runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, written, word = runner(way), Written(), mark()
    sandbox = here.adapter.sandbox
    monkeypatch.setattr(sandbox, "settings", sandbox.settings.model_copy(update={"run_processes": 40}))
    bomb = """
import os, time
# Where there is no limit, it ends at a hundred and twenty-eight.
for _ in range(7):
    try:
        os.fork()
    except OSError:
        print("no more", flush=True)
        break
time.sleep(60)
"""
    running = asyncio.create_task(here.python(bomb, word, written=written))
    await until(lambda: "no more" in written.of())
    assert len(running_with(word)) <= 42
    # Another one of the same kind, at the same time.
    outcome, _ = await runner(way).run("sh", "-c", "true | true | true")
    assert outcome.state == "finished"
    monkeypatch.setattr(sandbox, "grace", 0)
    running.cancel()
    await asyncio.wait({running})
    assert running_with(word) == []


async def test_a_limit_that_is_lower_already_stays(settings: Settings) -> None:
    code = "import resource; print('up', flush=True); print(resource.getrlimit(resource.RLIMIT_NPROC), flush=True)"
    with driver(
        "bubblewrap", settings, code, ["/bin/sh", "-c", 'ulimit -u 400 2>/dev/null || ulimit -p 400; exec "$@"', "-"]
    ) as (
        process,
        _,
    ):
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"(400, 400)\n"


@pytest.mark.parametrize("way", WAYS)
async def test_memory_and_files_have_limits(way: str, runner: MakeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    here = runner(way)
    sandbox = here.adapter.sandbox
    few = {"run_memory": 200, "run_file_size": 1}
    monkeypatch.setattr(sandbox, "settings", sandbox.settings.model_copy(update=few))
    code = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    bytearray(300 * 1024 * 1024)
except MemoryError:
    print("no memory")
try:
    open("file", "wb").write(b"x" * 2 * 1024 * 1024)
except OSError as error:
    print(error.strerror)
print(resource.getrlimit(resource.RLIMIT_CORE))
"""
    _, written = await here.python(code)
    assert written.of("output") == "no memory\nFile too large\n(0, 0)\n"


async def test_without_a_sandbox_a_run_is_refused(settings: Settings, runner: MakeRunner) -> None:
    nowhere = settings.model_copy(update={"bubblewrap": Path("/nowhere/bwrap")})
    here = runner("bubblewrap")
    here.adapter = ProcessAdapter(Sandbox(nowhere))
    with pytest.raises(Refused, match="there is none here") as refused:
        await here.run("true")
    assert (refused.value.reason, refused.value.exit_status) == ("no_sandbox", Exit.REFUSED)
    with pytest.raises(Refused):
        await here.adapter.ready(unsandboxed=False)
    # Who may do without is started all the same, and it is said what that means.
    await here.adapter.ready(unsandboxed=True)
    here.unsandboxed = True
    outcome, written = await here.run("true")
    assert outcome.state == "finished"
    assert "can read the master key" in written.of("note")


async def test_a_sandbox_that_does_not_come_up_is_none(settings: Settings, tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text(
        f'#!/bin/sh\ncase $1 in --args) echo "bwrap: no permissions" >&2; exit 1;; esac; exec {shutil.which("bwrap")} "$@"\n'
    )
    broken.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith("pytest"):
            folder.chmod(folder.stat().st_mode | 0o011)
    adapter = ProcessAdapter(Sandbox(settings.model_copy(update={"bubblewrap": broken})))
    with pytest.raises(Refused, match="does not work here"):
        await adapter.ready(unsandboxed=False)
