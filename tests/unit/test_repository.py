"""
What the folder as a whole promises: two commands that work, locks that anybody can use, modules that
can be read at one sitting.
"""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import tokenize
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import company_agents

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-sources.lock", "requirements-dev.lock")

LONGEST_MODULE = 400
# Lines of code, which is what a plan of 2,500 lines for an auditor's afternoon comes to with six key sources.
AUDITORS_AFTERNOON = 2500

# Folders that belong to one machine. Written so that this file does not hold what it looks for.
MACHINE = re.compile(r"(?<![\w./~$}-])/([r]oot|[w]ork|[f]arm|[h]ome/(?!user/|you/|USER/)[\w-]+|[U]sers/[\w-]+)/")
REGISTRY = re.compile(r"[p]ypi\.org|[p]ythonhosted|[r]egistry\.npmjs|[d]eb\.debian|[s]ecurity\.debian|[a]rtifactory")


@cache
def texts() -> dict[str, str]:
    """
    Every file of the project that is text. Without git, as in a source archive: every file that is there.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        names = [name for name in listed.stdout.split("\0") if name]
    else:
        names = [
            file.relative_to(ROOT).as_posix()
            for top in ("src", "tests", "scripts", "docs", ".ci")
            for file in (ROOT / top).rglob("*")
            if "__pycache__" not in file.parts
        ]
    found = {}
    for name in names:
        try:
            found[name] = (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
    assert found
    return found


def requirements(lock: str) -> dict[str, tuple[str, list[str]]]:
    """
    Name → version with its marker, hashes.
    """
    found: dict[str, tuple[str, list[str]]] = {}
    for entry in re.split(r"(?<!\\)\n", (ROOT / lock).read_text()):
        line = entry.strip()
        if not line or line.startswith("#"):
            continue
        head, *options = re.split(r"\s*\\\n\s*", line)
        name, _, version = head.partition("==")
        assert version, f"{lock}: not pinned: {head}"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", option) for option in options), f"{lock}: {name}"
        found[name] = (version, options)
    assert found
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_does_not_say_where_packages_come_from(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert "@" not in text
    assert [line for line in text.splitlines() if line.startswith("-")] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_hashes_for_everything(lock: str) -> None:
    assert [name for name, (_, hashes) in requirements(lock).items() if not hashes] == []


def test_the_development_lock_has_all_of_the_other_in_the_same_versions() -> None:
    # scripts/install relies on it: who has the one has the other.
    development = requirements("requirements-dev.lock")
    assert {name: pin for name, pin in requirements("requirements.lock").items() if development.get(name) != pin} == {}


def test_the_locks_have_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    for lock, wanted in (
        ("requirements.lock", [*project["project"]["dependencies"], *groups["build"]]),
        ("requirements-dev.lock", [entry for entry in groups["dev"] if isinstance(entry, str)]),
    ):
        names = {re.split(r"[\[<>=~! ]", entry)[0] for entry in wanted}
        assert names - requirements(lock).keys() == set(), f"{lock} is behind pyproject.toml: make lock"


def test_the_version_stands_in_two_places_and_is_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert company_agents.__version__ == project["version"]


def test_the_checks_run_the_command_that_the_readme_names() -> None:
    run = ROOT / ".ci" / "run"
    assert re.search(r"^make test\b", run.read_text(), re.MULTILINE)
    assert os.access(run, os.X_OK)


def test_the_readme_begins_with_the_two_commands() -> None:
    beginning = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    assert "make up" in beginning
    assert "make test" in beginning


def test_every_make_target_explains_itself() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    explained = set(re.findall(r"^([a-z-]+):.*## \S", makefile, re.MULTILINE))
    assert explained == set(phony[1].split())


def test_no_module_is_longer_than_a_sitting() -> None:
    lengths = {
        file.relative_to(ROOT).as_posix(): len(file.read_text().splitlines()) for file in (ROOT / "src").rglob("*.py")
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_MODULE} == {}


def test_what_an_auditor_must_read_stays_an_afternoon() -> None:
    package = ROOT / "src" / "company_agents"
    rooms = ("secret_store", "crypto", "keysources", "rotation")
    lines = {file: lines_of_code(file) for room in rooms for file in sorted((package / room).rglob("*.py"))}
    # An instance has one key source: who audits it reads the longest of the four services at most.
    services = [lines.pop(package / "keysources" / f"{name}.py") for name in ("vault", "aws", "gcp", "azure")]
    assert 0 < sum(lines.values()) + max(services) < AUDITORS_AFTERNOON


def lines_of_code(file: Path) -> int:
    """Lines that do something: no blank one, no comment, no docstring."""
    text = file.read_text()
    said = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    code = {line for token in tokens if token.type not in silent for line in range(token.start[0], token.end[0] + 1)}
    return len(code - said)


def test_no_file_names_a_folder_of_one_machine() -> None:
    assert {name: match[0] for name, text in texts().items() if (match := MACHINE.search(text))} == {}


def test_no_file_names_a_package_registry() -> None:
    assert {name: match[0] for name, text in texts().items() if (match := REGISTRY.search(text))} == {}


def test_a_test_that_is_left_out_says_why() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line}"
        for file in (ROOT / "tests").rglob("*.py")
        for line in left_out_without_reason(ast.parse(file.read_text()))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "pytest.skip()",
        "pytest.skip('')",
        "pytest.mark.skip(f)",
        "pytest.mark.skipif(True)",
        "pytest.mark.xfail()",
        "@pytest.mark.skip\ndef test_x(): ...",
        "@pytest.mark.xfail\ndef test_x(): ...",
    ],
)
def test_leaving_out_without_a_reason_is_found(line: str) -> None:
    assert len(list(left_out_without_reason(ast.parse(line)))) == 1


@pytest.mark.parametrize("line", ["pytest.skip('no Chromium here')", "pytest.mark.skipif(True, reason='not as root')"])
def test_leaving_out_with_a_reason_passes(line: str) -> None:
    assert list(left_out_without_reason(ast.parse(line))) == []


def left_out_without_reason(tree: ast.Module) -> Iterator[int]:
    words = {"pytest.skip", "pytest.xfail", "pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail"}
    called = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute() as function, args=arguments, keywords=keywords) if (
                ast.unparse(function) in words
            ):
                called.add(function)
                given = [keyword.value for keyword in keywords if keyword.arg in ("reason", "msg")]
                if ast.unparse(function) in ("pytest.skip", "pytest.xfail"):
                    given += arguments[:1]
                if not any(not isinstance(reason, ast.Constant) or reason.value for reason in given):
                    yield node.lineno
            case ast.Attribute() if ast.unparse(node) in words and node not in called:
                yield node.lineno
