"""
What others see of a process that has a key or the credentials of a key source: in its environment, its memory, and what
it would leave behind if it crashed. With real processes.
"""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.processes import Machine, machine_in
from tests.database.processes import ROOT, postmaster, the_supervisor
from tests.promises.canary import places
from tests.promises.canary.search import Canaries, Place, made_up

pytestmark = pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="/proc is Linux's")

KEY = bytes.fromhex("fbff") + b"the key of this test" + bytes(range(200, 210))
CREDENTIALS = {
    name: made_up(name)
    for name in (
        "VAULT_TOKEN",
        "VAULT_SECRET_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AZURE_CLIENT_SECRET",
    )
}
VARIABLES = {"KEY_OF_THE_TEST": base64.b64encode(KEY).decode(), **CREDENTIALS}


def _canaries(variables: Mapping[str, str]) -> Canaries:
    canaries = Canaries()
    for name, value in variables.items():
        canaries.plant(name, value)
    canaries.plant("KEY_OF_THE_TEST", KEY)
    return canaries


def _environment(pid: int) -> dict[bytes, bytes]:
    block = Path(f"/proc/{pid}/environ").read_bytes()
    return {name: value for name, _, value in (entry.partition(b"=") for entry in block.split(b"\0"))}


def _seen(machine: Machine, pid: int) -> dict[str, str]:
    """What another process of the same user may open."""
    done = subprocess.run(
        [machine.program, "-I", "-c", LOOK, str(pid)], capture_output=True, text=True, cwd="/", **machine.user
    )
    return dict(line.split() for line in done.stdout.splitlines())


LOOK = """
import sys
for name in ("mem", "environ", "maps", "auxv"):
    try:
        with open(f"/proc/{sys.argv[1]}/{name}", "rb") as file:
            # Nothing is mapped at the start of a memory; to have opened it is enough.
            name == "mem" or file.read(1)
        print(name, "opened")
    except PermissionError:
        print(name, "refused")
"""
REFUSED = dict.fromkeys(("mem", "environ", "maps", "auxv"), "refused")


def _leaves_no_core(pid: int) -> bool:
    return bool(re.search(r"^Max core file size +0 +0 ", Path(f"/proc/{pid}/limits").read_text(), re.MULTILINE))


def test_a_key_and_credentials_that_come_in_variables_are_seen_of_no_process_afterwards(tmp_path: Path) -> None:
    canaries = _canaries(VARIABLES)
    source = {"MASTER_KEY_SOURCE": "env://KEY_OF_THE_TEST"}
    with machine_in(tmp_path, **VARIABLES, **source) as machine, machine.up() as up:
        seen = list(places.processes(machine.home, up.pid))
        assert canaries.found_in(seen) == []
        pids = {"supervisor": the_supervisor(machine.home), "postgres": postmaster(machine.home)}
        names = {place.name for place in seen}
        assert {f"cmdline of {name}" for name in ("orchestrator", *pids)} <= names
        if ROOT:
            assert {f"environ of {name}" for name in ("orchestrator", *pids)} <= names
            # It is the environment in which they stood.
            wiped = _environment(up.pid)
            assert {name: wiped[name.encode()].strip(b"*") for name in VARIABLES} == dict.fromkeys(VARIABLES, b"")
            assert wiped[b"COMPANY_AGENTS_HOME"] == str(machine.home).encode()
            for pid in (*pids.values(), *places.children(pids["postgres"])):
                assert not {name.encode() for name in (*VARIABLES, *source)} & _environment(pid).keys()
        else:
            assert "environ of orchestrator" not in names
        assert canaries.found_in(places.home_files(machine.home, [])) == []
        assert _leaves_no_core(up.pid)
        assert up.stop() == 0


def test_what_is_looked_for_is_found_of_a_process_that_does_not_forget(ordinary_machine: Machine) -> None:
    canaries = _canaries(VARIABLES)
    with subprocess.Popen(["/bin/sleep", "600"], env=VARIABLES, **ordinary_machine.user) as other:
        try:
            place = Place("environ", Path(f"/proc/{other.pid}/environ").read_bytes())
            assert {found.partition(" in ")[0] for found in canaries.found(place)} == VARIABLES.keys()
            assert _seen(ordinary_machine, other.pid) == dict.fromkeys(REFUSED, "opened")
            assert not _leaves_no_core(other.pid)
        finally:
            other.kill()


def test_nobody_looks_into_a_rotation_while_it_runs_and_it_leaves_no_core(ordinary_machine: Machine) -> None:
    machine = replace(ordinary_machine, more={**ordinary_machine.more, **CREDENTIALS})
    canaries = _canaries(CREDENTIALS)
    with machine.up() as up, machine.start("key", "rotate", "--json", stdin=subprocess.DEVNULL) as rotation:
        try:
            assert rotation.stderr is not None
            assert any(json.loads(line)["step"] == "confirm" for line in rotation.stderr)
            # In the middle of it: the new key is in its memory, beside the old one.
            rotation.send_signal(signal.SIGSTOP)
            for pid in (rotation.pid, up.pid):
                assert _seen(machine, pid) == REFUSED
                assert _leaves_no_core(pid)
            seen = list(places.processes(machine.home, up.pid, rotation=rotation.pid))
            assert canaries.found_in(seen) == []
            if ROOT:
                wiped = _environment(rotation.pid)
                assert {wiped[name.encode()].strip(b"*") for name in CREDENTIALS} == {b""}
            rotation.send_signal(signal.SIGCONT)
            out, _ = rotation.communicate(timeout=60)
        finally:
            rotation.kill()
        assert (rotation.returncode, json.loads(out)["action"]) == (0, "rotated")
        assert up.stop() == 0
