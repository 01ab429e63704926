from __future__ import annotations

import gzip
import json
import logging
import traceback
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from company_agents import __version__
from company_agents.errors import CompanyAgentsError, Refused, Unavailable, WrongUsage
from company_agents.outgoing.client import Outgoing, OutgoingRequest
from company_agents.outgoing.destination import Destination, Placement
from company_agents.sensitive import Sensitive
from tests.outgoing.conftest import Make
from tests.outgoing.servers import Recorded, Server, chunked, reply, serve

TOKEN = "xoxb-a-token/of+some=length"
CREDENTIAL = Sensitive(TOKEN)
GET = OutgoingRequest("GET", "/")


def at(server: Server, placement: Placement | None = None) -> Destination:
    return Destination.at(server.url, placement or Placement.header(), allow_private=True)


async def test_exactly_what_was_decided_is_on_the_wire(outgoing: Outgoing) -> None:
    async with serve(reply(b"ok")) as server:
        asked = OutgoingRequest("GET", "/a%2Fb//c;d=%7e/e..f", "q=%7e&x[]=1&&y", {"Accept": "text/plain"})
        assert (await outgoing.call(asked, at(server), CREDENTIAL)).body == b"ok"
    [recorded] = server.requests
    assert recorded.line == "GET /a%2Fb//c;d=%7e/e..f?q=%7e&x[]=1&&y HTTP/1.1"
    assert recorded.headers == {
        "host": f"127.0.0.1:{server.port}",
        "accept": "text/plain",
        "accept-encoding": "gzip, deflate",
        "user-agent": f"company-agents/{__version__}",
        "authorization": f"Bearer {TOKEN}",
    }


async def test_a_body_is_sent_as_it_is(outgoing: Outgoing) -> None:
    async with serve(reply()) as server:
        asked = OutgoingRequest("POST", "/", headers={"content-type": "a/b"}, body=b"\x00body")
        await outgoing.call(asked, at(server), CREDENTIAL)
        await outgoing.call(OutgoingRequest("POST", "/"), at(server), CREDENTIAL)
    first, second = server.requests
    assert (first.body, first.headers["content-length"], first.headers["content-type"]) == (b"\x00body", "5", "a/b")
    assert (second.body, second.headers["content-length"]) == (b"", "0")
    assert "content-type" not in second.headers


@pytest.mark.parametrize(("method", "body", "kept"), [("POST", b"x", True), ("GET", b"", True), ("GET", b"x", False)])
async def test_after_a_body_that_may_be_left_unread_the_connection_serves_nobody_else(
    outgoing: Outgoing, method: str, body: bytes, kept: bool
) -> None:
    async with serve(reply(b"ok")) as server:
        await outgoing.call(OutgoingRequest(method, "/", body=body), at(server), CREDENTIAL)
        await outgoing.call(GET, at(server), CREDENTIAL)
    assert server.connections == (1 if kept else 2)


async def test_a_body_is_streamed(outgoing: Outgoing) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"one, "
        yield b"two"

    async with serve(reply()) as server:
        await outgoing.call(OutgoingRequest("PUT", "/", body=parts()), at(server), CREDENTIAL)
    assert server.requests[0].body == b"one, two"


async def test_the_callers_own_credentials_and_framing_do_not_travel(outgoing: Outgoing) -> None:
    theirs = {
        **{"Authorization": "Bearer mine", "Cookie": "a=b", "Host": "evil.example", "X_Api_Key": "mine"},
        **{"Transfer-Encoding": "chunked", "Content-Length": "100", "Range": "bytes=0-1", "If-Range": "x"},
        **{"Accept-Encoding": "br", "X-Forwarded-For": "1.2.3.4", "Expect": "100-continue", "Connection": "x-hop"},
        **{"X-Hop": "1", "Proxy-Authorization": "mine", "User-Agent": "mine", "X-Kept": "1"},
    }
    async with serve(reply()) as server:
        there = at(server, Placement.header("X-Api-Key", "{token}"))
        await outgoing.call(OutgoingRequest("GET", "/", headers=theirs), there, CREDENTIAL)
    names = set(server.requests[0].headers)
    assert names == {"host", "accept", "accept-encoding", "user-agent", "x-api-key", "x-kept"}
    assert server.requests[0].headers["x-api-key"] == TOKEN


async def test_a_credential_in_the_query_replaces_the_callers_parameter(outgoing: Outgoing) -> None:
    async with serve(reply()) as server:
        there = at(server, Placement.query("api_key"))
        asked = OutgoingRequest("GET", "/x", "a=1&api_key=mine&api%5Fkey=mine&API_KEY&b=2", {"Authorization": "mine"})
        await outgoing.call(asked, there, CREDENTIAL)
        await outgoing.call(GET, there, CREDENTIAL)
    assert [recorded.path for recorded in server.requests] == [
        "/x?a=1&b=2&api_key=xoxb-a-token%2Fof%2Bsome%3Dlength",
        "/?api_key=xoxb-a-token%2Fof%2Bsome%3Dlength",
    ]
    assert "authorization" not in server.requests[0].headers


