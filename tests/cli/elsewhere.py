"""
What happens beside the commands of a transcript, in its words; and what they have changed.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psycopg

from company_agents.db.embedded import join
from tests.cli.standin import StandIn


class Elsewhere:
    """The provider, and the home that the commands are typed on."""

    def __init__(self, home: Path, slack: StandIn) -> None:
        self.home = home
        self.slack = slack
        self._stack = contextlib.ExitStack()
        self._database: psycopg.Connection | None = None

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
            "its database starts": self.start,
            r"in its database: (.+)": self._sql,
            r"chmod ([0-7]+) (/\S+)": lambda mode, path: Path(path).chmod(int(mode, 8)),
            r"mv (/\S+) (/\S+)": lambda old, new: Path(old).rename(new),
            r"a key is put into (/\S+)": self._put_key,
            r"config.toml says (\w+) = (.+)": self._says,
            r"(\S+) begins a run at (\S+)": self._begins,
            r"(\S+) asks to post '(.*)' at (\S+)": self._asks,
            r"slack takes (\S+) from now on": self._takes,
            r"slack answers (\d+) (.*)": self._answers,
        }

    def start(self) -> None:
        """Start the database of the home, or join it. Held, because each command would start it anew."""
        member = self._stack.enter_context(join(self.home))
        address = member.database.conninfo("postgres")
        self._database = self._stack.enter_context(psycopg.connect(address, autocommit=True))

    def state(self) -> dict[str, str] | None:
        """
        Every table but the record of what happened, and without when a secret was last opened; nor what changes by
        itself: the signs of life of orchestrators, the number of who last looked at the keys to change them, and when a credential
        is tried at its provider. None before there is a table.
        """
        if self._database is None:
            return {}
        tables = self._database.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        names = sorted(
            {name for (name,) in tables.fetchall() if not name.startswith("audit_")} - {"replicas", "key_fence"}
        )
        if not names:
            return None
        rows = "(to_jsonb(t) - '{last_used_at,probed_at,probe_due_at}'::text[])::text"
        asked = [f"SELECT '{name}', md5(string_agg({rows}, ' ' ORDER BY {rows})) FROM {name} t" for name in names]
        return dict(self._database.execute(" UNION ALL ".join(asked).encode()).fetchall())

    def _sql(self, statement: str) -> None:
        assert self._database is not None
        changed = self._database.execute(statement.encode())
        assert changed.rowcount == 1, f"{statement} changed {changed.rowcount} rows"

    def _put_key(self, path: str) -> None:
        file = Path(path)
        file.parent.mkdir(mode=0o700, exist_ok=True)
        file.write_bytes(secrets.token_bytes(32))
        file.chmod(0o600)

    def _begins(self, token: str, address: str) -> None:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(address, b'{"purpose": "count the stars"}', headers)
        # No proxy of the environment stands between this and our own machine.
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).close()

    def _asks(self, token: str, text: str, address: str) -> None:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        call = {"method": "POST", "path": "/api/chat.postMessage", "body": {"text": text}}
        request = urllib.request.Request(address, json.dumps(call).encode(), headers)
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).close()
        except urllib.error.HTTPError as error:
            assert error.code == 403, error.read()
        else:
            raise AssertionError("nobody was asked")

    def _says(self, name: str, value: str) -> None:
        file = self.home / "config.toml"
        file.write_text(f'{name} = "{value}"\n')
        file.chmod(0o600)

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
