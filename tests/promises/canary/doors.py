"""
Every door of a running instance, and all that it says, kept to be searched.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from mcp_types.version import LATEST_MODERN_VERSION

from tests.cli.processes import SLOWEST, Done, Machine
from tests.cli.warm import Run
from tests.dashboard.people import BROWSER
from tests.promises.canary.search import Place

_META = {
    "protocolVersion": LATEST_MODERN_VERSION,
    "clientInfo": {"name": "test", "version": "1"},
    "clientCapabilities": {},
}


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: list[tuple[str, str]]
    data: bytes

    @property
    def text(self) -> str:
        return self.data.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    def header(self, name: str) -> str:
        return {key.lower(): value for key, value in self.headers}[name]


class Doors:
    """What is said by whichever door, with the canaries that it shows to their owner there (`shown`)."""

    def __init__(self, machine: Machine, run: Run) -> None:
        self.machine = machine
        self.quickly = run
        self.url = ""
        self.said: list[Place] = []

    def keep(self, name: str, data: bytes, shown: Iterable[str] = ()) -> None:
        """Something that was said."""
        self.said.append(Place(name, data, frozenset(shown)))

    def cli(self, *words: str, given: bytes | str = b"", shown: Iterable[str] = (), name: str = "") -> Done:
        """A command; one that is given something is a process of its own."""
        done = self.machine.run(*words, given=given) if given else self.quickly(*words)
        self.keep(f"standard output of {name or ' '.join(words)}", done.out.encode(), shown)
        self.keep(f"standard error of {name or ' '.join(words)}", done.err.encode())
        return done

    def json(self, *words: str, shown: Iterable[str] = ()) -> Any:
        """A command that does what it is asked."""
        done = self.cli(*words, "--json", shown=shown)
        assert done.status == 0, done.err or done.out
        return done.json

    def http(
        self,
        method: str,
        path: str,
        data: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        shown: Iterable[str] = (),
        name: str = "",
    ) -> Answer:
        """A request as it is."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=SLOWEST)
        try:
            connection.request(method, path, data or None, dict(headers or {}))
            reply = connection.getresponse()
            answer = Answer(reply.status, reply.getheaders(), reply.read())
        finally:
            connection.close()
        head = "".join(f"{key}: {value}\n" for key, value in answer.headers)
        self.keep(f"answer to {name or f'{method} {path}'}", head.encode() + b"\n" + answer.data, shown)
        return answer

    def rest(
        self,
        token: str,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Answer:
        """A request of a program."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"} if data else {}
        return self.http(method, path, data, {**bearer(token), **kind, **(headers or {})}, **options)

    def page(self, cookie: str, path: str, form: Mapping[str, str] | None = None, **options: Any) -> Answer:
        """A page, or a form that is sent."""
        headers = {**BROWSER, "Cookie": f"company_agents={cookie}"} if cookie else BROWSER
        if form is None:
            return self.http("GET", path, b"", headers, **options)
        headers = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
        return self.http("POST", path, urlencode(form).encode(), headers, **options)

    def tool(self, token: str, tool: str, arguments: Any, name: str = "") -> Answer:
        """A call of an agent's client."""
        return self.rpc(token, "tools/call", {"name": tool, "arguments": arguments}, name=name or f"tool {tool}")

    def rpc(
        self,
        token: str,
        method: str,
        params: Any,
        headers: Mapping[str, str] | None = None,
        *,
        name: str,
        shown: Iterable[str] = (),
    ) -> Answer:
        """Any message of an agent's client."""
        given = {
            **bearer(token),
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": LATEST_MODERN_VERSION,
            "Mcp-Method": method,
        }
        if isinstance(params, dict):
            given |= {"Mcp-Name": params["name"]} if "name" in params else {}
            params = {**params, "_meta": {f"io.modelcontextprotocol/{key}": value for key, value in _META.items()}}
        sent = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        head = {**given, **(headers or {})}
        return self.http("POST", "/mcp", json.dumps(sent).encode(), head, name=name, shown=shown)


def bearer(token: str) -> dict[str, str]:
    """The header of who has a token."""
    return {"Authorization": f"Bearer {token}"}
