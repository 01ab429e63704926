"""
The REST door over a real socket, people with tokens, and a provider that checks its bearer.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pyotp
import pytest
import uvicorn

from company_agents.api import api_app
from company_agents.app import App
from company_agents.identity.permissions import Role
from company_agents.identity.principal import Caller
from company_agents.sensitive import Sensitive
from tests.api.world import settle
from tests.conftest import LOCAL
from tests.promises.evidence import connect_past, sql

PASSWORD = "correct horse battery staple"


@asynccontextmanager
async def serving(application: Any) -> AsyncIterator[str]:
    """An ASGI application behind a real server; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    # As uvloop has it: otherwise a body waits 40 ms for the acknowledgement of its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = uvicorn.Server(uvicorn.Config(application, log_config=None, lifespan="off", access_log=False))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@pytest.fixture(scope="session")
async def door(app: App) -> AsyncIterator[str]:
    """The address of the door."""
    async with serving(api_app(app)) as url:
        yield url


@pytest.fixture(scope="session")
async def http(door: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=door, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture(autouse=True)
async def settled(app: App) -> AsyncIterator[None]:
    """No test begins while a rotation runs, or on a sealed instance."""
    yield
    await settle(app)


@pytest.fixture(scope="module")
async def nothing_spoiled(app: App) -> None:
    """Every secret opens: tests of other files leave rows that were altered on purpose."""
    ids = [bad.id for bad in (await app.keys.verify()).bad]
    async with await connect_past(app, "postgres") as past:
        await sql(past, "DELETE FROM credential_versions WHERE secret_id = ANY (%(ids)s)", ids=ids)
        await sql(past, "DELETE FROM secrets WHERE id = ANY (%(ids)s)", ids=ids)


Ask = Callable[..., Awaitable[httpx2.Response]]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="session")
def ask(http: httpx2.AsyncClient) -> Ask:
    """`await ask(token, "POST", path, {...}, key=…)`"""

    async def asked(
        token: str | None, method: str, path: str, body: Any = None, *, key: str | None = None, **more: Any
    ) -> httpx2.Response:
        headers = {**(bearer(token) if token else {}), **({"Idempotency-Key": key} if key else {})}
        return await http.request(method, path, headers=headers, json=body, **more)

    return asked


@dataclass(frozen=True)
class Person:
    id: uuid.UUID
    token_id: uuid.UUID
    token: str


People = Callable[..., Awaitable[Person]]


@pytest.fixture(scope="session")
def person(app: App) -> People:
    """Makes a person with a token: an owner of the instance, or of a role in a company."""

    async def make(company: Caller | None = None, role: Role = Role.OWNER, ceiling: Role | None = None) -> Person:
        link = await (app.operators.link(LOCAL) if company is None else app.operators.invite(company, role))
        secret = Sensitive(pyotp.random_base32())
        code = pyotp.TOTP(secret.reveal_text()).at(int(time.time()))
        name = f"person {uuid.uuid4().hex[:8]}"
        operator = await app.operators.join(link.reveal_text(), name, PASSWORD, secret, code)
        token, value = await app.operators.create_token(LOCAL, "tests", 1, ceiling or role, operator.id)
        return Person(operator.id, token.id, value.reveal_text())

    return make


@pytest.fixture(scope="session")
async def owner(person: People) -> Person:
    """An owner of the instance."""
    return await person()


def _of_a_server(scope: Any) -> dict[str, Any] | None:
    """What the provider says as an authorization server, at which nobody ever consents."""
    url = f"http://{dict(scope['headers'])[b'host'].decode()}"
    known: dict[str, dict[str, Any]] = {
        "/.well-known/oauth-authorization-server": {
            "issuer": url,
            "authorization_endpoint": f"{url}/authorize",
            "token_endpoint": f"{url}/token",
            "device_authorization_endpoint": f"{url}/device_authorization",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
        },
        "/device_authorization": {
            "device_code": f"device-code-{uuid.uuid4().hex}",
            "user_code": "WDJB-MJHT",
            "verification_uri": f"{url}/device",
            "expires_in": 900,
        },
        "/token": {"status": 400, "error": "authorization_pending"},
    }
    return known.get(scope["path"])


@dataclass
class Provider:
    """Answers whoever brings one of its tokens; tells what it was asked."""

    url: str = ""
    good: set[str] = field(default_factory=set)
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    answer: bytes = b'{"fine": true}'

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        given = dict(scope["headers"]).get(b"authorization", b"").decode()
        self.asked.append((scope["method"], scope["path"], body))
        headers = [(b"content-type", b"application/json")]
        if (said := _of_a_server(scope)) is not None:
            await send({"type": "http.response.start", "status": said.pop("status", 200), "headers": headers})
            await send({"type": "http.response.body", "body": json.dumps(said).encode()})
            return
        known = given.removeprefix("Bearer ") in self.good
        content = self.answer if known else json.dumps({"error": "bad token"}).encode()
        await send({"type": "http.response.start", "status": 200 if known else 401, "headers": headers})
        await send({"type": "http.response.body", "body": content})


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    found = Provider()
    async with serving(found) as url:
        found.url = url
        yield found
