"""
What a process does so that another one of its user cannot look into it. With real processes of an ordinary user:
root looks into everything.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import company_agents.hardening

ROOT = os.geteuid() == 0
NOBODY = 65534
SECRET = "postgresql://user:a-password-of-the-test@host/db"
SOURCE = Path(company_agents.hardening.__file__).read_text("utf-8")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prctl and /proc are Linux's")

SAYS_SO = "\nprint('ready', flush=True)\nsys.stdin.read()\n"
# What another process of the same user may see of it; each line says what was found, or why not.
LOOK = """
import sys
pid = sys.argv[1]
def look(what):
    try:
        with open(f"/proc/{pid}/{what}", "rb") as file:
            if what == "mem":
                return "opened"
            return "found" if b"a-password-of-the-test" in file.read() else "read"
    except PermissionError:
        return "refused"
print(look("environ"), look("mem"))
"""


def interpreter() -> str:
    """A Python that an ordinary user can run: ours may lie in root's home."""
    for program in (sys.executable, "/usr/bin/python3"):
        if shutil.which(program) and run_as_nobody(
            [program, "-I", "-c", "import sys; assert sys.version_info >= (3, 11)"]
        ):
            return program
    pytest.skip("no Python of 3.11 or later that an ordinary user can run")


def run_as_nobody(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, cwd="/", **user()).returncode == 0
    except PermissionError:
        return False


def user() -> dict[str, Any]:
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if ROOT else {}


@contextmanager
def process(program: str, code: str) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [program, "-I", "-c", SOURCE + code + SAYS_SO],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env={"DATABASE_URL": SECRET, "OTHER": "stays", "PATH": os.defpath},
        **user(),
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.communicate()


def seen_by_another(program: str, pid: int) -> str:
    done = subprocess.run(
        [program, "-I", "-c", LOOK, str(pid)],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        **user(),
    )
    return str(done.stdout).strip()


def test_another_process_of_the_user_sees_neither_memory_nor_environment() -> None:
    program = interpreter()
    with process(program, "harden()") as hardened:
        assert seen_by_another(program, hardened.pid) == "refused refused"
    with process(program, "") as plain:
        # What the promise is worth: without it, all of it is there.
        assert seen_by_another(program, plain.pid).startswith("found ")


def test_it_leaves_no_core_dump() -> None:
    program = interpreter()
    with process(program, "harden()") as hardened:
        limits = Path(f"/proc/{hardened.pid}/limits").read_text()
    line = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert line.split()[4:6] == ["0", "0"]


FORGETS = """
wipe_environment(["DATABASE_URL", "NEVER_SET"])
assert "DATABASE_URL" not in os.environ and os.environ["OTHER"] == "stays"
import subprocess
assert b"password" not in subprocess.run(["env"], capture_output=True).stdout
"""


def test_a_wiped_variable_is_gone_from_the_block_that_the_kernel_shows() -> None:
    program = interpreter()
    with process(program, FORGETS) as child:
        block = Path(f"/proc/{child.pid}/environ").read_bytes()
    assert b"a-password-of-the-test" not in block
    assert b"OTHER=stays" in block
    assert len(block) >= len(SECRET), "nothing was shown: this test would see nothing"


def test_the_command_line_hardens_itself_before_it_reads_anything() -> None:
    code = (
        "import company_agents.__main__ as start, company_agents.hardening as hardening, sys\n"
        "order = []\n"
        "start.harden = lambda: order.append(sorted(m for m in sys.modules if m.startswith('company_agents.')))\n"
        "sys.argv = ['company-agents', '--version']\n"
        "try:\n    start.main()\nexcept SystemExit:\n    pass\n"
        "assert order == [['company_agents.__main__', 'company_agents.hardening']], order\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    assert done.returncode == 0, done.stderr
