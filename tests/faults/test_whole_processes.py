"""
One kill of each command in whole processes: the interpreter starts, the command dies, and the commands that an operator
would type then say that nothing is lost.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.cli.processes import SLOWEST, Done
from tests.faults.forked import ROOT
from tests.faults.store import COMPROMISED, INIT, PRUNE, ROTATE, START, TAKE_OVER, Case

# Where it is killed: after the first effect with this in its name; and what finishes.
KILLS = {
    START: ("link secrets/keys/*.key", "key status"),
    INIT: ("link secrets/keys/instance", "key init"),
    TAKE_OVER: ("replace secrets/keys/instance", "key verify"),
    ROTATE: ("secrets_rewrap", "key rotate"),
    COMPROMISED: ("unlink secrets/keys/*.key", "key rotate --finish"),
    PRUNE: ("unlink secrets/keys/*.key", "key prune"),
}


def run(case: Case, module: str, *words: str) -> Done:
    environment = case.variables
    environment["PYTHONPATH"] += f":{ROOT}"
    done = subprocess.run(
        [sys.executable, "-m", module, *words], env=environment, cwd="/", capture_output=True, timeout=SLOWEST
    )
    case.await_gone()
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def killed(case: Case, number: int) -> list[str]:
    names = case.folder / uuid.uuid4().hex
    home = str(case.settings.home)
    done = run(case, "tests.faults.counted", str(number), "after", str(names), home, "--", *case.command.split())
    assert done.status == -9, done
    return names.read_text().splitlines()


@pytest.mark.parametrize("command", KILLS)
async def test_a_whole_process_that_is_killed_loses_nothing(command, small_store, files, forked, tmp_path: Path):
    where, finish = KILLS[command]
    with small_store.case(command, files.settings(), tmp_path, forked) as traced:
        await traced.seed()
        names = traced.run().names
    number = next(number for number, name in enumerate(names, 1) if where in name)
    with small_store.case(command, files.settings(), tmp_path, forked) as case:
        await case.seed()
        assert killed(case, number) == names[:number]
        assert run(case, "company_agents", *finish.split()).status == 0
        verified = run(case, "company_agents", "key", "verify", "--json")
        assert verified.status == 0
        assert json.loads(verified.out)["opened"] >= len(case.template.values)
        states = list(case.states().values())
        assert states.count("active") == 1
        assert not {"staged", "retiring", "destroying"} & {*states}
        assert await case.check() == []
