"""
A provider that echoes what it was sent, seen from the other side of the gateway: once in each way, and what follows comes as it
was sent.
"""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web

from company_agents.outgoing.reply_search import REMOVED, encodings
from company_agents.outgoing.spelling import read
from tests.gateway.conftest import BEARER, SECRET, Connect, Here
from tests.gateway.standins import service

GONE = REMOVED.decode()
THROUGHOUT = "".join(f"\\u{ord(char):04x}" for char in SECRET)
IN_LINES = base64.encodebytes(f"accept: */*, x-more: yes, authorization: Bearer {SECRET} and so on".encode()).decode()


@pytest.fixture
async def here(connect: Connect, door: str) -> AsyncIterator[Here]:
    async with service(BEARER) as started:
        yield await connect(started, door=door)


def leaks(text: bytes) -> bool:
    return any(form in text or form in read(text) for form in encodings(SECRET.encode()))


def body(content: bytes, kind: str, **headers: str) -> Callable[[], web.StreamResponse]:
    return lambda: web.Response(body=content, headers={"Content-Type": kind, **headers})


def events(*lines: str) -> bytes:
    return "".join(f"data: {line}\n" for line in lines).encode() + b"\n"


AFTER = b'{"n": 3}\n'
WAYS: dict[str, Callable[[], web.StreamResponse]] = {
    "plain": body(SECRET.encode() + b" " + AFTER, "text/plain"),
    "JSON": body(json.dumps({"headers": {"authorization": f"Bearer {SECRET}"}}).encode() + AFTER, "application/json"),
    "JSON, escaped throughout": body(f'{{"token": "{THROUGHOUT}"}}'.encode() + AFTER, "application/json"),
    "lines of JSON": body(b'{"n": 1}\n{"n": "' + SECRET.encode() + b'"}\n' + AFTER, "application/x-ndjson"),
    "events": body(events("1") + events(f"token {SECRET}") + events("2") + AFTER, "text/event-stream"),
    "base64 in lines of an event": body(events(*IN_LINES.strip().split("\n")) + AFTER, "text/event-stream"),
    "hex": body(SECRET.encode().hex().encode() + AFTER, "text/plain"),
    "percent-encoded twice": body(quote(quote(f"<{SECRET}>")).encode() + AFTER, "text/plain"),
    "UTF-16": body(SECRET.encode("utf-16") + AFTER, "application/octet-stream"),
    "gzip": body(gzip.compress(SECRET.encode() + AFTER), "text/plain", **{"Content-Encoding": "gzip"}),
    "deflate": body(zlib.compress(SECRET.encode() + AFTER), "text/plain", **{"Content-Encoding": "deflate"}),
    "an error": lambda: web.Response(status=500, body=f"failed for {SECRET} ".encode() + AFTER),
}


@pytest.mark.parametrize("way", WAYS)
async def test_no_echo_in_a_body_leaves_the_gateway(here: Here, http: aiohttp.ClientSession, way: str) -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        return WAYS[way]()

    here.service.on("GET", "/echo", echo)
    async with http.get(f"{here.url}/echo", headers=here.bearer) as reply:
        assert "Content-Encoding" not in reply.headers
        out = await reply.read()
    assert not leaks(out)
    assert REMOVED in out
    assert out.endswith(AFTER)


async def test_no_echo_in_pieces_leaves_the_gateway(here: Here, http: aiohttp.ClientSession) -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for byte in events(f"token {THROUGHOUT}") + events(SECRET) + AFTER:
            await answer.write(bytes([byte]))
        return answer

    here.service.on("GET", "/echo", echo)
    async with http.get(f"{here.url}/echo", headers=here.bearer) as reply:
        assert await reply.read() == events(f"token {GONE}") + events(GONE) + AFTER


async def test_no_echo_in_a_header_or_an_address_leaves_the_gateway(here: Here, http: aiohttp.ClientSession) -> None:
    elsewhere = f"https://elsewhere.example/?token={SECRET}"

    async def echo(request: web.Request) -> web.StreamResponse:
        headers = {"X-Echo": f"Bearer {SECRET}", "X-Hex": SECRET.encode().hex(), "X-Other": "c", "Location": elsewhere}
        return web.Response(status=302, headers={**headers, "Link": f'<{elsewhere}>; rel="next"'})

    here.service.on("GET", "/echo", echo)
    async with http.get(f"{here.url}/echo", headers=here.bearer, allow_redirects=False) as reply:
        assert reply.status == 302
        assert not leaks("\n".join(f"{name}: {value}" for name, value in reply.headers.items()).encode())
        assert (reply.headers["X-Echo"], reply.headers["X-Other"]) == (f"Bearer {GONE}", "c")
        assert reply.headers["Location"].endswith(f"?token={GONE}")
