"""
The exchange over real sockets: what is sent, what may be reached, and when it is known that nothing was sent.
"""

from __future__ import annotations

import contextlib
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from ipaddress import ip_network
from typing import Any

import pytest

from company_agents.errors import Refused, WrongUsage
from company_agents.outgoing.exchange import Answer, Exchange, Lost, NotSent, admitted
from company_agents.sensitive import Sensitive
from tests.outgoing.servers import Authority, Recorded, chunked, reply, serve

Make = Callable[..., Awaitable[Exchange]]


@pytest.fixture
async def made() -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        async def started(**options: Any) -> Exchange:
            exchange = Exchange(**options)
            await exchange.start()
            stack.push_async_callback(exchange.close)
            return exchange

        yield started


@pytest.fixture
async def exchange(made: Make) -> Exchange:
    return await made(call_time=5)


async def post(exchange: Exchange, url: str, **options: Any) -> Answer:
    return await exchange.send("POST", url, **{"allow_private": True, **options})


async def test_a_form_goes_out_with_its_secrets_and_the_answer_comes_back_whole(exchange: Exchange) -> None:
    async with serve(reply(b'{"a": 1}', x_test="yes")) as server:
        form = {"grant_type": "x", "secret": Sensitive("a b&c=d"), "umlaut": "ü"}
        answer = await post(exchange, f"{server.url}/token?a=1", form=form, basic=("id", Sensitive("pass")))
    assert (answer.status, answer.body, answer.headers["X-Test"]) == (200, b'{"a": 1}', "yes")
    sent = server.requests[0]
    assert sent.line == "POST /token?a=1 HTTP/1.1"
    assert sent.body == b"grant_type=x&secret=a+b%26c%3Dd&umlaut=%C3%BC"
    assert sent.headers["content-type"] == "application/x-www-form-urlencoded"
    assert sent.headers["authorization"] == "Basic aWQ6cGFzcw=="
    assert "cookie" not in sent.headers


async def test_json_and_bytes_go_out_as_they_are(exchange: Exchange) -> None:
    async with serve(reply()) as server:
        await post(exchange, server.url, json={"secret": Sensitive("s3cret"), "list": [1, None]})
        await post(exchange, server.url, body=b"\x00\xff", headers={"Content-Type": "application/x-test"})
    assert [sent.body for sent in server.requests] == [b'{"secret":"s3cret","list":[1,null]}', b"\x00\xff"]
    assert [sent.headers["content-type"] for sent in server.requests] == ["application/json", "application/x-test"]


async def test_no_connection_serves_twice(exchange: Exchange) -> None:
    async with serve(reply()) as server:
        for _ in range(3):
            await post(exchange, server.url)
    assert server.connections == 3


async def test_a_redirect_is_an_answer_and_is_not_followed(exchange: Exchange) -> None:
    async with serve(lambda _: reply(status="307 Temporary Redirect", location="/elsewhere")) as server:
        answer = await post(exchange, server.url, form={"secret": Sensitive("s3cret")})
    assert (answer.status, len(server.requests)) == (307, 1)


async def test_nothing_of_an_exchange_shows() -> None:
    async with serve(reply(b"secret-of-the-answer", set_cookie="secret-of-a-header")) as server:
        exchange = Exchange()
        await exchange.start()
        answer = await post(exchange, server.url)
        await exchange.close()
    assert "secret" not in repr(answer)


async def test_each_secret_is_watched_while_it_is_on_its_way(made: Make) -> None:
    watched: list[Sensitive] = []
    open_now: list[int] = []

    @contextlib.contextmanager
    def watching(secret: Sensitive) -> Iterator[None]:
        watched.append(secret)
        yield
        watched.remove(secret)

    def answer(_: Recorded) -> bytes:
        open_now.append(len(watched))
        return reply()

    exchange = await made(watched=watching)
    async with serve(answer) as server:
        await post(
            exchange,
            server.url,
            headers={"X-Secret": Sensitive("one")},
            form={"two": Sensitive("two"), "plain": "x"},
            basic=("id", Sensitive("three")),
        )
    assert (open_now, watched) == ([3], [])


async def test_where_nobody_listens_nothing_was_sent(exchange: Exchange) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(NotSent, match="connection refused"):
        await post(exchange, f"http://127.0.0.1:{port}/")


async def test_where_the_name_is_not_known_nothing_was_sent(made: Make) -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    with pytest.raises(NotSent, match="could not be resolved"):
        await post(await made(resolve=unknown), "https://auth.example/")


