"""
Who may import whom. Rooms stand in the order in which a call meets them; the table is the truth, and
docs and reviews point here. To let a room import another is to change its row, in the open.

    doors      mcp_server  gateway  api  dashboard  cli
    work       runs  integrations  work  backup  outbox
    corridor   identity  companies  secret_store  outgoing  crypto  keysources  rotation
    floor      audit  db

A room is a folder or a module directly below the package. Any import counts, also one inside a
function, under TYPE_CHECKING, relative, or by name through importlib.
"""

from __future__ import annotations

import ast
import graphlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGE = "company_agents"
SRC = Path(__file__).resolve().parents[2] / "src" / PACKAGE

DOORS = {"mcp_server", "gateway", "api", "dashboard", "cli"}

# What a door never touches: it asks a room that may.
BEHIND_THE_CORRIDOR = {"crypto", "keysources", "db"}

# How to fail, how to hold what must not print, how to end a task: for every room.
FOR_ALL = {"errors", "sensitive", "ending"}

# room: what it may import beside FOR_ALL
MAY_IMPORT: dict[str, set[str]] = {
    # ways to start; only they know the doors
    "__main__": {"cli", "settings", "hardening"},
    "asgi": {"app", "settings", "logs", "hardening", "mcp_server", "gateway", "api", "dashboard"},
    # doors
    "cli": {
        *("app", "asgi", "settings", "logs", "hardening"),
        *("runs", "integrations", "work", "backup", "outbox"),
        *("identity", "companies", "secret_store", "outgoing", "rotation", "audit"),
    },
    "dashboard": {
        *("app", "unsealing", "settings"),
        *("runs", "integrations", "work", "backup", "outbox"),
        *("identity", "companies", "rotation", "audit"),
    },
    "api": {
        *("app", "settings"),
        *("runs", "integrations", "work", "backup", "outbox"),
        *("identity", "companies", "rotation", "audit"),
    },
    "gateway": {"app", "settings", "runs", "integrations", "identity", "companies", "outgoing", "audit"},
    "mcp_server": {"app", "settings", "runs", "integrations", "work", "identity", "companies", "outgoing", "audit"},
    # the composition root: builds everything once, mounts no door
    "app": {
        *("settings", "runs", "integrations", "work", "backup", "outbox"),
        *("identity", "companies", "secret_store", "outgoing", "crypto", "keysources", "rotation"),
        *("audit", "db", "logs", "hardening"),
    },
    # a sealed instance, opened for one person: parts of its own, built as the root does
    "unsealing": {"app", "identity", "secret_store", "crypto", "rotation", "audit", "db"},
    # work
    "runs": {
        *("integrations", "work", "identity", "companies", "secret_store", "outgoing"),
        *("audit", "db", "settings"),
    },
    "backup": {
        *("identity", "companies", "secret_store", "crypto", "keysources", "rotation"),
        *("audit", "db", "settings"),
    },
    "integrations": {"identity", "companies", "secret_store", "outgoing", "audit", "settings"},
    "work": {"identity", "companies", "audit"},
    # What goes out as the audit chains grow: it reads the chains, and is asked by no other room of work.
    "outbox": {"identity", "companies", "secret_store", "outgoing", "audit", "db", "settings"},
    # the corridor
    "rotation": {"secret_store", "keysources", "crypto", "audit", "db"},
    "identity": {"companies", "secret_store", "audit", "db", "settings"},
    "secret_store": {"companies", "crypto", "audit", "db"},
    "companies": {"audit", "db"},
    "outgoing": set(),
    "keysources": {"crypto", "settings"},
    # the floor
    "audit": {"crypto", "db"},
    "db": {"settings"},
    # the process itself: the log takes open values out the way replies are searched for them
    "logs": {"outgoing"},
    "hardening": set(),
    # pure
    "crypto": set(),
    "settings": set(),
    "sensitive": set(),
    "ending": set(),
    "errors": set(),
    "__init__": set(),
}

# What a room may import from outside, where that is limited beyond what pyproject.toml lists.
FOREIGN: dict[str, set[str]] = {
    "crypto": {"cryptography"},
    "sensitive": set(),
    "errors": set(),
}

PRINTS = {"cli/terminal.py"}
READS_THE_ENVIRONMENT = {"settings.py", "hardening.py", "db/embedded.py", "keysources/"}
HOLDS_SQL = {"db/"}

