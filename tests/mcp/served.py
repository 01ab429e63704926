"""
The door on a real socket, and clients of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import uvicorn
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp_types import CallToolResult
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_MODERN_VERSION

from company_agents.app import App
from company_agents.mcp_server import mcp_door

JSON = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@dataclasses.dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclasses.dataclass(frozen=True)
class Served:
    """A door that is open."""

    app: App
    url: str
    http: aiohttp.ClientSession

    async def send(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, data: bytes | None = None
    ) -> Answer:
        async with self.http.request(method, self.url + path, headers=headers, data=data) as reply:
            return Answer(reply.status, reply.headers, await reply.text())

    async def rpc(
        self,
        token: str | None,
        method: str,
        params: dict[str, Any] | None = None,
        version: str = LATEST_MODERN_VERSION,
        **headers: str,
    ) -> Answer:
        """One JSON-RPC request by hand, as a client of that revision sends it."""
        sent, params = {**JSON, "mcp-protocol-version": version, **headers}, dict(params or {})
        if token is not None:
            sent["authorization"] = f"Bearer {token}"
        if version not in HANDSHAKE_PROTOCOL_VERSIONS:
            sent["mcp-method"] = method
            if "name" in params:
                sent["mcp-name"] = params["name"]
            params["_meta"] = {
                "io.modelcontextprotocol/protocolVersion": version,
                "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": {},
            }
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return await self.send("POST", "/mcp", sent, json.dumps(body).encode())

    async def call(
        self, token: str | None, tool: str, arguments: dict[str, Any], version: str = LATEST_MODERN_VERSION
    ) -> Answer:
        """One call of a tool by hand."""
        return await self.rpc(token, "tools/call", {"name": tool, "arguments": arguments}, version)

    @contextlib.asynccontextmanager
    async def client(self, token: str, mode: str = "auto") -> AsyncIterator[Client]:
        """The SDK's client."""
        async with (
            create_mcp_http_client(headers={"authorization": f"Bearer {token}"}) as http,
            Client(streamable_http_client(f"{self.url}/mcp", http_client=http), mode=mode) as client,
        ):
            yield client


async def use(client: Client, tool: str, **arguments: Any) -> Any:
    """Call a tool that gives a result: it has it as a value and as text."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, _text(result)
    assert json.loads(_text(result)) == result.structured_content
    return result.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> dict[str, str]:
    """Call a tool that refuses: what it says."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    said = json.loads(_text(result))
    assert said.keys() == {"error"}
    assert said["error"].keys() == {"code", "message", "hint"}
    error: dict[str, str] = said["error"]
    return error


def _text(result: CallToolResult) -> str:
    [content] = result.content
    assert content.type == "text"
    return content.text


@contextlib.asynccontextmanager
async def served(app: App, url: str | None = None) -> AsyncIterator[Served]:
    """Open the door of an app on a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = dataclasses.replace(app, settings=app.settings.model_copy(update={"public_url": url or here}))
        door = mcp_door(app)
        server = _Server(uvicorn.Config(door.asgi, log_config=None, lifespan="off", access_log=False))

        async def run() -> None:
            # In one task from end to end: the SDK's task group wants to be left by the task that entered it.
            async with door.lifespan():
                await server.serve(sockets=[listener])

        running = asyncio.create_task(run())
        await server.ready.wait()
        try:
            async with aiohttp.ClientSession() as http:
                yield Served(app, here, http)
        finally:
            server.should_exit = True
            await running
