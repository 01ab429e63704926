"""
A WebSocket through the gateway: who may open one, what passes, and how it ends.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from company_agents.app import App
from company_agents.integrations import streams
from company_agents.integrations.integrations import Integration
from company_agents.integrations.rules import Rules
from company_agents.outgoing.reply_search import REMOVED, encodings
from company_agents.sensitive import Sensitive
from tests.conftest import Tenant
from tests.gateway.wire import PATIENCE
from tests.promises.evidence import recorded
from tests.streams.conftest import Tenants

SECRET = "a-credential-that-stays-here/+="
MEBIBYTE = 1024 * 1024
Handler = Callable[[ServerConnection], Awaitable[None]]


async def echo(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)


@dataclass
class Provider:
    """Opens a WebSocket for the one good credential, and keeps how each was asked for."""

    url: str = ""
    asked: list[Request] = field(default_factory=list)
    open: int = 0
    # How the last one ended.
    ended: asyncio.Future[tuple[int | None, str]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    does: Handler = echo

    def judge(self, connection: ServerConnection, request: Request) -> Response | None:
        self.asked.append(request)
        if request.path == "/elsewhere":
            answer = connection.respond(HTTPStatus.FOUND, "")
            answer.headers["Location"] = "/socket"
            return answer
        if request.headers.get_all("Authorization") != [f"Bearer {SECRET}"]:
            return connection.respond(HTTPStatus.UNAUTHORIZED, "who are you?")
        if request.path == "/v1/models":
            return connection.respond(HTTPStatus.OK, "{}")
        if request.path.startswith("/no"):
            return connection.respond(HTTPStatus.NOT_FOUND, f"nothing here for {SECRET}")
        return None

    async def __call__(self, connection: ServerConnection) -> None:
        self.open += 1
        try:
            await self.does(connection)
            await connection.wait_closed()
        finally:
            self.open -= 1
            if not self.ended.done():
                self.ended.set_result((connection.close_code, connection.close_reason or ""))

    async def end(self) -> tuple[int | None, str]:
        async with asyncio.timeout(PATIENCE):
            return await self.ended


@dataclass
class Desk:
    """A company whose agent may use that provider, and the address of the gateway."""

    app: App
    tenant: Tenant
    provider: Provider
    integration: Integration
    url: str

    def bearer(self, token: str | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {token or self.tenant.token}"}

    def open(self, path: str = "/socket", **options: Any) -> connect:
        given: dict[str, Any] = {"additional_headers": self.bearer(), "open_timeout": PATIENCE, **options}
        return connect(f"{self.url}{path}", proxy=None, **given)


@pytest.fixture
async def desk(app: App, replica: App, door: str, tenant: Tenants) -> AsyncIterator[Desk]:
    provider = Provider()
    offered = [Subprotocol("realtime")]

    def choose(connection: ServerConnection, asked: Any) -> Subprotocol | None:
        return offered[0] if offered[0] in asked else None

    async with serve(
        provider, "127.0.0.1", 0, process_request=provider.judge, select_subprotocol=choose, max_size=None
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        provider.url = f"http://127.0.0.1:{port}"
        one = await tenant()
        integration = await app.integrations.connect(
            one.local,
            "generic",
            Sensitive(SECRET),
            base_url=provider.url,
            allow_private_network=True,
            allow=[one.agent.agent_id()],
        )
        yield Desk(app, one, provider, integration, f"{door.replace('http', 'ws')}/gateway/{integration.name}")


async def closed(connection: ClientConnection) -> tuple[int, str]:
    """How a client's connection ended, once it has."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConnectionClosed):
            while True:
                await connection.recv()
    return connection.close_code or 0, connection.close_reason or ""


async def refused(opening: connect) -> Response:
    with pytest.raises(InvalidStatus) as caught:
        async with opening:
            raise AssertionError("it was opened")
    return caught.value.response


# — opened —


