"""
Commands about backups that die at one of their steps, in processes that cost little:

    main([NUMBER, before|after, NAMES, FOLDER, "--", "backup", "restore", …])

Beside the effects that `tests.faults.effects` counts, each statement of a session that blocks is a step, and each commit of
one. FOLDER is where files count.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from tests.cli.processes import SLOWEST, Machine
from tests.faults.effects import Counter
from tests.faults.effects import _names as statement_names
from tests.faults.forked import ROOT, Forks

WAITING = """
import gc, importlib, json, os, sys
import company_agents.app, company_agents.cli.main, company_agents.logs, company_agents.hardening
import company_agents.backup.restore
from tests.backup import killing

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
                killing.main(words)
            except SystemExit as ended:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(ended.code or 0)
            except BaseException:
                os._exit(99)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps(status), file=answers, flush=True)
"""


class Steps(Counter):
    """Counts the statements of sessions that block as well."""

    def start(self) -> None:
        """From now on."""
        super().start()
        execute, copy, exec_command = psycopg.Cursor.execute, psycopg.Cursor.copy, psycopg.Connection._exec_command
        names = statement_names()

        def executed(cursor: Any, query: Any, params: Any = None, **named: Any) -> Any:
            text = query.decode() if isinstance(query, bytes) else str(query)
            with self.effect(f"statement {names.get(text, ' '.join(text.split()[:3]))}"):
                return execute(cursor, query, params, **named)

        def copied(cursor: Any, statement: Any, *args: Any, **named: Any) -> Any:
            with self.effect(f"copy {str(statement).split('(')[0]}"):
                return copy(cursor, statement, *args, **named)

        def commanded(connection: Any, command: Any, *args: Any, **named: Any) -> Any:
            if command != b"COMMIT":
                return (yield from exec_command(connection, command, *args, **named))
            with self.effect("commit of a session that blocks"):
                return (yield from exec_command(connection, command, *args, **named))

        setattr(psycopg.Cursor, "execute", executed)  # noqa: B010
        setattr(psycopg.Cursor, "copy", copied)  # noqa: B010
        setattr(psycopg.Connection, "_exec_command", commanded)  # noqa: B010


def main(words: list[str]) -> None:
    """Become the command."""
    number, moment, names, folder, _, *command = words
    Steps(Path(names), Path(folder), int(number), moment).start()
    sys.argv[1:] = command
    from company_agents.__main__ import main as command_main

    command_main()


@contextlib.contextmanager
def forks() -> Iterator[Forks]:
    """The process that becomes such commands by forking."""
    environment = Machine(Path("/nowhere/home")).environment
    environment["PYTHONPATH"] += os.pathsep + str(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-c", WAITING],
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