# What a statement starts with. English sentences start with these words too, but not like this.
SQL = re.compile(
    r"\s*(SELECT\s.+\sFROM\s|SELECT\s+\w+\(|INSERT\s+INTO\s|UPDATE\s+\S+\s+SET\s|DELETE\s+FROM\s|WITH\s+\w+\s+AS\s*\()"
    r"|\s*(select\s.+\sfrom\s|select\s+\w+\(|insert\s+into\s|update\s+\S+\s+set\s|delete\s+from\s|with\s+\w+\s+as\s*\()",
    re.DOTALL,
)


def modules(package: Path) -> Iterator[tuple[str, str, ast.Module]]:
    """
    Every module as its path below the package, its room, its tree.
    """
    for file in sorted(package.rglob("*.py")):
        below = file.relative_to(package)
        yield below.as_posix(), below.parts[0].removesuffix(".py"), ast.parse(file.read_text(), str(file))


def imported(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """
    What a module imports, as line and full dotted name; relative imports are resolved.
    """
    parents = [PACKAGE, *path.split("/")[:-1]]
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                start = parents[: len(parents) - level + 1] if level else []
                base = ".".join([*start, *([module] if module else [])])
                # `from company_agents import api` names a room only in the second half.
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name


def wrong_imports(package: Path) -> list[str]:
    found = []
    for path, room, tree in modules(package):
        allowed = MAY_IMPORT.get(room, set()) | FOR_ALL | {room}
        for line, name in imported(path, tree):
            first, *rest = name.split(".")
            if first == PACKAGE:
                target = rest[0] if rest else "__init__"
                # A name that is no room is one that the package itself defines, as `__version__`.
                if target in MAY_IMPORT and target not in allowed:
                    found.append(f"{path}:{line}: {room} may not import {target}")
            elif room in FOREIGN and first not in sys.stdlib_module_names | FOREIGN[room]:
                found.append(f"{path}:{line}: {room} may not import {first}")
    return found


def prints(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="print")):
                yield node.lineno
            case ast.Call(func=ast.Attribute(value=stream, attr="write" | "writelines")) if re.fullmatch(
                r"sys\.(__)?(stdout|stderr)(__)?(\.buffer)?", ast.unparse(stream)
            ):
                yield node.lineno
            case ast.ImportFrom(module="sys", names=names) if {a.name for a in names} & {"stdout", "stderr"}:
                yield node.lineno


def environment(tree: ast.Module) -> Iterator[int]:
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr=attribute) if attribute in names:
                yield node.lineno
            case ast.ImportFrom(module="os", names=imports) if {a.name for a in imports} & names:
                yield node.lineno


def statements(tree: ast.Module) -> Iterator[int]:
    passed_over = set()
    for node in ast.walk(tree):
        match node:
            case (
                ast.Module(body=[ast.Expr(value=documentation), *_])
                | ast.ClassDef(body=[ast.Expr(value=documentation), *_])
                | ast.FunctionDef(body=[ast.Expr(value=documentation), *_])
                | ast.AsyncFunctionDef(body=[ast.Expr(value=documentation), *_])
            ):
                passed_over.add(documentation)
            case ast.JoinedStr(values=parts):
                passed_over.update(parts)
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in parts)
                if SQL.match(text):
                    yield node.lineno
            case ast.Constant(value=str(text)) if node not in passed_over and SQL.match(text):
                yield node.lineno


def elsewhere(package: Path, check: Callable[[ast.Module], Iterator[int]], places: set[str]) -> list[str]:
    return [
        f"{path}:{line}"
        for path, _, tree in modules(package)
        if not any(path == place or (place.endswith("/") and path.startswith(place)) for place in places)
        for line in check(tree)
    ]


def test_every_room_imports_only_what_its_row_lets_it() -> None:
    assert wrong_imports(SRC) == []


def test_every_room_on_disk_has_a_row() -> None:
    rooms = {room for _, room, _ in modules(SRC)}
    assert rooms, "no module found: this test would see nothing"
    assert rooms - MAY_IMPORT.keys() == set()


def test_a_row_names_only_rooms() -> None:
    assert set().union(*MAY_IMPORT.values(), FOR_ALL, FOREIGN) <= MAY_IMPORT.keys()


def test_only_the_ways_to_start_import_a_door() -> None:
    assert {room for room, targets in MAY_IMPORT.items() if targets & DOORS} == {"__main__", "asgi"}