async def test_a_credential_goes_into_basic_authentication(outgoing: Outgoing) -> None:
    async with serve(reply()) as server:
        await outgoing.call(GET, at(server, Placement.basic("agent", "{token}")), CREDENTIAL)
    expected = b64encode(f"agent:{TOKEN}".encode()).decode()
    assert server.requests[0].headers["authorization"] == f"Basic {expected}"


@pytest.mark.parametrize(
    "asked",
    [
        OutgoingRequest("GET", "/../x"),
        OutgoingRequest("GET", "//evil.example/"),
        OutgoingRequest("GET", "/", "a b"),
        OutgoingRequest("TRACE", "/"),
        OutgoingRequest("GET", "/", headers={"X-A": "b\r\nX-C: d"}),
        OutgoingRequest("GET", "/", headers={"X-A\r\nX-C": "d"}),
    ],
)
async def test_what_the_predicate_refuses_never_leaves(outgoing: Outgoing, asked: OutgoingRequest) -> None:
    async with serve(reply()) as server:
        with pytest.raises((Refused, WrongUsage)):
            await outgoing.call(asked, at(server), CREDENTIAL)
    assert server.connections == 0


async def test_a_reply_is_handed_on_whatever_its_status(outgoing: Outgoing) -> None:
    async with serve(reply(b'{"error": 1}', "404 Not Found", content_type="application/json")) as server:
        answered = await outgoing.call(GET, at(server), CREDENTIAL)
    assert (answered.status, answered.body, answered.removed) == (404, b'{"error": 1}', 0)
    assert answered.headers["Content-Type"] == "application/json"


async def test_an_echo_in_headers_and_body_is_removed_and_counted(outgoing: Outgoing) -> None:
    def echo(recorded: Recorded) -> bytes:
        body = json.dumps({"you sent": recorded.headers, "hex": TOKEN.encode().hex()}).encode()
        return reply(body, x_echo=recorded.headers["authorization"])

    async with serve(echo) as server:
        answered = await outgoing.call(GET, at(server), CREDENTIAL)
    assert json.loads(answered.body)["you sent"]["authorization"] == "Bearer [credential removed]"
    assert json.loads(answered.body)["hex"] == "[credential removed]"
    assert answered.headers["x-echo"] == "Bearer [credential removed]"
    assert answered.removed == 3


async def test_a_header_whose_name_is_the_credential_is_removed(outgoing: Outgoing) -> None:
    async with serve(reply(secret_token="x")) as server:
        answered = await outgoing.call(GET, at(server), Sensitive("secret-token"))
    assert "secret-token" not in answered.headers
    assert answered.removed == 1


async def test_an_echo_of_the_whole_basic_pair_is_removed(outgoing: Outgoing) -> None:
    async with serve(lambda recorded: reply(recorded.head)) as server:
        answered = await outgoing.call(GET, at(server, Placement.basic("agent", "{token}")), CREDENTIAL)
    assert b"authorization: basic [credential removed]\r\n" in answered.body.lower()


@pytest.mark.parametrize(("coding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_compressed_echo_across_chunks_is_removed(outgoing: Outgoing, coding: str, encode: object) -> None:
    assert callable(encode)
    packed = encode(b"a" * 1000 + TOKEN.encode() + b"b" * 1000)
    parts = [packed[at : at + 1] for at in range(len(packed))]
    async with serve(lambda _: chunked(*parts, content_encoding=coding)) as server:
        answered = await outgoing.call(GET, at(server), CREDENTIAL)
    assert answered.body == b"a" * 1000 + b"[credential removed]" + b"b" * 1000
    assert "content-encoding" not in answered.headers


async def test_a_streamed_reply_arrives_as_it_is_sent_and_is_searched(outgoing: Outgoing) -> None:
    parts = [b"data: 1\n\n", b"data: xoxb-a-tok", b"en/of+some=length\n\n"]
    async with (
        serve(lambda _: chunked(*parts)) as server,
        outgoing.stream(GET, at(server), CREDENTIAL) as answered,
    ):
        assert answered.status == 200
        received = [chunk async for chunk in answered.body()]
        assert answered.removed == 1
    assert b"".join(received) == b"data: 1\n\ndata: [credential removed]\n\n"
    assert b"" not in received


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (reply(b"part", "206 Partial Content", content_range="bytes 0-3/9"), "206"),
        (reply(b"x", content_encoding="br"), "content encoding"),
        (reply(b"x", content_encoding="gzip, gzip"), "content encoding"),
        (reply(b"\xffnot gzip", content_encoding="gzip"), "content encoding"),
        (reply("x".encode("utf-16"), content_type="application/json; charset=utf-16"), "character set"),
        (reply(b"", "101 Switching Protocols", connection="upgrade", upgrade="x"), "101"),
    ],
)
async def test_a_reply_that_cannot_be_searched_is_refused(outgoing: Outgoing, answer: bytes, sentence: str) -> None:
    async with serve(answer) as server:
        with pytest.raises(Refused, match=sentence):
            await outgoing.call(GET, at(server), CREDENTIAL)