async def test_with_a_server_that_has_no_good_certificate_nothing_was_sent(made: Make, our_ca: Authority) -> None:
    async with serve(reply(), our_ca.server) as server:
        with pytest.raises(NotSent, match="certificate"):
            await post(await made(), f"https://127.0.0.1:{server.port}/")
        assert server.requests == []
        trusting = await made(ca_file=our_ca.ca_file)
        assert (await post(trusting, f"https://127.0.0.1:{server.port}/")).status == 200


async def test_with_a_server_that_never_shakes_hands_nothing_was_sent(made: Make) -> None:
    exchange = await made(connect_time=0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(NotSent, match="connected to in time"):
        await post(exchange, f"https://127.0.0.1:{silent.getsockname()[1]}/")


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\nconnection: close\r\n\r\nless",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nhel",
        b"this is not HTTP\r\n\r\n",
        reply(b"\x1f\x8bnot gzip", content_encoding="gzip"),
        reply(gzip.compress(b"x" * 100, mtime=0)[:-9], content_encoding="gzip"),
        reply(b"x", content_encoding="br"),
        reply(b"x" * 2000),
        reply(gzip.compress(b"x" * 2000, mtime=0), content_encoding="gzip"),
    ],
)
async def test_an_answer_that_is_not_whole_or_not_readable_is_lost(made: Make, given: bytes) -> None:
    exchange = await made(answer_limit=1000, call_time=5)
    async with serve(given) as server:
        with pytest.raises(Lost):
            await post(exchange, server.url)
        assert len(server.requests) == 1


async def test_an_answer_that_does_not_end_is_lost_in_time(made: Make) -> None:
    exchange = await made(call_time=0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Lost, match="in time"):
        await post(exchange, f"http://127.0.0.1:{silent.getsockname()[1]}/")


async def test_a_compressed_or_chunked_answer_is_read(exchange: Exchange) -> None:
    async with serve(reply(gzip.compress(b"whole", mtime=0), content_encoding="gzip")) as server:
        assert (await post(exchange, server.url)).body == b"whole"
    async with serve(lambda _: chunked(b"who", b"le")) as server:
        assert (await post(exchange, server.url)).body == b"whole"


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fd00:ec2::254"])
async def test_a_name_that_leads_inside_is_refused_where_that_is_not_allowed(made: Make, address: str) -> None:
    async def inside(host: str, port: int) -> list[str]:
        return [address]

    with pytest.raises(Refused):
        await post(await made(resolve=inside), "https://auth.example/", allow_private=False)


async def test_a_private_network_that_is_not_on_the_list_is_refused(made: Make) -> None:
    exchange = await made(networks=(ip_network("10.0.0.0/8"),))
    with pytest.raises(Refused):
        await post(exchange, "http://127.0.0.1:9/")


@pytest.mark.parametrize("address", ["169.254.169.254", "0.0.0.0", "[fe80::1]", "[fd00:ec2::254]"])
async def test_an_address_that_no_call_may_go_to_is_refused(exchange: Exchange, address: str) -> None:
    with pytest.raises(WrongUsage):
        await post(exchange, f"http://{address}/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "token",
        "//auth.example/token",
        "ftp://auth.example/",
        "http://auth.example/token",
        "https://user:secret@auth.example/",
        "https://auth.example/token#x",
        "https://auth.example/a/../token",
        "https://auth.example/a%2f..%2ftoken",
        "https://auth.example/a b",
        "https://auth.example\\@other.example/",
        "https://auth.example:99999/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::1/",
        "https://2130706433/",
        "https://auth.example/ä",
        "https://auth.example/\n",
    ],
)
def test_what_is_no_address_to_send_secrets_to_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(WrongUsage) as caught:
        admitted("POST", url, allow_private=False)
    assert "secret" not in f"{caught.value} {caught.value.hint}"


def test_an_address_is_asked_exactly_as_it_is_written() -> None:
    url, _ = admitted("GET", "https://Auth.Example/a%2Fb;c?x=%7e&y", allow_private=False)
    assert str(url) == "https://auth.example/a%2Fb;c?x=%7e&y"


@pytest.mark.parametrize("headers", [{"bad name": "x"}, {"X-Test": "two\r\nlines"}, {"X-Test": Sensitive("a\nb")}])
async def test_a_header_that_would_become_two_is_refused(exchange: Exchange, headers: Any) -> None:
    with pytest.raises(WrongUsage):
        await post(exchange, "http://127.0.0.1:9/", headers=headers)


async def test_after_it_is_closed_nothing_is_sent() -> None:
    exchange = Exchange()
    with pytest.raises(NotSent):
        await post(exchange, "http://127.0.0.1:9/")
