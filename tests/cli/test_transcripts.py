"""
Every command as it is typed and what it answers, from the files in `transcripts/`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from company_agents.app import open_app
from company_agents.cli.main import cli
from company_agents.settings import read_settings
from tests.cli import transcript
from tests.cli.elsewhere import Elsewhere
from tests.cli.processes import Done, Machine, Up
from tests.cli.standin import TOKEN, StandIn, stand_in
from tests.cli.warm import Run, warm
from tests.dashboard.people import owner
from tests.database.processes import clean

FILES = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.fixture(scope="module")
def slack() -> Iterator[StandIn]:
    with stand_in() as slack:
        yield slack


@pytest.fixture(scope="module")
def run(machine: Machine) -> Iterator[Run]:
    with warm(machine) as run:
        yield run


@pytest.fixture(scope="module")
def known(machine: Machine, up: Up, slack: StandIn) -> dict[str, str]:
    """What the transcripts have in common: where things are, and one person, who has joined in a browser."""

    async def olga() -> str:
        async with open_app(read_settings(home=machine.home)) as app:
            return str((await owner(app, "Olga")).operator.id)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        person = pool.submit(asyncio.run, olga()).result()
    return {"slack": slack.url, "here": up.url, "home": str(machine.home), "olga": person}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_transcript(
    file: Path, machine: Machine, run: Run, known: dict[str, str], slack: StandIn, tmp_path: Path
) -> None:
    slack.token, slack.answer = TOKEN, None
    if transcript.read(file)[0].words != "a home of its own":
        with Elsewhere(machine.home, slack) as elsewhere:
            elsewhere.start()
            transcript.play(file, run, {**known}, elsewhere.happen, elsewhere.state)
        return
    home = tmp_path / "home"
    try:
        with Elsewhere(home, slack) as elsewhere:
            known = {"home": str(home)}
            transcript.play(
                file,
                lambda *words, given: run(*words, given=given, home=home),
                known,
                elsewhere.happen,
                elsewhere.state,
            )
    finally:
        clean(home)


def test_every_command_is_in_a_transcript() -> None:
    typed = {" ".join(step.words.split()[:3]) for file in FILES for step in transcript.read(file)}
    missing = [path for path in _commands(cli) if not any(f"{words} ".startswith(f"{path} ") for words in typed)]
    assert missing == []


def test_the_page_of_the_command_line_has_every_command_with_its_options() -> None:
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text("utf-8")
    [listed] = re.findall(r"^```\n(company-agents .*?)^```$", page, re.MULTILINE | re.DOTALL)
    found = {re.sub(r"\s+", " ", entry).strip() for entry in re.split(r"^(?=company-agents )", listed, flags=re.M)} - {
        ""
    }
    assert found == {_usage(path) for path in _commands(cli)}


def _usage(path: str) -> str:
    """A command with all of its options, as the page has them."""
    command = typer.main.get_command(cli)
    for word in path.split():
        command = command.commands[word]  # type: ignore[attr-defined]
    words = [f"company-agents {path}"]
    for param in command.params:
        value = "" if getattr(param, "is_flag", False) else f" {param.metavar}"
        if param.param_type_name == "argument":
            words.append(value.strip())
        elif param.name != "json_" and param.name != "as_json":
            name = max(param.opts, key=len)
            more = "…" if getattr(param, "multiple", False) else ""
            words.append(f"{name}{value}" if param.required else f"[{name}{value}]{more}")
    return " ".join(words)


def _commands(group: object, path: str = "") -> list[str]:
    found = [f"{path}{command.name}" for command in group.registered_commands]  # type: ignore[attr-defined]
    for inner in group.registered_groups:  # type: ignore[attr-defined]
        found += _commands(inner.typer_instance, f"{path}{inner.typer_instance.info.name} ")
    return found


# — the runner itself —


def _play(tmp_path: Path, text: str, out: str, err: str = "", status: int = 0) -> None:
    file = tmp_path / "t.txt"
    file.write_text(text)
    transcript.play(file, lambda *words, given: Done(status, out, err), {})


ONE = "00000000-0000-4000-8000-000000000001"
OTHER = "00000000-0000-4000-8000-000000000002"


def test_a_transcript_that_is_right_passes(tmp_path: Path) -> None:
    _play(tmp_path, "$ company-agents x\nid  <it>\nagain <it>\n! no\n[3]\n", f"id {ONE}\nagain {ONE}\n", "no\n", 3)


@pytest.mark.parametrize(
    ("text", "out", "err", "status"),
    [
        ("$ company-agents x\nid <it>\nagain <it>\n", f"id {ONE}\nagain {OTHER}\n", "", 0),
        ("$ company-agents x\nid <it>\n", "id nothing\n", "", 0),
        ("$ company-agents x\nid <it>\n", f"id {ONE}\nand more\n", "", 0),
        ("$ company-agents x\nyes\n", "yes\n", "a warning\n", 0),
        ("$ company-agents x\nyes\n", "yes\n", "", 1),
        ("$ company-agents x\n! no\n", "", "no\n", 1),
        ("# nothing is typed\n", "", "", 0),
    ],
)
def test_a_transcript_that_is_wrong_fails(tmp_path: Path, text: str, out: str, err: str, status: int) -> None:
    with pytest.raises(AssertionError):
        _play(tmp_path, text, out, err, status)


def test_a_refusal_that_changes_something_fails(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_text("$ company-agents x\n! no\n[4]\n")
    states = iter("ab")
    with pytest.raises(AssertionError, match="it was refused, and changed something"):
        transcript.play(file, lambda *words, given: Done(4, "", "no\n"), {}, state=lambda: next(states))


def test_what_a_good_command_changes_is_seen(machine: Machine, run: Run, known: dict[str, str], slack: StandIn) -> None:
    with Elsewhere(machine.home, slack) as elsewhere:
        elsewhere.start()
        before = elsewhere.state()
        company = run("company", "create", "Seen", "--json").json["id"]
        assert run("agent", "create", "ann", "--company", company).status == 0
        after = elsewhere.state()
        assert before is not None and after is not None
        assert {"companies", "agents", "secrets"} <= {name for name in after if after[name] != before[name]}