async def test_messages_of_both_kinds_pass_both_ways_and_the_use_is_on_record(desk: Desk, replica: App) -> None:
    async with desk.open("/socket?model=x") as connection:
        for message in ("text é", b"\x00bytes", "", "x" * 500_000):
            await connection.send(message)
            assert await connection.recv() == message
        begun = await recorded(replica, desk.tenant.company.id, "credential.begun", path="/socket")
        assert begun[0]["decision"] == "allowed"
        await connection.close(4001, "enough")
    assert await desk.provider.end() == (4001, "enough")
    [asked] = desk.provider.asked
    assert (asked.path, asked.headers["Authorization"]) == ("/socket?model=x", f"Bearer {SECRET}")
    assert "Origin" not in asked.headers
    assert "Sec-WebSocket-Extensions" not in asked.headers
    async with asyncio.timeout(PATIENCE):
        while not (ended := await recorded(replica, desk.tenant.company.id, "credential.ended", status=101)):
            await asyncio.sleep(0.02)
    assert (ended[0]["result"], ended[0]["bytes"]) == ("replied", 7 + 6 + 500_000)


@pytest.mark.parametrize("how", ["header", "subprotocol", "a subprotocol of its own"])
async def test_a_token_comes_in_a_header_or_a_subprotocol_and_goes_no_further(desk: Desk, how: str) -> None:
    token = desk.tenant.token
    ways: dict[str, dict[str, Any]] = {
        "header": {"subprotocols": ["realtime", "beta.v1"]},
        "subprotocol": {
            "subprotocols": ["realtime", f"openai-insecure-api-key.{token}", "beta.v1"],
            "additional_headers": {},
        },
        "a subprotocol of its own": {"subprotocols": ["realtime", token, "beta.v1"], "additional_headers": {}},
    }
    async with desk.open(**ways[how]) as connection:
        assert connection.subprotocol == "realtime"
        await connection.send("hello")
        assert await connection.recv() == "hello"
    [asked] = desk.provider.asked
    assert asked.headers["Sec-WebSocket-Protocol"].replace(" ", "") == "realtime,beta.v1"
    assert "ca_agent_" not in str(asked.headers) + asked.path


async def test_whoever_is_not_good_is_answered_like_at_any_call(desk: Desk, tenant: Tenants) -> None:
    other = await tenant()
    for given, status, code in (
        ({"additional_headers": {}}, 401, "unauthenticated"),
        ({"additional_headers": desk.bearer("ca_agent_x")}, 401, "unauthenticated"),
        ({"additional_headers": desk.bearer(other.token)}, 404, "not_found"),
        ({"origin": "https://evil.example"}, 403, "refused"),
        ({"subprotocols": [f"key.{other.token}"]}, 401, "unauthenticated"),
    ):
        response = await refused(desk.open(**given))
        assert (response.status_code, response.headers["Company-Agents-Error"]) == (status, code)
        assert json.loads(response.body or b"")["error"]["code"] == code
    assert desk.provider.asked == []


async def test_there_is_no_other_door_for_it_and_none_under_another_name(desk: Desk, door: str) -> None:
    url = door.replace("http", "ws")
    for path in ("/mcp", "/v1/companies", "/", "/healthz", "/gateway"):
        assert (await refused(connect(f"{url}{path}", proxy=None))).status_code == 404
    host, _, port = url.removeprefix("ws://").partition(":")
    rebound = f"ws://evil.example/gateway/{desk.integration.name}/socket"
    assert (await refused(connect(rebound, proxy=None, host=host, port=int(port)))).status_code == 421


async def test_a_provider_that_declines_is_seen_to_and_its_words_are_searched(desk: Desk) -> None:
    response = await refused(desk.open("/no/thing"))
    assert (response.status_code, response.body) == (404, b"nothing here for " + REMOVED)


async def test_a_redirect_is_not_followed(desk: Desk) -> None:
    assert (await refused(desk.open("/elsewhere"))).status_code == 302
    assert [asked.path for asked in desk.provider.asked] == ["/elsewhere"]


