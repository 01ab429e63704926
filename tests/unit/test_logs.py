"""
The log: JSON lines without local variables, without what exceptions say, and without any value that is open.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import html
import json
import logging
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from company_agents import logs
from company_agents.logs import Redactor, start_logging
from company_agents.sensitive import Sensitive

TOKEN = 'sk_live/+"<&>=0123456789~ü'
VALUE = Sensitive(TOKEN)

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def redactor() -> Redactor:
    return Redactor()


@pytest.fixture
def lines(redactor: Redactor, tmp_path: Path) -> Iterator[Lines]:
    """What is in the log by now."""
    root = logging.getLogger()
    handlers, level, strict = root.handlers[:], root.level, logging.raiseExceptions
    levels = {
        name: logger.level for name, logger in root.manager.loggerDict.items() if isinstance(logger, logging.Logger)
    }
    configured = structlog.get_config()
    start_logging(redactor, folder=tmp_path / "logs", level="debug")

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in (tmp_path / "logs" / "orchestrator.log").read_text("utf-8").splitlines()]

    yield read
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        if handler not in handlers:
            handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    logging.raiseExceptions = strict
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    structlog.configure(**configured)


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text,
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
        lambda text: base64.b64encode(f"user:{text}".encode()).decode(),
        lambda text: text.encode().hex(),
        lambda text: text.encode().hex().upper(),
        lambda text: urllib.parse.quote(text),
        lambda text: urllib.parse.quote_plus(text),
        lambda text: urllib.parse.quote(text, safe=""),
        json.dumps,
        lambda text: json.dumps(text, ensure_ascii=False),
        html.escape,
        lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    ],
)
def test_an_open_value_is_taken_out_in_every_encoding(encode: Callable[[str], str]) -> None:
    redactor = Redactor()
    text = f"before {encode(TOKEN)} after"
    with redactor.holding(VALUE):
        cleaned = redactor.clean(text)
    assert cleaned.startswith("before ")
    assert cleaned.endswith(" after")
    assert "[credential removed]" in cleaned
    assert "0123456789" not in urllib.parse.unquote(cleaned)
    assert redactor.clean(text) == text, "it is no longer open"


def test_a_value_that_two_calls_hold_stays_out_until_both_have_ended() -> None:
    redactor = Redactor()
    with redactor.holding(VALUE):
        with redactor.holding(VALUE):
            pass
        assert TOKEN not in redactor.clean(TOKEN)
    assert redactor.clean(TOKEN) == TOKEN


def test_a_value_is_forgotten_when_its_call_fails() -> None:
    redactor = Redactor()
    with contextlib.suppress(KeyError), redactor.holding(VALUE):
        raise KeyError
    assert redactor.clean(TOKEN) == TOKEN


def test_a_value_too_short_to_tell_from_other_text_changes_nothing() -> None:
    redactor = Redactor()
    with redactor.holding(Sensitive("a")):
        assert redactor.clean("a cat") == "a cat"


def test_several_open_values_are_all_taken_out() -> None:
    redactor = Redactor()
    values = [Sensitive(f"secret-value-{number}") for number in range(50)]
    with contextlib.ExitStack() as stack:
        for value in values:
            stack.enter_context(redactor.holding(value))
        assert "secret-value" not in redactor.clean(" ".join(value.reveal_text() for value in values))


def test_a_line_of_any_logger_is_cleaned(lines: Lines, redactor: Redactor) -> None:
    with redactor.holding(VALUE):
        logging.getLogger("somebody.elses").warning("header %s", TOKEN, extra={"more": TOKEN})
        logging.getLogger("aiohttp.client").error("sent %r", {"Authorization": f"Bearer {TOKEN}"})
        structlog.stdlib.get_logger("ours").warning("event", field=TOKEN, nested={"deep": [TOKEN]})
    found = lines()
    assert len(found) == 3
    assert "0123456789" not in json.dumps(found)
    assert json.dumps(found).count("[credential removed]") == 4


def fail() -> None:
    local = TOKEN  # noqa: F841 - for a traceback to show
    try:
        raise ValueError(f"the cause says {TOKEN}")
    except ValueError as error:
        error.add_note(TOKEN)
        inner = ExceptionGroup(f"more {TOKEN}", [RuntimeError(f"deep {TOKEN}")])
        raise ExceptionGroup(f"a group {TOKEN}", [KeyError(TOKEN), inner]) from error


def test_a_traceback_has_neither_locals_nor_what_exceptions_say(lines: Lines) -> None:
    try:
        fail()
    except ExceptionGroup:
        logging.getLogger("x").exception("it failed")
        structlog.stdlib.get_logger("y").exception("it failed")
    found = lines()
    text = json.dumps(found)
    assert "0123456789" not in text
    for said in ("ExceptionGroup", "KeyError", "RuntimeError", "ValueError", '"name": "fail"'):
        assert text.count(said) >= 2, said


def test_a_line_of_source_that_does_not_parse_is_not_logged(lines: Lines) -> None:
    try:
        compile(f"token = = '{TOKEN}'", "config", "exec")
    except SyntaxError:
        logging.getLogger("x").exception("it failed")
    assert "0123456789" not in json.dumps(lines())


def test_a_record_that_cannot_be_formatted_is_not_printed_as_it_is(lines: Lines, capfd: Any) -> None:
    logging.getLogger("x").error("a number: %d", TOKEN)
    captured = capfd.readouterr()
    assert "0123456789" not in captured.err + captured.out
    assert lines() == []


async def test_a_task_whose_exception_nobody_took_is_logged_without_what_it_says(lines: Lines) -> None:
    async def lost() -> None:
        raise ValueError(TOKEN)

    task = asyncio.create_task(lost())
    await asyncio.wait([task])
    del task
    gc.collect()
    found = lines()
    assert [line["event"] for line in found] == ["Task exception was never retrieved"]
    assert "0123456789" not in json.dumps(found)


def test_the_log_lies_in_a_folder_of_its_owner_alone(lines: Lines, tmp_path: Path) -> None:
    assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700


def test_a_client_library_logs_nothing_below_a_warning(lines: Lines) -> None:
    for name in ("aiohttp.client", "psycopg.pool", "mcp.server", "uvicorn.access", "asyncio"):
        logging.getLogger(name).debug("a header: %s", TOKEN)
        logging.getLogger(name).info("a header: %s", TOKEN)
    assert lines() == []


def test_the_log_is_bounded_and_no_record_is_cut_in_two(
    lines: Lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bounded"
    monkeypatch.setattr(logs, "MOST_BYTES", 2000)
    monkeypatch.setattr(logs, "KEPT_FILES", 2)
    start_logging(Redactor(), folder=folder, level="info")
    for number in range(200):
        logging.getLogger("company_agents.tests").info("record %d", number)
    files = {file.name: file.read_text("utf-8") for file in folder.iterdir()}
    assert set(files) == {"orchestrator.log", "orchestrator.log.1", "orchestrator.log.2"}
    assert all(0 < len(text) < 2500 for text in files.values())
    newest = [json.loads(line)["event"] for line in files["orchestrator.log"].splitlines()]
    assert newest[-1] == "record 199"
