"""
A provider of models that checks its key and answers what it is told to.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from company_agents.app import App
from company_agents.identity.principal import Caller
from company_agents.integrations.integrations import Integration
from company_agents.outgoing.client import OutgoingRequest
from company_agents.sensitive import Sensitive
from tests.api.conftest import serving
from tests.conftest import Tenant
from tests.promises.evidence import Past, connect_past

KEY = "sk-ant-a-key-that-the-provider-knows-0001"
SONNET = "claude-sonnet-4-6"


@dataclass
class Model:
    """Answers each POST with the next of `answers`, or else with `usual`; keeps what was sent."""

    url: str = ""
    usual: tuple[str, bytes] = ("application/json", b"{}")
    answers: list[tuple[str, bytes]] = field(default_factory=list)
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    # Set: a reply stops after its first half until then, or for ever.
    go_on: asyncio.Event | None = None
    halfway: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        given = dict(scope["headers"])
        known = given.get(b"x-api-key", b"").decode() == KEY or given.get(b"authorization") == f"Bearer {KEY}".encode()
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if scope["method"] == "POST":
            self.sent.append((scope["path"], body))
        kind, text = ("application/json", b"{}") if scope["method"] == "GET" else self.usual
        if scope["method"] == "POST" and self.answers:
            kind, text = self.answers.pop(0)
        headers = [(b"content-type", kind.encode())]
        await send({"type": "http.response.start", "status": 200 if known else 401, "headers": headers})
        half = len(text) // 2
        await send({"type": "http.response.body", "body": text[:half], "more_body": True})
        if self.go_on is not None and scope["method"] == "POST":
            self.halfway.set()
            await self.go_on.wait()
        await send({"type": "http.response.body", "body": text[half:]})


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    found = Model()
    async with serving(found) as url:
        found.url = url
        yield found
        if found.go_on is not None:
            found.go_on.set()


@pytest.fixture(scope="session")
async def superuser(app: App) -> AsyncIterator[Past]:
    async with await connect_past(app, "postgres") as connection:
        yield connection


Connect = Callable[..., Awaitable[Integration]]


@pytest.fixture
def connect(app: App, model: Model) -> Connect:
    """Connects a tenant's agent to a provider of models, at the address of the stand-in."""

    async def connected(tenant: Tenant, provider: str = "anthropic") -> Integration:
        return await app.integrations.connect(
            tenant.local,
            provider,
            Sensitive(KEY),
            name=f"{provider} {uuid.uuid4().hex[:6]}",
            base_url=model.url,
            allow_private_network=True,
            allow_all=True,
        )

    return connected


def message(model: str = SONNET, tokens_in: int = 1000, tokens_out: int = 200, **more: Any) -> tuple[str, bytes]:
    """A whole reply of the Messages API."""
    usage = {"input_tokens": tokens_in, "output_tokens": tokens_out, **more}
    body = {"type": "message", "model": model, "content": [{"type": "text", "text": "Hi"}], "usage": usage}
    return "application/json", json.dumps(body).encode()


async def call(app: App, caller: Caller, integration: Integration, body: Any = None, path: str = "/v1/messages") -> Any:
    """One call whose reply is read as a whole, as a tool makes it."""
    asked = {"model": SONNET, "messages": [{"role": "user", "content": "Hello"}]} if body is None else body
    return await app.requests.request(caller, str(integration.id), "POST", path, body=asked)


def streamed(pieces: list[bytes], path: str = "/v1/messages", kind: str = "application/json") -> OutgoingRequest:
    """A request whose body comes in pieces, as a client of the gateway sends it."""

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return OutgoingRequest("POST", path, headers=[("Content-Type", kind)], body=body())