async def test_rules_have_to_allow_both_opening_it_and_sending(desk: Desk) -> None:
    local, agent = desk.tenant.local, desk.tenant.agent.agent_id()
    for allows, opens in ((["GET /**"], False), (["POST /**"], False), (["GET,POST /socket"], True)):
        async with local.scope.transaction() as tx:
            await tx._connection.execute(
                "UPDATE integration_agents SET allows = %s WHERE agent_id = %s", (allows, agent)
            )
        if opens:
            async with desk.open() as connection:
                await connection.send("x")
                assert await connection.recv() == "x"
        else:
            response = await refused(desk.open())
            assert response.headers["Company-Agents-Error"] == "not_allowed_here"


async def test_what_a_connection_uses_is_entered_as_it_says_so_and_a_spent_budget_ends_it(desk: Desk) -> None:
    async def answer(connection: ServerConnection) -> None:
        usage = {"input_tokens": 30, "output_tokens": 20, "input_token_details": {"cached_tokens": 10}}
        with contextlib.suppress(ConnectionClosed):
            async for _ in connection:
                await connection.send(json.dumps({"type": "response.done", "response": {"usage": usage}}))

    desk.provider.does = answer
    local, agent = desk.tenant.local, desk.tenant.agent.agent_id()
    integration = await desk.app.integrations.connect(
        *(local, "openai", Sensitive(SECRET)),
        base_url=desk.provider.url,
        allow_private_network=True,
        allow=[agent],
    )
    await desk.app.limits.set(local, agent, {"month_tokens": 100})
    url = desk.url.replace("generic", integration.name)
    async with connect(f"{url}/v1/realtime?model=x", additional_headers=desk.bearer(), proxy=None) as connection:
        for _ in range(2):
            await connection.send("{}")
            assert "response.done" in str(await connection.recv())
        assert await closed(connection) == (1008, "budget_spent")
    response = await refused(connect(f"{url}/v1/realtime", additional_headers=desk.bearer(), proxy=None))
    assert response.headers["Company-Agents-Error"] == "budget_spent"
    async with local.scope.transaction() as tx:
        rows = await (
            await tx._connection.execute("SELECT model, input_tokens, output_tokens FROM cost_entries")
        ).fetchall()
    assert rows == [{"model": "x", "input_tokens": 20, "output_tokens": 20}] * 2


# — searched —


def leaks(text: str | bytes) -> bool:
    data = text.encode() if isinstance(text, str) else text
    return any(form in data for form in encodings(SECRET.encode()))


ECHOES: dict[str, str | bytes] = {
    "plain": f"it is {SECRET}!",
    "bytes": f"it is {SECRET}!".encode(),
    "JSON": json.dumps({"token": SECRET}),
    "JSON, escaped": '{"token": "' + "".join(f"\\u{ord(char):04x}" for char in SECRET) + '"}',
    "base64": base64.b64encode(f"Bearer {SECRET}".encode()).decode(),
    "hex": SECRET.encode().hex(),
    "UTF-16": SECRET.encode("utf-16"),
}


@pytest.mark.parametrize("message", ECHOES.values(), ids=ECHOES.keys())
async def test_a_message_that_echoes_the_credential_comes_without_it_and_the_next_comes_as_it_is(
    desk: Desk, message: str | bytes
) -> None:
    async def leak(connection: ServerConnection) -> None:
        await connection.send(message)
        # In frames of their own, which are one message.
        half = len(message) // 2
        await connection.send([message[:half], message[half:]])
        await connection.send("and so on")

    desk.provider.does = leak
    async with desk.open() as connection:
        for _ in range(2):
            got = await connection.recv()
            assert type(got) is type(message)
            assert not leaks(got)
            assert REMOVED in (got.encode() if isinstance(got, str) else got)
        assert await connection.recv() == "and so on"


async def test_the_reason_of_an_end_is_searched_too(desk: Desk) -> None:
    async def leave(connection: ServerConnection) -> None:
        await connection.close(4321, f"bad token {SECRET}")

    desk.provider.does = leave
    async with desk.open() as connection:
        assert await closed(connection) == (4321, f"bad token {REMOVED.decode()}")


