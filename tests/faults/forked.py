"""
Processes that cost little: one that has loaded the package already becomes, by forking, a command whose effects are
counted, or the check of an instance. Each is a process of its own, and can be killed like any. Tests of whole processes,
from the interpreter's start on, are in test_whole_processes.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.processes import SLOWEST, Done, Machine

ROOT = Path(__file__).resolve().parents[2]

# What a command imports where it is used is imported before.
WAITING = """
import gc, importlib, json, os, signal, sys
import rich.console, rich.table
import company_agents.app, company_agents.cli.main, company_agents.logs, company_agents.hardening
for name in sys.argv[1:]:
    importlib.import_module(name)
from tests.faults import check, counted

gc.freeze()
with open(os.dup(0)) as requests, open(os.dup(1), "w") as answers:
    for line in requests:
        main, words, variables, files = json.loads(line)
        child = os.fork()
        if not child:
            for number, name in enumerate(files):
                os.dup2(os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY), number)
            sys.stdin = open(0, closefd=False)
            os.environ.clear()
            os.environ.update(variables)
            try:
                {"counted": counted, "check": check}[main].main(words)
            except SystemExit as ended:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(ended.code or 0)
            except BaseException:
                import traceback
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(99)
            sys.stdout.flush()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps(status), file=answers, flush=True)
"""


@dataclass(frozen=True)
class Forks:
    """The process that forks, and the files that a fork has as its standard ones."""

    process: subprocess.Popen[str]
    files: tuple[Path, Path, Path]

    def run(self, main: str, words: list[str], variables: Mapping[str, str], given: str = "") -> Done:
        """Run `tests.faults.<main>.main(words)` in a new process, to its end."""
        for file, content in zip(self.files, (given, "", ""), strict=True):
            file.write_text(content)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request: list[Any] = [main, words, dict(variables), [str(file) for file in self.files]]
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        status = json.loads(self.process.stdout.readline())
        return Done(status, self.files[1].read_text("utf-8"), self.files[2].read_text("utf-8"))


@contextlib.contextmanager
def forks(*modules: str) -> Iterator[Forks]:
    """Start it, with these modules loaded beside what every command needs."""
    environment = Machine(Path("/nowhere/home")).environment
    environment["PYTHONPATH"] += os.pathsep + str(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-c", WAITING, *modules],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd="/",
        )
        try:
            yield Forks(process, (Path(folder, "in"), Path(folder, "out"), Path(folder, "err")))
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(SLOWEST)
            assert process.stdout is not None
            process.stdout.close()
