"""
Bodies as they stream, both ways: at once, in bounded memory, and never ended where they broke off.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import gzip
import json
import logging
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from company_agents.app import App
from tests.gateway.conftest import BEARER, SECRET, Connect, Here, serving
from tests.gateway.standins import service
from tests.gateway.wire import PATIENCE, Wire, asked, wire
from tests.promises.evidence import recorded

MEBIBYTE = 1024 * 1024


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def begun(here: Here, method: str, path: str, *headers: str) -> AsyncIterator[Wire]:
    """A request whose head is sent."""
    async with wire(here.url) as connection:
        lines = [f"{method} {urlsplit(here.url).path}{path} HTTP/1.1", f"Host: {urlsplit(here.url).netloc}"]
        lines += [f"Authorization: Bearer {here.token}", *headers]
        await connection.send(("\r\n".join(lines) + "\r\n\r\n").encode())
        yield connection


async def last_use(app: App, here: Here, **facts: Any) -> dict[str, Any]:
    """How the last use of a credential ended, once it is on record."""
    async with asyncio.timeout(PATIENCE):
        while not (found := await recorded(app, here.tenant.company.id, "credential.ended", purpose=None, **facts)):
            await asyncio.sleep(0.02)
    return found[-1]


# — at once —


async def test_each_event_arrives_before_the_next_is_sent(here: Here) -> None:
    told = asyncio.Event()

    async def events(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for number in range(3):
            told.clear()
            await answer.write(f"data: {number}\n\n".encode())
            await asyncio.wait_for(told.wait(), PATIENCE)
        return answer

    here.service.on("GET", "/events", events)
    async with begun(here, "GET", "/events") as connection:
        status, headers = await connection.head()
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        for number in range(3):
            assert await connection.chunk() == f"data: {number}\n\n".encode()
            told.set()
        assert await connection.chunk() == b""


async def test_an_upload_arrives_piece_by_piece_and_is_answered_while_it_goes_on(here: Here) -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        async for piece in request.content.iter_any():
            await answer.write(b"got " + piece)
        return answer

    here.service.on("POST", "/echo", echo)
    async with begun(here, "POST", "/echo", "Transfer-Encoding: chunked") as connection:
        await connection.send(b"3\r\none\r\n")
        assert (await connection.head())[0] == 200
        assert await connection.chunk() == b"got one"
        await connection.send(b"3\r\ntwo\r\n")
        assert await connection.chunk() == b"got two"
        await connection.send(b"0\r\n\r\n")
        assert await connection.chunk() == b""


@pytest.mark.parametrize("size", [0, 1, 1000, 2 * MEBIBYTE])
async def test_a_body_of_known_length_keeps_it(here: Here, http: aiohttp.ClientSession, size: int) -> None:
    here.service.on("PUT", "/x", {})
    async with http.put(f"{here.url}/x", data=bytes(size), headers=here.bearer) as reply:
        assert reply.status == 200
    [seen] = here.service.seen
    assert seen.body == bytes(size)
    assert seen.headers.get("Content-Length", "0") == str(size)
    assert "Transfer-Encoding" not in seen.headers


async def test_who_wants_to_be_asked_for_the_body_is_asked_once_it_is_known_who_it_is(here: Here) -> None:
    here.service.on("POST", "/x", {})
    async with begun(here, "POST", "/x", "Content-Length: 2", "Expect: 100-continue") as connection:
        assert (await connection.head())[0] == 100
        await connection.send(b"{}")
        assert (await connection.answer()).status == 200
    headers = {"Content-Length": "2", "Expect": "100-continue"}
    answer = await asked(here.url, f"{urlsplit(here.url).path}/x", headers, "POST")
    assert (answer.status, answer.headers["connection"]) == (401, "close")


# — bounded —

LARGE = 48 * MEBIBYTE
# What may be on the way at once: buffers here, and those of the system between three sockets.
ON_THE_WAY = 24 * MEBIBYTE


async def pieces(size: int, sent: list[int] | None = None) -> AsyncIterator[bytes]:
    piece = b"nothing that is looked for. " * 2340
    for _ in range(-(-size // len(piece))):
        if sent is not None:
            sent[0] += len(piece)
        yield piece


async def test_bodies_much_larger_than_what_is_kept_pass_both_ways(here: Here, http: aiohttp.ClientSession) -> None:
    arrived = [0]

    async def swallow(request: web.Request) -> web.Response:
        async for piece in request.content.iter_any():
            arrived[0] += len(piece)
        return web.json_response({"arrived": arrived[0]})

    async def pour(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        async for piece in pieces(LARGE):
            await answer.write(piece)
        return answer

    here.service.on("POST", "/up", swallow)
    here.service.on("GET", "/down", pour)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        async with http.post(f"{here.url}/up", data=pieces(LARGE), headers=here.bearer) as reply:
            assert (await reply.json())["arrived"] >= LARGE
        size = 0
        async with http.get(f"{here.url}/down", headers=here.bearer) as reply:
            async for piece in reply.content.iter_any():
                size += len(piece)
        grown = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert size >= LARGE
    # Client, gateway and provider together, which are all in this process.
    assert grown < LARGE / 4


async def stuck(moved: list[int]) -> int:
    """How much has moved when nothing does any more."""
    seen = -1
    async with asyncio.timeout(PATIENCE):
        while moved[0] != seen:
            seen = moved[0]
            await asyncio.sleep(0.3)
    return seen


async def test_a_provider_that_does_not_read_stops_the_client_from_sending(
    here: Here, http: aiohttp.ClientSession
) -> None:
    read, sent = asyncio.Event(), [0]

    async def slow(request: web.Request) -> web.Response:
        await asyncio.wait_for(read.wait(), PATIENCE)
        return web.json_response({"arrived": len(await request.read())})

    here.service.on("POST", "/slow", slow)

    async def post() -> int:
        async with http.post(f"{here.url}/slow", data=pieces(LARGE, sent), headers=here.bearer) as reply:
            arrived: int = (await reply.json())["arrived"]
            return arrived

    posting = asyncio.create_task(post())
    await until(lambda: sent[0] > 0)
    assert await stuck(sent) < ON_THE_WAY
    read.set()
    assert await posting == sent[0] >= LARGE


async def test_a_client_that_does_not_read_stops_the_provider_from_sending(here: Here) -> None:
    sent = [0]

    async def pour(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        async for piece in pieces(LARGE, sent):
            await answer.write(piece)
        return answer

    here.service.on("GET", "/pour", pour)
    async with begun(here, "GET", "/pour") as connection:
        await connection.head()
        assert await stuck(sent) < ON_THE_WAY
        size = 0
        while piece := await connection.chunk():
            size += len(piece)
    assert size == sent[0] >= LARGE


async def test_a_body_beyond_the_limit_of_streams_is_refused_whether_or_not_it_says_how_long_it_is(
    app: App, connect: Connect, http: aiohttp.ClientSession
) -> None:
    small = dataclasses.replace(app.relay, stream_limit=MEBIBYTE)
    outgoing = small.outgoing
    async with service(BEARER) as started, serving(dataclasses.replace(app, relay=small)) as door:
        here = await connect(started, door=door)

        async def pour(request: web.Request) -> web.StreamResponse:
            answer = web.StreamResponse()
            await answer.prepare(request)
            async for piece in pieces(4 * MEBIBYTE):
                await answer.write(piece)
            return answer

        async def swallow(request: web.Request) -> web.Response:
            await request.read()
            return web.json_response({})

        started.on("GET", "/pour", pour)
        started.on("POST", "/up", swallow)
        # Its head is there before it is known how long it is.
        with pytest.raises(aiohttp.ClientPayloadError):
            async with http.get(f"{here.url}/pour", headers=here.bearer) as reply:
                await reply.read()
        before, outgoing._stream_limit = outgoing._stream_limit, MEBIBYTE
        try:
            with contextlib.suppress(aiohttp.ClientOSError):
                async with http.post(
                    f"{here.url}/up", data=pieces(4 * MEBIBYTE), headers=here.bearer, expect100=True
                ) as reply:
                    assert reply.status == 403
            answer = await asked(
                here.url,
                f"{urlsplit(here.url).path}/up",
                {**here.bearer, "Content-Length": str(2 * MEBIBYTE), "Expect": "100-continue"},
                "POST",
            )
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (403, "refused")
        finally:
            outgoing._stream_limit = before
    assert [each.target for each in started.seen if each.method == "POST"] == []


# — broken —


async def cut(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()


async def in_chunks(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    await answer.write(b"the first half")
    await asyncio.sleep(0.05)
    await cut(request)
    return answer


async def in_a_body_of_known_length(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Length": "1000"})
    await answer.prepare(request)
    await answer.write(b"the first half")
    await asyncio.sleep(0.05)
    await cut(request)
    return answer


async def in_something_compressed(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Encoding": "gzip"})
    await answer.prepare(request)
    # A clean end of the transfer, and half of the content.
    await answer.write(gzip.compress(b"the first half, and the second" * 100)[:-12])
    return answer


@pytest.mark.parametrize("where", [in_chunks, in_a_body_of_known_length, in_something_compressed])
async def test_a_reply_that_breaks_off_is_never_ended_cleanly(app: App, here: Here, where: Any) -> None:
    here.service.on("GET", "/x", where)
    async with begun(here, "GET", "/x") as connection:
        # What is here at once and broken is an error; what has begun is broken off.
        status, headers = await connection.head()
        if status == 200:
            assert headers["transfer-encoding"] == "chunked"
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                while await connection.chunk():
                    pass
        else:
            assert (status, headers["company-agents-error"]) == (503, "unavailable")
    ended = await last_use(app, here)
    assert (ended["result"], ended["error"]) == ("failed", "unavailable")


async def test_a_reply_that_breaks_off_is_one_line_in_the_log_and_that_is_ours(
    app: App, here: Here, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    here.service.on("GET", "/x", in_chunks)
    async with begun(here, "GET", "/x") as connection:
        assert (await connection.head())[0] == 200
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            while await connection.chunk():
                pass
    await last_use(app, here)
    logging.getLogger("uvicorn.error").error("ASGI callable returned without starting response.")
    said = [(line["logger"], line["event"]) for line in lines() if line["level"] in ("warning", "error")]
    assert said == [
        ("company_agents.gateway", "a reply broke off"),
        # Of its other lines none is left away.
        ("uvicorn.error", "ASGI callable returned without starting response."),
    ]


async def test_a_provider_that_hangs_up_without_an_answer_is_a_failure(here: Here) -> None:
    async def nothing(request: web.Request) -> web.Response:
        await cut(request)
        return web.Response()

    here.service.on("GET", "/x", nothing)
    answer = await asked(here.url, f"{urlsplit(here.url).path}/x", here.bearer)
    assert (answer.status, answer.headers["company-agents-error"]) == (503, "unavailable")


# — gone —


@dataclasses.dataclass
class Cancelled:
    """A handler that waits, and knows when its client has gone."""

    begun: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    gone: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    head: bool = False

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        if self.head:
            await answer.prepare(request)
            await answer.write(b"first")
        self.begun.set()
        try:
            await asyncio.wait_for(asyncio.Event().wait(), PATIENCE)
        except asyncio.CancelledError:
            self.gone.set()
            raise
        return answer


@pytest.mark.parametrize("head", [False, True], ids=["before the head", "in the middle of the body"])
async def test_a_client_that_hangs_up_ends_the_providers_call(app: App, here: Here, *, head: bool) -> None:
    waits = Cancelled(head=head)
    here.service.on("POST", "/x", waits)
    async with begun(here, "POST", "/x", "Content-Length: 2") as connection:
        await connection.send(b"{}")
        await asyncio.wait_for(waits.begun.wait(), PATIENCE)
        if head:
            assert (await connection.head())[0] == 200
            assert await connection.chunk() == b"first"
    await asyncio.wait_for(waits.gone.wait(), PATIENCE)
    ended = await last_use(app, here)
    assert ended["result"] == ("broken off" if head else "failed")
    if head:
        assert (ended["status"], ended["bytes"]) == (200, 5)
    assert not app.relay.turns._ways and not app.relay.streams._ways


async def test_a_client_that_hangs_up_in_its_upload_ends_the_providers_call(here: Here) -> None:
    arrived = asyncio.Event()
    broken = asyncio.Event()

    async def swallow(request: web.Request) -> web.Response:
        try:
            async for _ in request.content.iter_any():
                arrived.set()
        except (ConnectionError, aiohttp.ClientError, asyncio.CancelledError):
            broken.set()
            raise
        return web.json_response({})

    here.service.on("POST", "/x", swallow)
    async with begun(here, "POST", "/x", "Transfer-Encoding: chunked") as connection:
        await connection.send(b"5\r\nfirst\r\n")
        await asyncio.wait_for(arrived.wait(), PATIENCE)
    await asyncio.wait_for(broken.wait(), PATIENCE)
    assert here.service.seen == []


# — at once, and no more than —


async def test_a_company_has_so_many_streams_and_no_more_and_waits_for_none(
    app: App, connect: Connect, http: aiohttp.ClientSession
) -> None:
    from company_agents.integrations.turns import Turns

    relay = dataclasses.replace(app.relay, turns=Turns(1, 5), streams=Turns(3, 0, "streams"))
    async with service(BEARER) as started, serving(dataclasses.replace(app, relay=relay)) as door:
        here, other = await connect(started, door=door), await connect(started, door=door)
        waits = Cancelled(head=True)
        started.on("GET", "/x", waits)
        started.on("GET", "/y", {})
        async with contextlib.AsyncExitStack() as streams:
            for _ in range(3):
                # One turn is enough for all of them: it is given back with the head of the reply.
                stream = await streams.enter_async_context(begun(here, "GET", "/x"))
                assert (await stream.head())[0] == 200
            async with http.get(f"{here.url}/y", headers=here.bearer) as refused:
                assert (refused.status, refused.headers["Retry-After"]) == (429, "5")
                assert "3 streams" in (await refused.json())["message"]
            async with http.get(f"{other.url}/y", headers=other.bearer) as reply:
                assert reply.status == 200
        await until(lambda: not relay.streams._ways)
        async with http.get(f"{here.url}/y", headers=here.bearer) as reply:
            assert reply.status == 200


async def test_a_credential_that_is_echoed_in_events_and_across_pieces_does_not_come_through(here: Here) -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for each in f"data: {SECRET}\n\n":
            await answer.write(each.encode())
            await asyncio.sleep(0)
        return answer

    here.service.on("GET", "/x", echo)
    answer = await asked(here.url, f"{urlsplit(here.url).path}/x", here.bearer)
    assert answer.body == b"data: [credential removed]\n\n"
