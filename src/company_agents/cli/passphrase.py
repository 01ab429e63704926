"""
The passphrase of a backup: from the command line, from standard input, or typed twice without showing.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Annotated

import typer

from company_agents.cli.command import read_secret
from company_agents.errors import WrongUsage
from company_agents.sensitive import Sensitive

Passphrase = Annotated[
    str | None,
    typer.Option(
        "--passphrase",
        metavar="P",
        help="the passphrase; for a moment others on this machine can see it, and your shell may keep it",
    ),
]
PassphraseStdin = Annotated[
    bool, typer.Option("--passphrase-stdin", help="read the passphrase from standard input; else it is asked for")
]


def read_passphrase(given: str | None, from_stdin: bool, *, confirm: bool) -> Sensitive:
    """
    The passphrase, without the blanks around it. `confirm`: it is made up now, so it is typed twice.

    Raises:
        WrongUsage: there is none, or two, or two that differ, or it is no text.
    """
    if given is not None:
        forget_argument(given)
        if from_stdin:
            raise WrongUsage("--passphrase and --passphrase-stdin exclude each other", hint="give one of them")
        passphrase = Sensitive(given.strip().encode("utf-8", "surrogateescape"))
        if not passphrase:
            raise WrongUsage("the passphrase is empty", hint="give one, or none to be asked for it")
    else:
        passphrase = _read(from_stdin, "Passphrase")
        if confirm and not from_stdin and _read(from_stdin, "Passphrase again") != passphrase:
            raise WrongUsage("the two passphrases differ", hint="nothing was done; try again")
    try:
        passphrase.reveal_text()
    except UnicodeDecodeError:
        raise WrongUsage("the passphrase is no text", hint="a passphrase is text in UTF-8") from None
    return passphrase


def _read(from_stdin: bool, prompt: str) -> Sensitive:
    return read_secret(from_stdin=from_stdin, prompt=prompt, what="the passphrase", option="--passphrase-stdin")


def forget_argument(value: str) -> None:
    """Overwrite a value where the kernel shows the words of this process, /proc/<pid>/cmdline (Linux)."""
    wanted = value.encode("utf-8", "surrogateescape")
    if sys.platform != "linux" or not wanted:
        return
    try:
        # proc_pid_stat(5): fields 48 and 49 are where the words begin and end. The second field may have blanks in it.
        fields = Path("/proc/self/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        start, end = int(fields[48 - 3]), int(fields[49 - 3])
    except (OSError, ValueError, IndexError):
        return
    # A kernel that does not tell says 0.
    if not 0 < start < end:
        return
    place = start
    # Word by word: a part of another one that is spelled alike stays, and so does one before the value's own option.
    for word in ctypes.string_at(start, end - start).split(b"\0"):
        if word == wanted or word == b"--passphrase=" + wanted:
            ctypes.memset(place + len(word) - len(wanted), ord("*"), len(wanted))
        place += len(word) + 1
