"""
Environment files are read as data, or not at all.
"""

from __future__ import annotations

import contextlib
import io
import re
import traceback

import pytest
from dotenv import dotenv_values
from hypothesis import example, given
from hypothesis import strategies as some

from company_agents.errors import WrongUsage
from company_agents.integrations.env_file import MOST_BYTES, MOST_VARIABLES, read_env_file

SECRET = "pa55-of-nobody"
# A line with what decides how it is read, and what could decide it for somebody else.
PIECES = some.sampled_from(
    ["A", "B_2", "=", " ", "\t", "'", '"', "#", "\\", "$", "${A}", "$(id)", "`id`", "export ", "é"]
)
LINES = some.lists(PIECES, max_size=12).map("".join)
NAMES = some.from_regex(r"[A-Z_][A-Z0-9_]{0,20}", fullmatch=True)
# What a token may be made of, and more: no quote, no backslash, no blank beside a #.
VALUES = some.from_regex(r"[A-Za-z0-9_.:/+=~^!*@%&-]{0,60}", fullmatch=True)


def read(text: str | bytes) -> list[tuple[str, str]]:
    found = read_env_file(text if isinstance(text, bytes) else text.encode())
    return [(variable.name, variable.value.reveal_text()) for variable in found if variable.value is not None]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=x", "x"),
        ("A=", ""),
        ("export A=x", "x"),
        ("export\tA=x", "x"),
        ("  A = x  ", "x"),
        ("A='x y'", "x y"),
        ("A='x#y' # said", "x#y"),
        ('A="x \\"y\\" \\\\"', 'x "y" \\'),
        ('A="x\\ny"', "x\\ny"),
        ("A=x # said", "x"),
        ("A=x#y", "x#y"),
        ("A=#x", "#x"),
        ("A= # said", ""),
        ("A=x y", "x y"),
        ("A=x=y==", "x=y=="),
        ("A=x'y", "x'y"),
        ("A='${B}'", "${B}"),
        ("A=${B}", "${B}"),
        ('A="$(id)"', "$(id)"),
        ("\ufeffA=x", "x"),
        ("A=x\r", "x"),
        ("A=ключ", "ключ"),
    ],
)
def test_a_line_has_the_value_that_its_writer_sees(line: str, value: str) -> None:
    assert read(line) == [("A", value)]


@pytest.mark.parametrize("text", ["", "\n\r\n", "# A=x", "  # A=x", "export A", "\ufeff"])
def test_what_sets_nothing_is_no_variable(text: str) -> None:
    assert read(text) == []


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_on_any_machine(end: str) -> None:
    found = read_env_file(end.join(["A=x", "", "# said", "B=y", ""]).encode())
    assert [(variable.name, variable.line) for variable in found] == [("A", 1), ("B", 4)]


@pytest.mark.parametrize(
    ("line", "expands"),
    [
        ("A=${B}", True),
        ('A="x${B}"', True),
        ("A=$(id)", True),
        ("A=`id`", True),
        ("A='${B}'", False),
        ('A="\\${B}"', False),
        ("A=x$y", False),
        ("A=x", False),
    ],
)
def test_what_a_shell_would_put_something_else_for_is_marked(line: str, expands: bool) -> None:
    [variable] = read_env_file(line.encode())
    assert variable.expands is expands


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f'A=x\nB="{SECRET}', 2),
        (f"A='-----BEGIN KEY-----\n{SECRET}==\n-----END KEY-----'\n", 1),
        (f"A={SECRET}\\\n", 1),
        (f"A=x\n{SECRET}", 2),
        (f"{SECRET}=x", 1),
        (f"A='{SECRET}'x", 1),
        (f'A="{SECRET}"x"', 1),
        (f"1A={SECRET}", 1),
        (f"A={SECRET}\n\nB=x\x00y", 3),
        (f"A={SECRET}\x1b[2J", 1),
        (f"{'A' * 101}={SECRET}", 1),
        (f"set -x; A={SECRET}", 1),
    ],
)
def test_a_line_that_is_something_else_is_named_and_nothing_is_taken(text: str, line: int) -> None:
    with pytest.raises(WrongUsage) as caught:
        read_env_file(text.encode())
    error = caught.value
    assert f"line {line} of the environment file" in error.sentence
    assert error.hint
    assert SECRET not in f"{error.sentence} {error.hint} {''.join(traceback.format_exception(error, chain=True))}"


@pytest.mark.parametrize(
    "content",
    [
        b"A=" + b"x" * MOST_BYTES,
        b"A=\xff" + SECRET.encode(),
        f"A={SECRET}".encode("utf-16"),
        b"A=1\n" * (MOST_VARIABLES + 1),
    ],
    ids=["too large", "no UTF-8", "UTF-16", "too many"],
)
def test_what_is_no_environment_file_is_refused_and_not_repeated(content: bytes) -> None:
    with pytest.raises(WrongUsage) as caught:
        read_env_file(content)
    assert caught.value.hint
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("piece", ['"\\', "'", '"', "\\", "#", " #", "${", "export ", "A=", "\t"])
def test_the_largest_hostile_line_comes_to_an_end(piece: str) -> None:
    # What looked at each of its characters once for each other would not within the time of a test.
    with contextlib.suppress(WrongUsage):
        read("A=" + piece * ((MOST_BYTES - 2) // len(piece)))


@given(some.binary(max_size=300))
@example(b"A=\x00")
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        found = read_env_file(content)
    except WrongUsage as error:
        assert error.hint
        return
    assert all(re.fullmatch(r"[A-Za-z_]\w{0,99}", variable.name, re.ASCII) for variable in found)


@given(some.lists(LINES, max_size=6).map("\n".join))
def test_nothing_comes_out_of_a_file_that_does_not_stand_in_it(text: str) -> None:
    try:
        found = read(text)
    except WrongUsage:
        return
    written = re.sub(r'\\(["\\$`])', r"\1", text)
    assert [value for _, value in found if value not in text and value not in written] == []


@given(some.dictionaries(NAMES, VALUES, max_size=8), some.sampled_from(["", "'", '"']), some.booleans())
def test_what_is_written_is_read(values: dict[str, str], quote: str, exported: bool) -> None:
    begin = "export " if exported else ""
    text = "\n".join(f"{begin}{name}={quote}{value}{quote}" for name, value in values.items())
    assert dict(read(text)) == values


@given(
    some.lists(some.tuples(NAMES, LINES.filter(lambda line: "\\" not in line)), max_size=5, unique_by=lambda it: it[0])
)
def test_python_dotenv_finds_the_same_where_both_take_a_file(pairs: list[tuple[str, str]]) -> None:
    text = "\n".join(f"{name}={line}" for name, line in pairs)
    try:
        found = dict(read(text))
    except WrongUsage:
        return
    assert found == dotenv_values(stream=io.StringIO(text), interpolate=False)
