"""
The log: one JSON line per record, fields from a list, and no value that this process holds open.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import logging.handlers
import os
import sys
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from company_agents.outgoing.reply_search import SHORTEST, Patterns, Searcher
from company_agents.sensitive import Sensitive

# Whatever the client libraries of key sources say below a warning: botocore's debug lines hold bodies, and keys.
_KEY_SOURCES = ("boto3", "botocore", "azure", "msal", "google", "grpc", "hvac", "requests", "urllib3")

# A reply that breaks off is left without an end on purpose, and said in a line of our own; this is the server's for each.
_SAID_ALREADY = ("uvicorn.error", "ASGI callable returned without completing response.")

MOST_BYTES = 10 * 1024 * 1024
KEPT_FILES = 5


class Redactor:
    """
    Knows the values that are open right now, and takes them out of every record, in all the encodings in which
    replies are searched for them.
    """

    def __init__(self) -> None:
        self._held: dict[object, _Held] = {}

    @contextlib.contextmanager
    def holding(self, value: Sensitive) -> Iterator[None]:
        """Take this value out of what is logged meanwhile. One that is under 8 bytes cannot be told from other text."""
        # Not the value itself: two calls may hold the same one, and the first to end must not take it from the other.
        ticket = object()
        if len(value) >= SHORTEST:
            self._held[ticket] = _Held(value)
        try:
            yield
        finally:
            self._held.pop(ticket, None)

    def clean(self, text: str) -> str:
        """The text without the values that are open."""
        held = list(self._held.values())
        if not held:
            return text
        data = text.encode(errors="replace")
        # Once for each value, however many calls hold it.
        for patterns in {value.patterns for value in held}:
            data = Searcher(patterns).scrub(data)
        return data.decode(errors="replace")


@dataclass
class _Held:
    value: Sensitive

    @functools.cached_property
    def patterns(self) -> Patterns:
        """Made when something is logged, which during most calls is never."""
        return Patterns.shared([self.value])


class _RedactingFormatter(structlog.stdlib.ProcessorFormatter):
    def __init__(self, redactor: Redactor) -> None:
        super().__init__(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # The default shows local variables, and some of ours are secrets.
                structlog.processors.ExceptionRenderer(
                    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
                ),
                _without_messages,
                _first_line_of_asyncio,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        return self._redactor.clean(super().format(record))


class _BoundedFile(logging.handlers.RotatingFileHandler):
    def shouldRollover(self, record: logging.LogRecord) -> bool:
        # The default formats each record once more, to know its length beforehand. A line over is no harm.
        return self.stream is not None and os.fstat(self.stream.fileno()).st_size >= self.maxBytes


_SHARED: list[Any] = [
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def _without_messages(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # What a foreign exception says of itself may quote a value; its type and where it was raised do not.
    for entry in _exceptions(event.get("exception")):
        entry["exc_value"] = ""
        entry.pop("exc_notes", None)
        entry.pop("syntax_error", None)
    return event


def _exceptions(found: Any) -> Iterator[dict[str, Any]]:
    """Each one, its causes, and those in a group."""
    for entry in found if isinstance(found, list) else ():
        if isinstance(entry, dict):
            yield entry
            for inner in entry.get("exceptions") or ():
                yield from _exceptions(inner)


def _first_line_of_asyncio(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # The others hold the repr of a task with its exception, or of a callback with its arguments.
    if event.get("logger") == "asyncio":
        event["event"] = str(event["event"]).partition("\n")[0]
    return event


def _is_news(record: logging.LogRecord) -> bool:
    return (record.name, record.msg) != _SAID_ALREADY


def start_logging(redactor: Redactor, *, folder: Path | None, level: str) -> None:
    """
    Send all records to `orchestrator.log` in the folder, in bounded size, and warnings to standard error as well.
    """
    # Where a record cannot be formatted, the default prints it with its arguments to standard error, as they are.
    logging.raiseExceptions = False
    formatter = _RedactingFormatter(redactor)
    handlers: list[logging.Handler] = []
    if folder is not None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handlers.append(
            _BoundedFile(folder / "orchestrator.log", maxBytes=MOST_BYTES, backupCount=KEPT_FILES, encoding="utf-8")
        )
    errors = logging.StreamHandler(sys.stderr)
    errors.setLevel(logging.WARNING)
    handlers.append(errors)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        if isinstance(old, _BoundedFile):
            old.close()
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(level.upper())
    # A line per request of ours is enough, and a client library's debug line may hold a header, or a whole body.
    for name in ("uvicorn.access", "aiohttp", "mcp", "asyncio", "psycopg", "httpx2", "httpcore2", *_KEY_SOURCES):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger(_SAID_ALREADY[0]).addFilter(_is_news)
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
