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
from tests.dashboard.people import BROWSER
from tests.promises.canary.search import Place


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

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.url = ""
        self.said: list[Place] = []

    def keep(self, name: str, data: bytes, shown: Iterable[str] = ()) -> None:
        """Something that was said."""
        self.said.append(Place(name, data, frozenset(shown)))

    def cli(self, *words: str, given: bytes | str = b"", shown: Iterable[str] = (), name: str = "") -> Done:
        """A command."""
        done = self.machine.run(*words, given=given)
        place = name or f"`{' '.join(words)}`"
        self.keep(f"standard output of {place}", done.out.encode(), shown)
        self.keep(f"standard error of {place}", done.err.encode())
        return done

    def json(self, *words: str, **options: Any) -> Any:
        """A command that does what it is asked."""
        done = self.cli(*words, "--json", **options)
        assert done.status == 0, done.err or done.out
        return done.json

    def http(
        self, method: str, path: str, data: bytes = b"", shown: Iterable[str] = (), name: str = "", **headers: str
    ) -> Answer:
        """A request as it is."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=SLOWEST)
        try:
            named = {key.replace("_", "-"): value for key, value in headers.items()}
            connection.request(method, path, data or None, named)
            reply = connection.getresponse()
            answer = Answer(reply.status, reply.getheaders(), reply.read())
        finally:
            connection.close()
        head = "".join(f"{key}: {value}\n" for key, value in answer.headers)
        self.keep(f"answer to {name or f'{method} {path}'}", head.encode() + b"\n" + answer.data, shown)
        return answer

    def rest(self, token: str, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """A request of a program."""
        data = b"" if body is None else json.dumps(body).encode()
        more = {"Content_Type": "application/json"} if data else {}
        return self.http(method, path, data, Authorization=f"Bearer {token}", **more, **options)

    def page(self, cookie: str, path: str, form: Mapping[str, str] | None = None, **options: Any) -> Answer:
        """A page, or a form that is sent."""
        headers = {name.replace("-", "_"): value for name, value in BROWSER.items()}
        headers |= {"Cookie": f"company_agents={cookie}"} if cookie else {}
        if form is None:
            return self.http("GET", path, **headers, **options)
        kind = "application/x-www-form-urlencoded"
        return self.http("POST", path, urlencode(form).encode(), Content_Type=kind, **headers, **options)

    def tool(self, token: str, tool: str, arguments: Any, name: str = "") -> Answer:
        """A call of an agent's client."""
        return self.rpc(token, "tools/call", {"name": tool, "arguments": arguments}, name or f"tool {tool}")

    def rpc(self, token: str, method: str, params: Any, name: str, **headers: str) -> Answer:
        """Any message of an agent's client."""
        version = LATEST_MODERN_VERSION
        if isinstance(params, dict):
            meta = {
                "protocolVersion": version,
                "clientInfo": {"name": "test", "version": "1"},
                "clientCapabilities": {},
            }
            params = {**params, "_meta": {f"io.modelcontextprotocol/{key}": value for key, value in meta.items()}}
            headers = {**({"Mcp_Name": str(params["name"])} if "name" in params else {}), **headers}
        sent = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        given = {
            "Authorization": f"Bearer {token}",
            "Content_Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP_Protocol_Version": version,
            "Mcp_Method": method,
        }
        return self.http("POST", "/mcp", json.dumps(sent).encode(), name=name, **{**given, **headers})
