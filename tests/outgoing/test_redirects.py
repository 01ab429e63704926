from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from company_agents.outgoing.client import Outgoing, OutgoingRequest
from company_agents.outgoing.destination import Destination, Placement
from company_agents.sensitive import Sensitive
from tests.outgoing.conftest import Make
from tests.outgoing.servers import Answer, Recorded, Server, reply, serve

TOKEN = "xoxb-a-token/of+some=length"
CREDENTIAL = Sensitive(TOKEN)


def at(server: Server, placement: Placement | None = None) -> Destination:
    return Destination.at(server.url, placement or Placement.header(), allow_private=True)


def from_start(location: str, status: str = "302 Found") -> Answer:
    """Redirects `/start` there; answers everything else with what it was asked."""

    def answer(recorded: Recorded) -> bytes:
        if recorded.path.startswith("/start"):
            return reply(b"moved", status, location=location)
        return reply(recorded.line.encode())

    return answer


START = OutgoingRequest("GET", "/start")


async def test_a_redirect_to_another_host_is_not_followed_and_the_credential_stays(outgoing: Outgoing) -> None:
    async with serve(reply(b"theirs")) as other, serve(from_start(f"{other.url}/x")) as server:
        answered = await outgoing.call(START, at(server), CREDENTIAL)
    assert (answered.status, answered.body, answered.headers["location"]) == (302, b"moved", f"{other.url}/x")
    assert other.connections == 0
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "location", ["/next?a=1", "next?a=1", "HTTP://127.0.0.1:{port}/next?a=1#part", "/x/../next?a=1"]
)
async def test_a_redirect_within_the_destination_is_followed_with_the_credential(
    outgoing: Outgoing, location: str
) -> None:
    ports: list[int] = []

    def answer(recorded: Recorded) -> bytes:
        return from_start(location.format(port=ports[0]))(recorded)  # type: ignore[return-value]

    async with serve(answer) as server:
        ports.append(server.port)
        asked = OutgoingRequest("GET", "/start", headers={"X-Kept": "1", "Accept": "a/b"})
        answered = await outgoing.call(asked, at(server), CREDENTIAL)
    assert answered.body == b"GET /next?a=1 HTTP/1.1"
    assert server.requests[1].headers == server.requests[0].headers
    assert server.requests[1].headers["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    "location",
    [
        "https://127.0.0.1:{port}/x",
        "http://127.0.0.1/x",
        "http://localhost:{port}/x",
        "http://0x7f.1:{port}/x",
        "http://user@127.0.0.1:{port}/x",
        "http://127.0.0.1:{port}@evil.example/x",
        "http://127.0.0.1:{port}\\@evil.example/x",
        "//evil.example/x",
        "ftp://127.0.0.1:{port}/x",
        "javascript:alert(1)",
        "http://[::1",
        "http://127.0.0.1:99999/x",
        "/a b",
        "/%2e%2e/x",
        "/ü",
        "\\\\evil.example",
        "",
    ],
)
async def test_any_other_redirect_is_handed_to_the_caller_as_it_is(outgoing: Outgoing, location: str) -> None:
    ports: list[int] = []

    def answer(recorded: Recorded) -> bytes:
        return from_start(location.format(port=ports[0]))(recorded)  # type: ignore[return-value]

    async with serve(answer) as server:
        ports.append(server.port)
        answered = await outgoing.call(START, at(server), CREDENTIAL)
    assert (answered.status, answered.body) == (302, b"moved")
    assert len(server.requests) == 1


async def test_a_redirect_to_a_further_host_of_the_destination_is_followed(make: Make) -> None:
    async def loopback(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    outgoing = await make(resolve=loopback)
    ports: list[int] = []

    def answer(recorded: Recorded) -> bytes:
        return from_start(f"http://files.internal:{ports[0]}/x")(recorded)  # type: ignore[return-value]

    async with serve(answer) as server:
        ports.append(server.port)
        url = f"http://api.internal:{server.port}"
        both = Destination.at(url, Placement.header(), allow_private=True, extra_hosts=["files.internal"])
        one = Destination.at(url, Placement.header(), allow_private=True)
        assert (await outgoing.call(START, both, CREDENTIAL)).status == 200
        assert server.requests[-1].headers["host"] == f"files.internal:{server.port}"
        assert (await outgoing.call(START, one, CREDENTIAL)).status == 302


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        ("301 Moved", "POST", "GET"),
        ("302 Found", "POST", "GET"),
        ("303 See Other", "POST", "GET"),
        ("303 See Other", "DELETE", "GET"),
        ("303 See Other", "HEAD", "HEAD"),
        ("301 Moved", "PUT", "PUT"),
        ("307 Temporary", "POST", "POST"),
        ("308 Permanent", "PATCH", "PATCH"),
        ("302 Found", "HEAD", "HEAD"),
    ],
)
async def test_method_and_body_follow_the_standard(outgoing: Outgoing, status: str, method: str, then: str) -> None:
    body = b"" if method == "HEAD" else b"content"
    async with serve(_bodyless(from_start("/next", status))) as server:
        asked = OutgoingRequest(method, "/start", headers={"Content-Type": "a/b"}, body=body)
        await outgoing.call(asked, at(server), CREDENTIAL)
    second = server.requests[1]
    assert second.line == f"{then} /next HTTP/1.1"
    kept = then == method
    assert second.body == (body if kept else b"")
    assert ("content-type" in second.headers) == kept


def _bodyless(answer: Answer) -> Answer:
    """An answer to HEAD has no body."""

    def talk(recorded: Recorded) -> bytes:
        sent = answer(recorded)
        assert isinstance(sent, bytes)
        return sent.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if recorded.line.startswith("HEAD") else sent

    return talk


async def test_a_streamed_body_is_not_sent_twice(outgoing: Outgoing) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"once"

    async with serve(from_start("/next", "307 Temporary")) as server:
        answered = await outgoing.call(OutgoingRequest("POST", "/start", body=parts()), at(server), CREDENTIAL)
    assert (answered.status, len(server.requests)) == (307, 1)


async def test_after_five_redirects_the_next_is_handed_to_the_caller(outgoing: Outgoing) -> None:
    async with serve(reply(b"round", "302 Found", location="/start")) as server:
        answered = await outgoing.call(START, at(server), CREDENTIAL)
    assert (answered.status, len(server.requests)) == (302, 6)


async def test_a_location_that_holds_the_credential_is_searched(outgoing: Outgoing) -> None:
    async with serve(
        lambda recorded: reply(b"", "302 Found", location=f"https://evil.example{recorded.path}")
    ) as server:
        answered = await outgoing.call(START, at(server, Placement.query("key")), CREDENTIAL)
    assert answered.headers["location"] == "https://evil.example/start?key=[credential removed]"
    assert answered.removed == 1


async def test_a_followed_location_carries_the_credential_once(outgoing: Outgoing) -> None:
    async with serve(from_start("/next?key=old&a=1")) as server:
        await outgoing.call(START, at(server, Placement.query("key")), CREDENTIAL)
    assert server.requests[1].path == "/next?a=1&key=xoxb-a-token%2Fof%2Bsome%3Dlength"
