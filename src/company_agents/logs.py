"""
The log: one JSON line per record, fields from a list, and no value that this process holds open.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import structlog

from company_agents.outgoing.reply_search import Patterns, Searcher
from company_agents.sensitive import Sensitive

MOST_BYTES = 10 * 1024 * 1024
KEPT_FILES = 5


class Redactor:
    """
    Knows the values that are open right now, and takes them out of every record, in all the encodings in which
    replies are searched for them.
    """

    def __init__(self) -> None:
        self._held: dict[int, Sensitive] = {}

    @contextlib.contextmanager
    def holding(self, value: Sensitive) -> Iterator[None]:
        """Take this value out of what is logged meanwhile."""
        ticket = id(value)
        self._held[ticket] = value
        try:
            yield
        finally:
            self._held.pop(ticket, None)

    def clean(self, text: str) -> str:
        """The text without the values that are open."""
        values = [value for value in self._held.values() if len(value) >= 8]
        if not values:
            return text
        searcher = Searcher(Patterns(values))
        return (searcher.feed(text.encode(errors="replace")) + searcher.finish()).decode(errors="replace")


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
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        return self._redactor.clean(super().format(record))


_SHARED: list[Any] = [
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def _without_messages(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # What a foreign exception says of itself may quote a value; its type and where it was raised do not.
    for entry in event.get("exception") or ():
        if isinstance(entry, dict):
            entry["exc_value"] = ""
            entry.pop("exc_notes", None)
    return event


def start_logging(redactor: Redactor, *, folder: Path | None, level: str) -> None:
    """
    Send all records to `orchestrator.log` in the folder, in bounded size, and warnings to standard error as well.
    """
    formatter = _RedactingFormatter(redactor)
    handlers: list[logging.Handler] = []
    if folder is not None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handlers.append(
            logging.handlers.RotatingFileHandler(
                folder / "orchestrator.log", maxBytes=MOST_BYTES, backupCount=KEPT_FILES, encoding="utf-8"
            )
        )
    errors = logging.StreamHandler(sys.stderr)
    errors.setLevel(logging.WARNING)
    handlers.append(errors)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(level.upper())
    # A line per request of ours is enough, and a client library's debug line may hold a header.
    for name in ("uvicorn.access", "aiohttp", "mcp", "asyncio", "psycopg", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
