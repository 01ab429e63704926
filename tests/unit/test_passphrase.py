"""
The passphrase of a backup, on its way in.
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from company_agents.cli.passphrase import read_passphrase
from company_agents.errors import WrongUsage

P = "several random words in a row 7"
PROGRAM = """
import sys
from pathlib import Path
from company_agents.hardening import harden
harden()
from company_agents.cli.passphrase import read_passphrase
from company_agents.errors import WrongUsage
try:
    found = read_passphrase(sys.argv[2] if len(sys.argv) > 2 else None, "stdin" in sys.argv[1], confirm="twice" in sys.argv[1])
except WrongUsage as error:
    sys.exit("refused: " + error.sentence)
print(ascii(found.reveal_text()), Path("/proc/self/cmdline").read_bytes().count(found.reveal()))
"""


def run(*words: str, given: bytes = b"") -> tuple[str, str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], input=given, capture_output=True, timeout=60)
    return done.stdout.decode().strip(), done.stderr.decode().strip()


def typed(words: str, *lines: str) -> str:
    """What it says where these lines are typed at a terminal."""
    child, master = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", PROGRAM, words])
    shown = b""
    answered = 0
    try:
        while part := os.read(master, 4096):
            shown += part
            # What is typed before it is asked for is forgotten.
            if shown.count(b": ") > answered < len(lines):
                os.write(master, lines[answered].encode() + b"\n")
                answered += 1
    except OSError:
        pass
    os.waitpid(child, 0)
    os.close(master)
    return shown.decode()


def test_one_that_is_given_is_taken_and_is_gone_from_the_words_of_the_process() -> None:
    assert run("flag", P) == (f"{P!r} 0", "")


def test_one_that_is_piped_in_is_taken_without_its_line_end() -> None:
    assert run("stdin", given=f"{P}\n".encode()) == (f"{P!r} 0", "")


def test_one_that_is_made_up_is_typed_twice_and_does_not_show() -> None:
    shown = typed("twice", P, P)
    assert f"{P!r} 0" in shown and shown.count(P) == 1
    shown = typed("twice", P, P + "8")
    assert "refused: the two passphrases differ" in shown and P not in shown


def test_one_that_opens_something_is_typed_once() -> None:
    assert f"{P!r} 0" in typed("once", P)


def test_letters_of_other_scripts_are_the_same_in_every_way_of_giving_it() -> None:
    word = "пароль 東京 schön genug"
    assert run("flag", word) == run("stdin", given=word.encode())


@pytest.mark.parametrize(
    ("words", "given", "sentence"),
    [
        (("stdin", P), b"x", "--passphrase and --passphrase-stdin exclude each other"),
        (("flag", "  "), b"", "the passphrase is empty"),
        (("stdin",), b"\n", "the passphrase is empty"),
        (("stdin",), b"\xff\xfe" * 20, "the passphrase is no text"),
        (("once",), b"", "there is no terminal to ask for the passphrase"),
        (("stdin",), b"x" * 70_000, "what came on standard input is too long for a passphrase"),
    ],
)
def test_what_is_none_is_refused(words: tuple[str, ...], given: bytes, sentence: str) -> None:
    out, err = run(*words, given=given)
    assert (out, err) == ("", f"refused: {sentence}")


def test_what_it_says_does_not_repeat_it() -> None:
    with pytest.raises(WrongUsage) as refused:
        read_passphrase(P, True, confirm=False)
    assert P not in f"{refused.value} {refused.value.hint} {refused.value!r}"
