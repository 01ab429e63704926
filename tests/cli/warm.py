"""
Many commands, quickly: a process that has loaded the package already, and becomes a command by forking. Whatever a
command does, it does in a process of its own. What comes before `main` and after it is left out: tests of whole processes
are in test_up.py and test_terminal.py.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.cli.processes import SLOWEST, Done, Machine

# A command has files of its own where requests come from and answers go to. Frozen, and ended at once, because a
# child that looks through all that has been loaded copies it.
WAITING = """
import gc, json, os, sys
import rich.console, rich.table
import company_agents.app, company_agents.cli.main
from company_agents.__main__ import main

gc.freeze()
with open(os.dup(0)) as requests, open(os.dup(1), "w") as answers:
    for line in requests:
        words, home, files = json.loads(line)
        child = os.fork()
        if not child:
            for number, name in enumerate(files):
                os.dup2(os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY), number)
            sys.stdin = open(0, closefd=False)
            os.environ["COMPANY_AGENTS_HOME"] = home
            sys.argv[1:] = words
            try:
                main()
            except SystemExit as ended:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(ended.code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps(status), file=answers, flush=True)
"""

Run = Callable[..., Done]


@contextlib.contextmanager
def warm(machine: Machine) -> Iterator[Run]:
    """What `machine.run` is, in a tenth of the time; `home` may be another than the machine's."""
    with tempfile.TemporaryDirectory() as folder, _waiting(machine) as process:
        files = [Path(folder, name) for name in ("in", "out", "err")]
        assert process.stdin is not None
        assert process.stdout is not None

        def run(*words: str, given: bytes = b"", home: Path = machine.home) -> Done:
            for file, content in zip(files, (given, b"", b""), strict=True):
                file.write_bytes(content)
            request = [words, str(home), [str(file) for file in files]]
            process.stdin.write(json.dumps(request) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            status = json.loads(process.stdout.readline())  # type: ignore[union-attr]
            return Done(status, files[1].read_text("utf-8"), files[2].read_text("utf-8"))

        try:
            yield run
        finally:
            process.stdin.close()
            process.wait(SLOWEST)


def _waiting(machine: Machine) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [machine.program, "-c", WAITING],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=machine.environment,
        cwd="/",
        **machine.user,
    )
