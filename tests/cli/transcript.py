"""
Transcripts: what is typed and what comes back, in files that read like a manual.

    $ company-agents …     a command, as for a shell; what it prints follows
    > text                 what it gets on standard input, before its output
    ! text                 a line on standard error
    [4]                    its exit status, where that is not 0
    @ text                 what happens elsewhere in between
    # text                 a remark, between commands

A name in angle brackets stands for what is different each time. Where it first appears it takes the value that
is there (`KINDS` says of what form, by how the name ends; else it is an id), and from then on means it. Those in `ANY` stand for
something else each time; those in `FIXED` for what is too long to be written down. In what is typed, `\\n` and
`\\x1b` are characters that do not show.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from company_agents.errors import Exit
from tests.cli.processes import Done

ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
ANY = {
    "time": r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?\+00:00|\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d)?Z",
    "day": r"\d{4}-\d\d-\d\d",
    "month": r"\d{4}-\d\d",
    "n": r"\d+",
    "mac": r"[0-9a-f]{64}",
    "short": r"[0-9a-f]{8}",
    "rest": r".*",
}
KINDS = {
    "op-token": r"ca_op_[\w-]{70}",
    "token": r"ca_agent_[\w-]{92}",
    "link": r"http://127\.0\.0\.1:\d+/join\?token=[\w-]{43}",
    "key": r"[0-9a-f]{16}",
    "whsec": r"whsec_[A-Za-z0-9+/]{43}=",
    "ed25519": r"[A-Za-z0-9+/]{43}=",
    "next": r"[\w=-]{40,}",
    "user": r"[\w-]+",
    "made": r"\d{8}T\d{6}Z-[0-9a-f]{12}\.tar\.zst",
    "safety": r"\d{8}T\d{6}Z-[0-9a-f]{12}\.tar\.zst",
}
FIXED = {
    "unknown": "0b0bb7e2-7e63-4a4b-8b0a-6f2d7f0f9f5e",
    **{f"{number}-letters": "n" * number for number in (7, 100, 101, 16384, 16385, 65537)},
}
REFUSED = {Exit.USAGE, Exit.NOT_FOUND, Exit.REFUSED, Exit.UNAVAILABLE, Exit.MAY_NOT_START}
NAME = re.compile(r"<([a-z0-9-]+)>")
ESCAPE = re.compile(r"\\(?:n|t|x[0-9a-f]{2}|u[0-9a-f]{4})")


@dataclasses.dataclass(frozen=True)
class Step:
    """One command, and what is expected of it; or what happens elsewhere."""

    line: int
    words: str
    given: Sequence[str] = ()
    out: str = ""
    err: str = ""
    status: int = 0
    elsewhere: bool = False


def read(file: Path) -> list[Step]:
    """The steps of a transcript."""
    steps: list[Step] = []
    blocks = re.split(r"^(?=[$@] )", file.read_text("utf-8"), flags=re.MULTILINE)
    line = 1 + blocks[0].count("\n")
    for block in blocks[1:]:
        steps.append(_step(line, block))
        line += block.count("\n")
    assert steps, f"{file} has no commands in it"
    return steps


def _step(line: int, block: str) -> Step:
    first, *rest = block.rstrip("\n").split("\n")
    while rest and (not rest[-1] or rest[-1].startswith("# ")):
        rest.pop()
    if first.startswith("@"):
        assert not rest, f"line {line}: nothing is printed by what happens elsewhere"
        return Step(line, first[2:], elsewhere=True)
    status = int(rest.pop()[1:-1]) if rest and re.fullmatch(r"\[\d+\]", rest[-1]) else 0
    given = [text[2:] for text in rest if text.startswith("> ")]
    err = [text[2:].rstrip() for text in rest if text == "!" or text.startswith("! ")]
    out = [text for text in rest if not text.startswith(("> ", "! ")) and text != "!"]
    words = first.removeprefix("$ company-agents").strip()
    return Step(line, words, given, _lines(out), _lines(err), status)


def typed(words: str, known: Mapping[str, str]) -> list[str]:
    """The words of a command."""
    return [_filled(word, known) for word in shlex.split(words)]


def piped(lines: Sequence[str], known: Mapping[str, str]) -> bytes:
    """What a command gets on standard input; `\\xff` is a byte there."""
    return _filled("\n".join(lines), known).encode("latin-1")


def _filled(text: str, known: Mapping[str, str]) -> str:
    text = ESCAPE.sub(lambda found: found[0].encode().decode("unicode_escape"), text)
    return _named(text, known)


def _named(text: str, known: Mapping[str, str]) -> str:
    return NAME.sub(lambda found: {**FIXED, **known}[found[1]], text)


def _lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def play(
    file: Path,
    run: Callable[..., Done],
    known: dict[str, str],
    elsewhere: Callable[[str], None] | None = None,
    state: Callable[[], object] | None = None,
) -> None:
    """Type the commands of a transcript, and compare. What is refused leaves `state` as it was."""
    for step in read(file):
        if step.elsewhere:
            assert elsewhere is not None
            elsewhere(_named(step.words, known))
            continue
        before = state() if state and step.status in REFUSED else None
        done = run(*typed(step.words, known), given=piped(step.given, known))
        where = f"{file.name}, line {step.line}: {step.words}"
        for expected, actual, what in ((step.out, done.out, "out"), (step.err, done.err, "err")):
            _same(expected, actual, known, f"{where} ({what})")
        assert done.status == step.status, f"{where}: exit status {done.status}\n{done.out}{done.err}"
        assert before is None or state is None or state() == before, f"{where}: it was refused, and changed something"


def _same(expected: str, actual: str, known: dict[str, str], where: str) -> None:
    groups: dict[str, str] = {}

    def placeholder(name: str) -> str:
        if name in ANY:
            return f"(?:{ANY[name]})"
        if name in known or name in FIXED:
            return re.escape({**FIXED, **known}[name])
        group = name.replace("-", "_")
        if name in groups:
            return f"(?P={group})"
        groups[name] = group
        form = next((form for ending, form in KINDS.items() if f"-{name}".endswith(f"-{ending}")), ID)
        return f"(?P<{group}>{form})"

    # Columns are as wide as what is in them: a run of blanks is one blank.
    parts = NAME.split(_squeezed(expected))
    pattern = "".join(re.escape(part) if index % 2 == 0 else placeholder(part) for index, part in enumerate(parts))
    match = re.fullmatch(pattern, _squeezed(actual))
    assert match, f"{where}\nexpected:\n{expected}\nfound:\n{actual}"
    known.update({name: match[group] for name, group in groups.items()})


def _squeezed(text: str) -> str:
    return re.sub(r"(?<=\S) {2,}", " ", text)