@pytest.mark.parametrize("door", sorted(DOORS))
def test_no_door_has_its_own_way_to_the_keys_or_the_database(door: str) -> None:
    assert MAY_IMPORT[door] & BEHIND_THE_CORRIDOR == set()


def test_the_cipher_depends_on_nothing_that_does_anything() -> None:
    assert MAY_IMPORT["crypto"] == set()
    assert FOREIGN["crypto"] == {"cryptography"}


def test_no_two_rooms_lean_on_each_other() -> None:
    graphlib.TopologicalSorter(MAY_IMPORT).prepare()


def test_only_the_terminal_prints() -> None:
    assert elsewhere(SRC, prints, PRINTS) == []


def test_statements_live_in_the_database_room() -> None:
    assert elsewhere(SRC, statements, HOLDS_SQL) == []


def test_settings_are_read_from_the_environment_in_one_place() -> None:
    assert elsewhere(SRC, environment, READS_THE_ENVIRONMENT) == []


@pytest.mark.parametrize(
    ("path", "line", "found"),
    [
        ("api/routes.py", "import company_agents.db.database", "api may not import db"),
        ("api/routes.py", "from company_agents.crypto import cipher", "api may not import crypto"),
        ("api/routes.py", "from company_agents import keysources", "api may not import keysources"),
        ("work/tasks.py", "from company_agents.api.routes import router", "work may not import api"),
        ("work/deep/tasks.py", "from ...runs.lease import Lease", "work may not import runs"),
        ("work/tasks.py", "from .. import gateway", "work may not import gateway"),
        ("crypto/cipher.py", "import psycopg", "crypto may not import psycopg"),
        ("errors.py", "from company_agents.settings import Settings", "errors may not import settings"),
        ("db/pool.py", "import importlib; importlib.import_module('company_agents.runs')", "db may not import runs"),
        ("db/pool.py", "def late():\n    from company_agents.app import App", "db may not import app"),
        (
            "audit/log.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from company_agents.work import tasks",
            "audit may not import work",
        ),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, path: str, line: str, found: str) -> None:
    plant(tmp_path, path, line)
    assert [text.partition(": ")[2] for text in wrong_imports(tmp_path)] == [found]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("crypto/cipher.py", "from cryptography.hazmat.primitives.ciphers.aead import AESGCM"),
        ("crypto/cipher.py", "import hashlib\nfrom .place import Place\nfrom ..errors import Tampered"),
        ("api/routes.py", "from company_agents import __version__\nfrom fastapi import APIRouter"),
        ("asgi.py", "from company_agents.api.routes import router"),
    ],
)
def test_an_allowed_import_is_let_pass(tmp_path: Path, path: str, line: str) -> None:
    plant(tmp_path, path, line)
    assert wrong_imports(tmp_path) == []


@pytest.mark.parametrize(
    ("check", "line"),
    [
        (prints, "print('x')"),
        (prints, "import sys; sys.stdout.write('x')"),
        (prints, "import sys; sys.stderr.buffer.write(b'x')"),
        (prints, "from sys import stdout"),
        (environment, "import os; os.environ['HOME']"),
        (environment, "import os; os.getenv('HOME')"),
        (environment, "from os import environ"),
        (statements, "query = 'SELECT id FROM agents WHERE id = %s'"),
        (statements, "query = f'''\n  UPDATE {table} SET value = 1'''"),
        (statements, "tx.execute('insert into agents (id) values (%s)')"),
        (statements, "tx.execute('DELETE FROM agents')"),
        (statements, "tx.execute('select set_config(%s, %s, true)')"),
    ],
)
def test_what_is_in_the_wrong_place_is_found(
    tmp_path: Path, check: Callable[[ast.Module], Iterator[int]], line: str
) -> None:
    plant(tmp_path, "work/tasks.py", line)
    assert len(elsewhere(tmp_path, check, set())) == 1
    assert elsewhere(tmp_path, check, {"work/"}) == []
    assert elsewhere(tmp_path, check, {"work/tasks.py"}) == []


@pytest.mark.parametrize(
    "line",
    [
        "def update():\n    'UPDATE agents SET x: this is what it runs.'",
        "label = 'Select a company'",
        "label = 'Delete from this list what is not needed'",
        "label = 'update the settings'",
    ],
)
def test_a_sentence_is_no_statement(tmp_path: Path, line: str) -> None:
    plant(tmp_path, "work/tasks.py", line)
    assert elsewhere(tmp_path, statements, set()) == []


def plant(package: Path, path: str, text: str) -> None:
    file = package / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")
