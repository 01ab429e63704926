"""
A strict stand-in for Slack in a thread of the test: it takes one bearer and no other.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

TOKEN = "xoxb-17-stand-in-token-of-the-tests"


@dataclass
class StandIn:
    """Where it is, what has arrived, and whom it takes. `answer` may take a request over."""

    url: str = ""
    token: str = TOKEN
    seen: list[dict[str, Any]] = field(default_factory=list)
    answer: Callable[[http.server.BaseHTTPRequestHandler, bytes], bool] | None = None


@contextlib.contextmanager
def stand_in() -> Iterator[StandIn]:
    """Start it on a free port of this machine."""
    found = StandIn()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found.seen.append({"method": self.command, "path": self.path, "body": body.decode()})
            if found.answer is not None and found.answer(self, body):
                return
            if self.headers.get_all("Authorization") != [f"Bearer {found.token}"]:
                self._send({"ok": False, "error": "invalid_auth"})
            elif self.path == "/api/auth.test":
                self._send({"ok": True, "team": "Stand-in"})
            else:
                self._send({"ok": True, "message": json.loads(body or b"null")})

        do_GET = do_POST

        def _send(self, reply: dict[str, Any]) -> None:
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Not to standard error."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
