"""
A reply that echoes the credential, in each encoding, container, compression and cut: none leaks, and what follows comes as it
was sent.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import html
import json
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from urllib.parse import quote

import pytest

from company_agents.outgoing.client import Outgoing, OutgoingRequest
from company_agents.outgoing.destination import Destination, Placement
from company_agents.outgoing.reply import StreamedReply
from company_agents.outgoing.reply_search import REMOVED, encodings
from company_agents.outgoing.spelling import read
from company_agents.sensitive import Sensitive
from tests.outgoing.servers import Recorded, Server, reply, serve

TOKEN = "xoxb-4a/token+of=some&length~"
# A line of mail has 57 bytes: the credential stands in two.
AROUND = f"accept: */*, x-more: yes, authorization: Bearer {TOKEN}, and so on".encode()
GET = OutgoingRequest("GET", "/")


@pytest.fixture(scope="module")
async def outgoing() -> AsyncIterator[Outgoing]:
    """One for all of them: none leaves anything behind."""
    opened = Outgoing()
    await opened.start()
    yield opened
    await opened.close()


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(char):04x}" for char in text)


def wrapped(text: bytes) -> bytes:
    return base64.encodebytes(text).rstrip(b"\n")


ENCODINGS: dict[str, bytes] = {
    "plain": TOKEN.encode(),
    "hex": TOKEN.encode().hex().encode(),
    "hex in capitals": TOKEN.encode().hex().upper().encode(),
    "base64": base64.b64encode(TOKEN.encode()),
    "base64 for URLs": base64.urlsafe_b64encode(TOKEN.encode()),
    "base64 in the midst of more": base64.b64encode(AROUND),
    "base64 in lines": wrapped(AROUND),
    "percent-encoded": quote(TOKEN, safe="").encode(),
    "percent-encoded throughout": "".join(f"%{ord(char):02x}" for char in TOKEN).encode(),
    "percent-encoded twice": quote(quote(TOKEN, safe=""), safe="").encode(),
    "JSON": json.dumps(TOKEN)[1:-1].replace("/", "\\/").encode(),
    "JSON, as Go has it": TOKEN.replace("&", "\\u0026").encode(),
    "JSON, escaped throughout": escaped(TOKEN).encode(),
    "JSON in JSON": json.dumps(json.dumps(TOKEN).replace("=", "\\u003d"))[1:-1].encode(),
    "HTML": html.escape(TOKEN).encode(),
    "HTML in numbers": "".join(f"&#{ord(char)};" for char in TOKEN).encode(),
    "UTF-16": TOKEN.encode("utf-16"),
}


def as_text(echo: bytes) -> tuple[bytes, bytes]:
    return b"before: " + echo, b" after\n"


def as_json(echo: bytes) -> tuple[bytes, bytes]:
    return b'{"sent": "' + echo.replace(b"\n", b"\\n"), b'", "and": [1, 2, "after"]}'


def as_lines_of_json(echo: bytes) -> tuple[bytes, bytes]:
    return b'{"n": 1}\n{"n": 2, "sent": "' + echo.replace(b"\n", b"\\n"), b'"}\n{"n": 3}\n'


def as_events(echo: bytes) -> tuple[bytes, bytes]:
    lines = b"".join(b"data: " + line + b"\n" for line in echo.split(b"\n"))
    return b"event: a\ndata: before\n\n" + lines[:-1], b"\n\nevent: b\ndata: after\n\n"


def as_json_in_events(echo: bytes) -> tuple[bytes, bytes]:
    before, after = as_json(echo)
    return b'data: {"n": 1}\n\ndata: ' + before, after + b"\n\ndata: [DONE]\n\n"


CONTAINERS = [as_text, as_json, as_lines_of_json, as_events, as_json_in_events]


def deflated(body: bytes, bits: int) -> bytes:
    squeezing = zlib.compressobj(wbits=bits)
    return squeezing.compress(body) + squeezing.flush()


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "as it is": ("", lambda body: body),
    "gzip": ("gzip", gzip.compress),
    "deflate": ("deflate", lambda body: deflated(body, zlib.MAX_WBITS)),
    "bare deflate": ("deflate", lambda body: deflated(body, -zlib.MAX_WBITS)),
}


def pieces(body: bytes, way: str) -> Iterable[bytes]:
    if way == "byte by byte":
        return [body[at : at + 1] for at in range(len(body))]
    return [body] if way == "in one piece" else [body[: len(body) // 2], body[len(body) // 2 :]]


def leaks(out: bytes) -> list[bytes]:
    return [form for form in encodings(TOKEN.encode()) if form in out or form in read(out)]


async def answer(outgoing: Outgoing, server: Server, **headers: str) -> tuple[bytes, StreamedReply]:
    there = Destination.at(server.url, Placement.header(), allow_private=True)
    async with outgoing.stream(GET, there, Sensitive(TOKEN)) as found:
        return b"".join([piece async for piece in found.body()]), found


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("container", CONTAINERS, ids=lambda container: container.__name__)
@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_no_echo_in_a_body_comes_back(
    outgoing: Outgoing, encoding: str, container: Callable[[bytes], tuple[bytes, bytes]], coding: str
) -> None:
    name, encode = CODINGS[coding]
    before, after = container(ENCODINGS[encoding])
    body = encode(before + after)
    ways = iter(("in one piece", "in two", "byte by byte"))

    def chunks(_: Recorded) -> Iterable[bytes]:
        coded = f"content-encoding: {name}\r\n" if name else ""
        yield f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{coded}\r\n".encode()
        for piece in pieces(body, next(ways)):
            yield b"%x\r\n%s\r\n" % (len(piece), piece)
        yield b"0\r\n\r\n"

    async with serve(chunks) as server:
        for _ in range(3):
            out, found = await answer(outgoing, server)
            assert leaks(out) == []
            assert found.removed == 1
            assert REMOVED in out
            assert out.endswith(after)


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda container: container.__name__)
@pytest.mark.parametrize("encoding", ["plain", "base64 in lines", "JSON, escaped throughout", "percent-encoded twice"])
async def test_no_echo_comes_back_wherever_it_is_cut(
    outgoing: Outgoing, encoding: str, container: Callable[[bytes], tuple[bytes, bytes]]
) -> None:
    before, after = container(ENCODINGS[encoding])
    body = before + after
    half = asyncio.Event()
    place = [0]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body[: place[0]]))
            await writer.drain()
            await half.wait()
            half.clear()
            writer.write(body[place[0] :])

    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    server = Server(listening.sockets[0].getsockname()[1])
    there = Destination.at(server.url, Placement.header(), allow_private=True)
    whole: set[bytes] = set()
    for place[0] in range(len(body)):
        async with outgoing.stream(GET, there, Sensitive(TOKEN)) as found:
            # It is cut there for us too: what is here by now is taken before there is more.
            first = asyncio.ensure_future(anext(aiter(found.body())))
            await asyncio.sleep(0)
            half.set()
            out = await first
            whole.add(out + b"".join([piece async for piece in found.body()]))
    listening.close()
    assert len(whole) == 1
    assert leaks(whole.pop()) == []


@pytest.mark.parametrize("after", [b" and so on", b" and so on" * 10_000], ids=["short", "long"])
async def test_no_echo_in_the_parts_of_a_reply_that_is_here_whole_comes_back(outgoing: Outgoing, after: bytes) -> None:
    token = TOKEN.encode()
    for place in range(1, len(token)):
        parts = (b"it is ", token[:place], token[place:] + after, b"the end")
        body = b"".join(gzip.compress(part, mtime=0) for part in parts)
        async with serve(reply(body, content_encoding="gzip")) as server:
            out, found = await answer(outgoing, server)
        assert out == b"it is " + REMOVED + after + b"the end"
        assert found.removed == 1


# — outside of the body —


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name not in ("UTF-16", "base64 in lines")])
async def test_no_echo_in_a_header_comes_back(outgoing: Outgoing, encoding: str) -> None:
    echo = ENCODINGS[encoding].decode()
    async with serve(reply(b"fine", x_echo=f"a {echo} b", x_other="c")) as server:
        out, found = await answer(outgoing, server)
    assert out == b"fine"
    shown = "\n".join(f"{name}: {value}" for name, value in found.headers.items()).encode()
    assert leaks(shown) == []
    assert found.headers["X-Echo"].startswith("a ")
    assert found.headers["X-Other"] == "c"
    assert found.removed == 1


async def test_no_echo_in_the_name_of_a_header_comes_back(outgoing: Outgoing) -> None:
    async with serve(reply(b"", **{f"x-{TOKEN.encode().hex()}": "y", "x-other": "c"})) as server:
        _, found = await answer(outgoing, server)
    assert TOKEN.encode().hex() not in str(found.headers).lower()
    assert found.headers["X-Other"] == "c"


async def test_a_header_in_two_parts_is_not_put_together(outgoing: Outgoing) -> None:
    async with serve(reply(b"", x_one=TOKEN[:12], x_two=TOKEN[12:])) as server:
        _, found = await answer(outgoing, server)
    assert (found.headers["X-One"], found.headers["X-Two"], found.removed) == (TOKEN[:12], TOKEN[12:], 0)


@pytest.mark.parametrize("encoding", ["plain", "percent-encoded", "base64"])
async def test_no_echo_in_an_address_that_is_not_followed_comes_back(outgoing: Outgoing, encoding: str) -> None:
    location = f"https://elsewhere.example/callback?token={ENCODINGS[encoding].decode()}&a=b"
    async with serve(reply(b"", "302 Found", location=location)) as server:
        _, found = await answer(outgoing, server)
    assert found.status == 302
    assert leaks(found.headers["Location"].encode()) == []
    assert found.headers["Location"].startswith("https://elsewhere.example/callback?token=")


async def test_an_address_that_is_followed_is_searched_at_its_end(outgoing: Outgoing) -> None:
    def there(request: Recorded) -> bytes:
        if request.path == "/":
            return reply(b"", "302 Found", location=f"/next?token={quote(TOKEN, safe='')}")
        return reply(f"you came from {request.path}".encode())

    async with serve(there) as server:
        out, _ = await answer(outgoing, server)
    assert out == b"you came from /next?token=" + REMOVED


async def test_no_echo_in_a_trailer_or_in_the_words_beside_the_status_comes_back(outgoing: Outgoing) -> None:
    head = f"HTTP/1.1 200 OK {TOKEN}\r\ntransfer-encoding: chunked\r\ntrailer: x-echo\r\n\r\n"
    rest = f"4\r\nfine\r\n0\r\nx-echo: {TOKEN}\r\n\r\n"
    async with serve((head + rest).encode()) as server:
        out, found = await answer(outgoing, server)
    assert out == b"fine"
    assert TOKEN not in str(found.headers)
    assert not any(TOKEN in str(getattr(found, name)) for name in ("status", "headers"))


# — as it comes —


@pytest.mark.parametrize("coding", ["as it is", "gzip"])
async def test_each_event_is_here_before_the_next_is_sent(outgoing: Outgoing, coding: str) -> None:
    events = [
        b"data: " + echo.replace(b"\n", b"\ndata: ") + b"\n\n" for echo in ENCODINGS.values() if b"\0" not in echo
    ]
    got = asyncio.Event()
    squeezing = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        coded = b"content-encoding: gzip\r\n" if coding == "gzip" else b""
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n" + coded + b"\r\n")
        for event in events:
            if coding == "gzip":
                event = squeezing.compress(event) + squeezing.flush(zlib.Z_SYNC_FLUSH)
            writer.write(event)
            await got.wait()
            got.clear()
        writer.write(squeezing.flush() if coding == "gzip" else b"")
        writer.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    there = Destination.at(
        f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", Placement.header(), allow_private=True
    )
    count = 0
    async with outgoing.stream(GET, there, Sensitive(TOKEN)) as found:
        taken = b""
        async for piece in found.body():
            taken += piece
            while taken.endswith(b"\n\n"):
                assert leaks(taken) == []
                taken = b""
                count += 1
                got.set()
    listening.close()
    assert (count, found.removed) == (len(events), len(events))
