"""
What happens beside the commands of a transcript, in its words.
"""

from __future__ import annotations

import contextlib
import http.server
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psycopg

from company_agents.db.embedded import Membership, join
from tests.cli.standin import StandIn


class Elsewhere:
    """The provider, and the home that the commands are typed on."""

    def __init__(self, home: Path, slack: StandIn) -> None:
        self.home = home
        self.slack = slack
        self._stack = contextlib.ExitStack()
        self._member: Membership | None = None

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def happen(self, event: str) -> None:
        """Make it so."""
        for pattern, how in self._events().items():
            if found := re.fullmatch(pattern, event):
                how(*found.groups())
                return
        raise AssertionError(f"nobody knows how this happens: {event}")

    def _events(self) -> dict[str, Callable[..., object]]:
        return {
            "a home of its own": lambda: None,
            "its database starts": self._start,
            r"in its database: (.+)": self._sql,
            r"chmod ([0-7]+) (/\S+)": lambda mode, path: Path(path).chmod(int(mode, 8)),
            r"mv (/\S+) (/\S+)": lambda old, new: Path(old).rename(new),
            r"slack takes (\S+) from now on": self._takes,
            r"slack answers (\d+) (.*)": self._answers,
        }

    def _start(self) -> None:
        # Held, because each command would start it anew.
        self._member = self._stack.enter_context(join(self.home))

    def _sql(self, statement: str) -> None:
        assert self._member is not None
        with psycopg.connect(self._member.database.conninfo("postgres"), autocommit=True) as connection:
            changed = connection.execute(statement.encode())
            assert changed.rowcount == 1, f"{statement} changed {changed.rowcount} rows"

    def _takes(self, token: str) -> None:
        self.slack.token, self.slack.answer = token, None

    def _answers(self, status: str, text: str) -> None:
        body = text.encode()

        def answer(handler: http.server.BaseHTTPRequestHandler, _: bytes) -> bool:
            handler.send_response(int(status))
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
            return True

        self.slack.answer = answer
