"""
A stand-in for Slack that repeats the credential in whatever way it is asked to, and misbehaves.
"""

from __future__ import annotations

import contextlib
import gzip
import html
import http.server
import json
import threading
import zlib
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from tests.cli.standin import StandIn, stand_in

Handler = http.server.BaseHTTPRequestHandler


@dataclass(frozen=True)
class Echo:
    """An answer, whole: what `http.server` would make of it is none of ours."""

    body: bytes = b""
    headers: dict[str, bytes] = field(default_factory=dict)
    status: bytes = b"200 OK"
    # More than there is: the connection breaks off in the middle.
    missing: int = 0

    def raw(self) -> bytes:
        head = {"Connection": b"close", "Content-Type": b"text/plain"}
        if "Transfer-Encoding" not in self.headers:
            head["Content-Length"] = str(len(self.body) + self.missing).encode()
        head |= self.headers
        lines = [b"HTTP/1.1 " + self.status, *(name.encode() + b": " + value for name, value in head.items())]
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body


def _json(text: str) -> Echo:
    return Echo(b'{"token": "' + text.encode() + b'"}', {"Content-Type": b"application/json"})


def _everywhere(form: bytes) -> Echo:
    return Echo(b"you sent " + form + b", did you?", {"X-Echo": form})


def _in_pieces(token: bytes) -> Echo:
    chunks = b"".join(b"1\r\n" + token[at : at + 1] + b"\r\n" for at in range(len(token)))
    return Echo(chunks + b"0\r\n\r\n", {"Transfer-Encoding": b"chunked"})


def _escaped_json(token: bytes) -> str:
    return json.dumps(token.decode())[1:-1]


def _gson(token: bytes) -> str:
    return "".join(
        f"\\u{ord(char):04x}" if char in "<>&='" else _escaped_json(char.encode()) for char in token.decode()
    )


# The forms that come back are searched, and the words that stand in their place are there.
ECHOES: dict[str, Callable[[bytes], Echo]] = {
    "plain": _everywhere,
    "base64": lambda token: _everywhere(b64encode(token)),
    "base64-after-one": lambda token: _everywhere(b64encode(b":" + token + b"::")),
    "base64-after-two": lambda token: _everywhere(urlsafe_b64encode(b"u:" + token + b":")),
    "hex": lambda token: _everywhere(token.hex().encode()),
    "hex-capital": lambda token: _everywhere(token.hex().upper().encode()),
    "percent": lambda token: _everywhere(quote(token, safe="").encode()),
    "percent-some": lambda token: _everywhere(quote(token).encode()),
    "json": lambda token: _json(_escaped_json(token)),
    "json-slashes": lambda token: _json(_escaped_json(token).replace("/", "\\/")),
    "json-throughout": lambda token: _json("".join(f"\\u{char:04x}" for char in token)),
    "json-gson": lambda token: _json(_gson(token)),
    "html": lambda token: _everywhere(html.escape(token.decode()).encode()),
    "gzip": lambda token: Echo(gzip.compress(b"you sent " + token), {"Content-Encoding": b"gzip"}),
    "deflate": lambda token: Echo(zlib.compress(b"you sent " + token), {"Content-Encoding": b"deflate"}),
    "pieces": _in_pieces,
    "binary": lambda token: Echo(b"\xff\x00" + token, {"X-Echo": b"\xe9" + token}),
    "not-json": lambda token: Echo(b'{"token": ' + token, {"Content-Type": b"application/json"}),
    "error": lambda token: Echo(b"cannot use " + token, {"X-Echo": token}, b"500 Internal Server Error"),
    "refused": lambda token: Echo(b"cannot use " + token, {"WWW-Authenticate": token}, b"401 Unauthorized"),
}
# What does not come back at all, or without what is repeated.
FAULTS: dict[str, Callable[[bytes], Echo]] = {
    "name": lambda token: Echo(b"see the headers", {f"X-{token.hex()}": b"1"}),
    "cookie": lambda token: Echo(b"see the cookie", {"Set-Cookie": b"session=" + token}),
    "reason": lambda token: Echo(b"see the status", status=b"200 " + token),
    "broken-off": lambda token: Echo(b"you sent " + token, missing=100),
    "bad-gzip": lambda token: Echo(b"you sent " + token, {"Content-Encoding": b"gzip"}),
    "unknown-coding": lambda token: Echo(b"you sent " + token, {"Content-Encoding": token.hex().encode()}),
    "part": lambda token: Echo(token, {"Content-Range": b"bytes 0-9/99"}, b"206 Partial Content"),
    "no-http": lambda token: Echo(status=b"\x00" + token),
}


class EchoingSlack:
    """`good` are the tokens that it takes; `held` is set while it has a request that it does not answer."""

    def __init__(self, standin: StandIn, elsewhere: StandIn) -> None:
        self.url = standin.url
        self.good: set[str] = set()
        # What an approved request is answered with, beside the credential.
        self.said = b""
        self.held = threading.Event()
        self.let_go = threading.Event()
        self.elsewhere = elsewhere
        standin.answer = self.answer

    def answer(self, handler: Handler, body: bytes) -> bool:
        """Every request."""
        token = handler.headers.get("X-Api-Key") or handler.headers.get("Authorization", "").removeprefix("Bearer ")
        path = urlsplit(handler.path).path
        handler.wfile.write(self._reply(path, token.encode()).raw())
        handler.close_connection = True
        return True

    def _reply(self, path: str, token: bytes) -> Echo:
        shape = path.rpartition("/")[2]
        if path == "/api/auth.test":
            return self._probe(token.decode())
        if shape in ECHOES or shape in FAULTS:
            return (ECHOES | FAULTS)[shape](token)
        if shape == "elsewhere":
            return Echo(token, {"Location": f"{self.elsewhere.url}/?t={quote(token)}".encode()}, b"302 Found")
        if shape == "onwards":
            return Echo(token, {"Location": b"/echo/plain?t=" + quote(token).encode()}, b"307 Temporary Redirect")
        if shape == "approved":
            return Echo(b"it is done: " + self.said + b" with " + token)
        if shape == "hold":
            self.held.set()
            self.let_go.wait(60)
        return Echo(b"fine")

    def _probe(self, token: str) -> Echo:
        if token in self.good:
            return Echo(json.dumps({"ok": True, "team": token}).encode(), {"X-OAuth-Scopes": f"all,{token}".encode()})
        said = {"ok": False, "error": f"there is no token {token}"}
        return Echo(json.dumps(said).encode(), {"X-Echo": token.encode()})


@contextlib.contextmanager
def echoing_slack() -> Iterator[EchoingSlack]:
    """Start it, and another host that is to get nothing."""
    with stand_in() as standin, stand_in() as elsewhere:
        slack = EchoingSlack(standin, elsewhere)
        try:
            yield slack
        finally:
            slack.let_go.set()