async def test_what_is_too_large_to_be_searched_as_a_whole_ends_it(desk: Desk) -> None:
    async def much(connection: ServerConnection) -> None:
        await connection.send(b"x" * MEBIBYTE)
        await connection.send(b"x" * (MEBIBYTE + 1))

    desk.provider.does = much
    async with desk.open(max_size=None) as connection:
        assert len(await connection.recv()) == MEBIBYTE
        assert (await closed(connection))[0] == 1009
    assert (await desk.provider.end())[0] == 1009


async def test_what_a_client_sends_is_no_larger_either(desk: Desk) -> None:
    async with desk.open() as connection:
        await connection.send(b"x" * (MEBIBYTE + 1))
        assert (await closed(connection))[0] == 1009
    await desk.provider.end()
    assert desk.provider.open == 0


# — how it ends —


async def test_a_provider_that_is_gone_is_no_clean_end(desk: Desk) -> None:
    async def vanish(connection: ServerConnection) -> None:
        connection.transport.abort()

    desk.provider.does = vanish
    async with desk.open() as connection:
        assert (await closed(connection))[0] == 1014


async def test_a_client_that_is_gone_takes_the_providers_connection_along(desk: Desk) -> None:
    async with desk.open() as connection:
        await connection.send("x")
        assert await connection.recv() == "x"
        connection.transport.abort()
        await desk.provider.end()


async def test_a_ping_is_answered_at_either_end(desk: Desk) -> None:
    answered = asyncio.Event()

    async def ping(connection: ServerConnection) -> None:
        await (await connection.ping())
        answered.set()

    desk.provider.does = ping
    async with desk.open() as connection:
        async with asyncio.timeout(PATIENCE):
            await (await connection.ping())
            await answered.wait()


@pytest.mark.parametrize("how", ["disallowed", "other rules"])
async def test_it_ends_when_its_agent_may_no_longer_have_it(desk: Desk, replica: App, how: str) -> None:
    async def tick(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            for number in range(100_000):
                await connection.send(str(number))
                ticks.append(number)
                await asyncio.sleep(0.005)

    ticks: list[int] = []
    desk.provider.does = tick
    async with desk.open() as connection:
        assert await connection.recv() == "0"
        if how == "disallowed":
            await desk.app.integrations.disallow(desk.tenant.local, desk.integration.id, desk.tenant.agent.agent_id())
        else:
            await desk.app.rulebook.set(desk.tenant.local, desk.integration.id, Rules.read(only=["GET /socket"]))
        sent = ticks[-1]
        last = 0
        with contextlib.suppress(ConnectionClosed):
            while True:
                last = int(await connection.recv())
        assert (connection.close_code, connection.close_reason) == (1008, "stream_cut")
    assert last <= sent
    await desk.provider.end()
    async with asyncio.timeout(PATIENCE):
        while not await recorded(replica, desk.tenant.company.id, "credential.ended", result="cut", status=101):
            await asyncio.sleep(0.02)


async def test_nothing_goes_either_way_once_it_cannot_be_checked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str | bytes] = []

    async def hear(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                heard.append(message)

    desk.provider.does = hear
    async with desk.open() as connection:
        await connection.send("before")
        async with asyncio.timeout(PATIENCE):
            while not heard:
                await asyncio.sleep(0.01)
        monkeypatch.setattr(streams, "PATIENCE", -1.0)
        await connection.send("after")
        await closed(connection)
    assert heard == ["before"]


async def test_who_reads_slowly_stops_the_other_side_from_sending(desk: Desk) -> None:
    sent = 0

    async def pour(connection: ServerConnection) -> None:
        nonlocal sent
        for _ in range(200):
            await connection.send(b"x" * 200_000)
            sent += 1

    desk.provider.does = pour
    async with desk.open(max_queue=1) as connection:
        before = -1
        async with asyncio.timeout(PATIENCE):
            while sent != before:
                before = sent
                await asyncio.sleep(0.3)
        assert sent < 150
        for _ in range(200):
            assert len(await connection.recv()) == 200_000
