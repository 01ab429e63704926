"""
What only a whole process has: a terminal to ask on, a reader that goes, a signal, a standard input that is closed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import termios
import time
import uuid
from collections.abc import Iterator

import pytest

from tests.cli.processes import SLOWEST, Machine, Up
from tests.cli.standin import TOKEN, StandIn, stand_in

TYPED = TOKEN.encode() + b"\n"


@pytest.fixture(scope="module")
def slack() -> Iterator[StandIn]:
    with stand_in() as slack:
        yield slack


@pytest.fixture
def company(machine: Machine, up: Up) -> str:
    """A new company on a running instance."""
    return str(machine.json("company", "create", f"company {uuid.uuid4().hex[:12]}")["id"])


class Terminal:
    """A command on a terminal of its own, as somebody who sits there sees it."""

    def __init__(self, machine: Machine, *words: str) -> None:
        self.shown = b""
        self._master, slave = os.openpty()
        # Its terminal in every sense: what is typed there can be a Ctrl-C, and /dev/tty is this one.
        self.process = machine.start(
            *words,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

    def waits_for(self, text: bytes) -> None:
        """Read on until this is shown."""
        while text not in self.shown:
            assert self._more(), f"it ended with {self.process.wait()}: {self.shown!r}"

    def asks(self, prompt: bytes) -> None:
        """The same, of a question: only now is what is typed not shown."""
        self.waits_for(prompt)
        end = time.monotonic() + SLOWEST
        while termios.tcgetattr(self._master)[3] & termios.ECHO:
            assert time.monotonic() < end, "what is typed would be shown"

    def type(self, text: bytes) -> None:
        os.write(self._master, text)

    def end(self) -> int:
        """Read to the end; the exit status."""
        while self._more():
            pass
        return self.process.wait(SLOWEST)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _more(self) -> bool:
        assert select.select([self._master], [], [], SLOWEST)[0], f"nothing more came after {self.shown!r}"
        # Linux says so when nobody has the other side any more.
        with contextlib.suppress(OSError):
            self.shown += (read := os.read(self._master, 4096))
            return bool(read)
        return False


@contextlib.contextmanager
def terminal(machine: Machine, *words: str) -> Iterator[Terminal]:
    """A command on a terminal; nothing of it stays."""
    found = Terminal(machine, *words)
    try:
        yield found
    finally:
        found.close()


def connecting(company: str, slack: StandIn) -> list[str]:
    return ["integration", "connect", "slack", "--company", company, "--base-url", slack.url, "--allow-private-network"]


def connected(machine: Machine, company: str) -> list[str]:
    return [each["name"] for each in machine.json("integration", "list", "--company", company)["items"]]


# — a token is asked for —


def test_a_token_is_asked_for_on_a_terminal_and_does_not_show(machine: Machine, company: str, slack: StandIn) -> None:
    with terminal(machine, *connecting(company, slack)) as shell:
        shell.asks(b"token for slack: ")
        shell.type(TYPED)
        assert shell.end() == 0
        assert b"connected" in shell.shown
        assert TOKEN.encode() not in shell.shown
    assert connected(machine, company) == ["slack"]


def test_ctrl_c_at_the_question_connects_nothing(machine: Machine, company: str, slack: StandIn) -> None:
    with terminal(machine, *connecting(company, slack)) as shell:
        shell.asks(b"token for slack: ")
        shell.type(b"\x03")
        assert shell.end() == 130
        assert b"Traceback" not in shell.shown
    assert connected(machine, company) == []


@pytest.mark.parametrize("typed", [b"\x04", b"\n", b"   \n"], ids=["Ctrl-D", "nothing", "blanks"])
def test_no_answer_to_the_question_connects_nothing(
    machine: Machine, company: str, slack: StandIn, typed: bytes
) -> None:
    with terminal(machine, *connecting(company, slack)) as shell:
        shell.asks(b"token for slack: ")
        shell.type(typed)
        assert shell.end() == 2
        assert b"company-agents: the token is empty\r\nhint: " in shell.shown
    assert connected(machine, company) == []


# — standard input and output —


def test_a_standard_input_that_is_closed_is_an_empty_one(machine: Machine, company: str, slack: StandIn) -> None:
    words = machine.words(*connecting(company, slack), "--token-stdin")
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" <&-', "sh", *words], env=machine.environment, capture_output=True, cwd="/"
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"company-agents: the token is empty\n")


@pytest.mark.parametrize("words", [["audit", "export"], ["company", "list"], ["company", "list", "--help"]])
def test_a_reader_that_has_gone_ends_a_command_quietly(machine: Machine, company: str, words: list[str]) -> None:
    with machine.start(*words) as child:
        assert child.stdout is not None
        child.stdout.close()
        assert child.stderr is not None
        assert child.stderr.read() == b""
    assert child.returncode == 141


def test_a_name_that_a_terminal_cannot_show_is_no_reason_to_fail(machine: Machine, company: str) -> None:
    agent = machine.json("agent", "create", "Zoë", "--company", company)
    plain = Machine(machine.home, more={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"})
    listed = plain.run("agent", "list", "--company", company)
    assert (listed.status, listed.err) == (0, "")
    assert "Zo\\xeb" in listed.out
    assert agent["id"] in listed.out


def test_a_narrow_terminal_shows_ids_whole(machine: Machine, company: str) -> None:
    agent = machine.json("agent", "create", "somebody with a long name " * 3, "--company", company)
    narrow = Machine(machine.home, more={"COLUMNS": "90"})
    with terminal(narrow, "agent", "list", "--company", company) as shell:
        assert shell.end() == 0
        assert agent["id"].encode() in shell.shown
        assert agent["name"].encode() not in shell.shown
        assert b"\x1b[31m" not in shell.shown


# — following —


def test_a_tail_that_follows_prints_what_happens_until_ctrl_c(machine: Machine, company: str) -> None:
    with machine.start("audit", "tail", "--follow", "--json", "--company", company) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert b'"company.created"' in child.stdout.readline()
        machine.json("agent", "create", "ann", "--company", company)
        assert b'"agent.created"' in child.stdout.readline()
        machine.json("agent", "create", "bob", "--company", company)
        assert b'"bob"' in child.stdout.readline()
        child.send_signal(signal.SIGINT)
        assert (child.wait(SLOWEST), child.stdout.read(), child.stderr.read()) == (130, b"", b"")


def test_a_tail_that_follows_everything_sees_a_company_that_is_new(machine: Machine, company: str) -> None:
    with machine.start("audit", "tail", "--follow", "--limit", "1") as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline()
        name = f"company {uuid.uuid4().hex[:12]}"
        machine.json("company", "create", name)
        assert name.encode() in child.stdout.readline()
        child.terminate()
        assert child.wait(SLOWEST) in (143, -signal.SIGTERM)
        assert b"Traceback" not in child.stderr.read()