async def test_a_reply_without_a_body_needs_no_decoder(outgoing: Outgoing) -> None:
    async with serve(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\ncontent-encoding: br\r\n\r\n") as server:
        answered = await outgoing.call(OutgoingRequest("HEAD", "/"), at(server), CREDENTIAL)
    assert (answered.status, answered.body) == (200, b"")


async def test_cookies_are_neither_kept_nor_handed_on(make: Make) -> None:
    async def loopback(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    outgoing = await make(resolve=loopback)
    async with serve(reply(set_cookie="session=1; Path=/")) as server:
        # A name: cookies of bare addresses are dropped by many libraries anyway.
        there = Destination.at(f"http://jira.internal:{server.port}", Placement.header(), allow_private=True)
        answered = await outgoing.call(GET, there, CREDENTIAL)
        await outgoing.call(GET, there, CREDENTIAL)
    assert "set-cookie" not in answered.headers
    assert "cookie" not in server.requests[1].headers


async def test_a_connection_is_used_again(outgoing: Outgoing) -> None:
    async with serve(reply(b"ok")) as server:
        for _ in range(3):
            await outgoing.call(GET, at(server), CREDENTIAL)
    assert server.connections == 1


async def test_a_reply_that_was_not_read_to_its_end_leaves_nothing_for_the_next(outgoing: Outgoing) -> None:
    async with serve(lambda recorded: reply(recorded.path.encode() * 100_000)) as server:
        async with outgoing.stream(OutgoingRequest("GET", "/first"), at(server), CREDENTIAL) as answered:
            async for chunk in answered.body():
                assert chunk.startswith(b"/first")
                break
        second = await outgoing.call(OutgoingRequest("GET", "/2"), at(server), CREDENTIAL)
    assert second.body == b"/2" * 100_000


async def test_leaving_a_stream_early_hangs_up(outgoing: Outgoing) -> None:
    async with serve(lambda _: chunked_forever()) as server:
        async with outgoing.stream(GET, at(server), CREDENTIAL) as answered:
            async for chunk in answered.body():
                assert chunk == b"."
                break
        # `answered` still stands for the open reply, so that nothing but leaving can have closed it.
        await server.hung_up.wait()
    assert answered.status == 200


async def test_a_body_that_ends_like_a_credential_begins_is_whole(outgoing: Outgoing) -> None:
    async with serve(reply(b"it begins with xoxb-a-tok")) as server:
        answered = await outgoing.call(GET, at(server), CREDENTIAL)
    assert (answered.body, answered.removed) == (b"it begins with xoxb-a-tok", 0)


async def test_proxies_and_passwords_of_the_environment_are_not_used(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with serve(reply(b"proxy")) as proxy, serve(reply(b"direct")) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        outgoing = await make()
        answered = await outgoing.call(GET, at(server, Placement.header("X-Api-Key", "{token}")), CREDENTIAL)
    assert answered.body == b"direct"
    assert proxy.connections == 0
    assert "authorization" not in server.requests[0].headers


async def test_a_body_that_is_too_large_is_refused_before_it_leaves(make: Make) -> None:
    outgoing = await make(request_limit=100)
    async with serve(reply()) as server:
        await outgoing.call(OutgoingRequest("POST", "/", body=bytes(100)), at(server), CREDENTIAL)
        with pytest.raises(Refused, match="larger than 100 bytes"):
            await outgoing.call(OutgoingRequest("POST", "/", body=bytes(101)), at(server), CREDENTIAL)
    assert len(server.requests) == 1


async def test_a_streamed_body_that_grows_too_large_is_cut_off(make: Make) -> None:
    outgoing = await make(stream_limit=100)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(60)

    async with serve(reply()) as server:
        with pytest.raises(Refused, match="larger than 100 bytes"):
            await outgoing.call(OutgoingRequest("POST", "/", body=endless()), at(server), CREDENTIAL)
    assert not server.requests


async def test_what_a_streamed_body_raises_is_what_the_caller_gets(outgoing: Outgoing) -> None:
    class GoneError(Exception):
        pass

    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise GoneError

    async with serve(reply()) as server:
        with pytest.raises(GoneError):
            await outgoing.call(OutgoingRequest("POST", "/", body=broken()), at(server), CREDENTIAL)


@pytest.mark.parametrize(
    "answer",
    [
        reply(bytes(1001)),
        b"".join(chunked(bytes(600), bytes(600))),
        reply(gzip.compress(bytes(50_000_000), mtime=0), content_encoding="gzip"),
        reply(gzip.compress(bytes(1001), mtime=0), content_encoding="gzip"),
        reply(b"\x00\x00\x00\xff\xff" * 300, content_encoding="deflate"),  # decodes to nothing at all
    ],
)
async def test_a_reply_that_is_too_large_is_refused_before_and_after_decoding(make: Make, answer: bytes) -> None:
    outgoing = await make(reply_limit=1000)
    async with serve(answer) as server:
        with pytest.raises(Refused, match="larger than 1000 bytes"):
            await outgoing.call(GET, at(server), CREDENTIAL)


async def test_a_reply_of_the_largest_size_arrives(make: Make) -> None:
    outgoing = await make(reply_limit=1000)
    async with serve(reply(bytes(1000))) as server:
        assert len((await outgoing.call(GET, at(server), CREDENTIAL)).body) == 1000


async def test_a_call_ends_when_its_time_is_up(make: Make) -> None:
    outgoing = await make(call_time=0.05)

    async with serve(lambda _: chunked_forever()) as server:
        with pytest.raises(Unavailable, match="did not answer within"):
            await outgoing.call(GET, at(server), CREDENTIAL)


def chunked_forever() -> list[bytes]:
    return [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n.\r\n"]


async def test_a_streamed_reply_ends_when_it_is_silent_for_too_long(make: Make) -> None:
    outgoing = await make(idle_time=0.05)
    async with serve(lambda _: chunked_forever()) as server:
        with pytest.raises(Unavailable, match="did not go on"):
            async with outgoing.stream(GET, at(server), CREDENTIAL) as answered:
                async for chunk in answered.body():
                    assert chunk == b"."


async def refused_port() -> int:
    async with serve(b"") as server:
        return server.port


FAILING = {
    "hangs up": b"",
    "hangs up in the body": b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\nx",
    "no HTTP": b"SSH-2.0-OpenSSH\r\n\r\n",
    "bad chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "long header": b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000 + b"\r\n\r\n",
    "bad gzip": reply(b"\xff\xff", content_encoding="gzip"),
    "cut gzip": reply(gzip.compress(b"hello", mtime=0)[:-4], content_encoding="gzip"),
}


def everything_in(error: BaseException) -> str:
    """The error with its chain, looked at harder than any log would; nothing of the library is in it."""
    chain: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        if (one := todo.pop()) is not None and one not in chain:
            chain.append(one)
            todo += [one.__cause__, one.__context__]
    assert not [one for one in chain if type(one).__module__.startswith("aiohttp")]
    shown = [f"{one!s} {one!r} {one.args!r} {vars(one)!r}" for one in chain]
    return " ".join([*shown, *traceback.format_exception(error)])


@pytest.mark.parametrize("placement", [Placement.header(), Placement.query("key"), Placement.basic()])
@pytest.mark.parametrize("answer", FAILING.values(), ids=FAILING.keys())
async def test_no_error_holds_the_credential_or_the_query(
    outgoing: Outgoing, answer: bytes, placement: Placement, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    asked = OutgoingRequest("GET", "/", "the=query")

    async with serve(answer) as server:
        with pytest.raises(CompanyAgentsError) as failed:
            await outgoing.call(asked, at(server, placement), CREDENTIAL)
    shown = everything_in(failed.value) + caplog.text
    assert "127.0.0.1" in failed.value.sentence
    assert "xoxb-a-token" not in shown
    assert "the=query" not in shown


async def test_a_refused_connection_is_one_sentence_that_names_the_host(outgoing: Outgoing) -> None:
    there = Destination.at(f"http://127.0.0.1:{await refused_port()}", Placement.query("key"), allow_private=True)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1 could not be connected to") as failed:
        await outgoing.call(GET, there, CREDENTIAL)
    assert "xoxb-a-token" not in everything_in(failed.value)
    assert failed.value.__cause__ is None
    assert failed.value.__context__ is None


async def test_after_closing_no_call_is_made(make: Make) -> None:
    outgoing = await make()
    await outgoing.close()
    async with serve(reply()) as server:
        with pytest.raises(Unavailable, match="closed"):
            await outgoing.call(GET, at(server), CREDENTIAL)
    assert server.connections == 0


async def test_what_is_printed_of_a_request_and_a_reply_is_harmless() -> None:
    asked = OutgoingRequest("GET", "/", "private=1", {"X-A": "private"}, b"private")
    assert "private" not in repr(asked)
