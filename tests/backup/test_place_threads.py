"""
A place that does not answer keeps nobody waiting but those who asked it: it has threads of its own, which are few, end by
themselves, and do not keep the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from company_agents.backup import place_threads
from company_agents.backup.places import FolderPlace, Place, open_place
from company_agents.errors import Unavailable
from tests.backup.test_places import name, refusal, settings_of
from tests.outgoing.servers import Recorded, reply, serve

EMPTY = reply(b"<?xml version='1.0'?><ListBucketResult></ListBucketResult>", content_type="application/xml")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a store that takes every connection, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "made"
    path.write_bytes(b"made")
    return path


def store(endpoint: str, home: Path) -> Place:
    return open_place(settings_of(home, backups="s3://my-bucket/x", backup_endpoint=endpoint))


ASKED: dict[str, Callable[[Place, Path], Awaitable[object]]] = {
    "list": lambda place, made: place.list(),
    "beginning": lambda place, made: place.beginning(name(), 100),
    "delete": lambda place, made: place.delete(name()),
    "put": lambda place, made: place.put(name(), made),
    "get": lambda place, made: place.get(name(), made.with_name("fetched")),
}


async def gives_up(work: Awaitable[object]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await work


async def others_go_on() -> None:
    """What has nothing to do with the place finds a thread."""
    async with asyncio.timeout(20):
        await asyncio.gather(*(asyncio.to_thread(os.getpid) for _ in range(20)))


@pytest.mark.parametrize("asked", ASKED)
async def test_a_store_that_does_not_answer_takes_no_thread_that_others_need(
    asked: str, silent: str, made: Path, tmp_path: Path
) -> None:
    place = store(silent, tmp_path)
    await asyncio.gather(*(gives_up(ASKED[asked](place, made)) for _ in range(8)))
    await others_go_on()
    assert len([thread for thread in threading.enumerate() if "place-" in thread.name]) <= 3


async def test_a_disk_that_does_not_answer_takes_no_thread_that_others_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, answers, scandir = FolderPlace(tmp_path), threading.Event(), os.scandir

    def hangs(path: Any) -> Any:
        if path == tmp_path:
            answers.wait(60)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", hangs)
    try:
        await asyncio.gather(*(gives_up(place.list()) for _ in range(8)))
        await others_go_on()
    finally:
        answers.set()
    assert await place.list() == []


async def test_transfers_keep_no_look_waiting(silent: str, made: Path, tmp_path: Path) -> None:
    """As many as there can be are under way with a store that does not answer; then it is asked what it has."""
    answers = asyncio.Event()

    async def answer(request: Recorded) -> bytes:
        if request.line.startswith("PUT"):
            await answers.wait()
        return EMPTY

    async with standing_in(answer) as (url, asked):
        place = store(url, tmp_path)
        puts = [asyncio.create_task(place.put(name(), made)) for _ in range(8)]
        try:
            async with asyncio.timeout(20):
                while not asked:
                    await asyncio.sleep(0.01)
                assert await place.list() == []
        finally:
            for task in puts:
                task.cancel()
            answers.set()
            await asyncio.gather(*puts, return_exceptions=True)


# — one listing for all who ask at once —


@contextlib.asynccontextmanager
async def standing_in(answer: Callable[[Recorded], Awaitable[bytes]]) -> AsyncIterator[tuple[str, list[str]]]:
    """A store that takes its time: its address, and the lines that it was asked."""
    asked: list[str] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            while True:
                request = Recorded(await reader.readuntil(b"\r\n\r\n"), b"")
                asked.append(request.line)
                if request.headers.get("expect"):
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                await reader.readexactly(int(request.headers.get("content-length", 0)))
                writer.write(await answer(request))
                await writer.drain()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()


async def test_those_who_ask_at_once_what_there_is_share_one_look_and_the_next_is_a_new_one(tmp_path: Path) -> None:
    async with serve(EMPTY) as server:
        place = store(server.url, tmp_path)
        assert await asyncio.gather(*(place.list() for _ in range(5))) == [[]] * 5
        # The first one's had begun, perhaps, before the others asked.
        before = len(server.requests)
        assert before <= 2
        await place.list()
        assert len(server.requests) == before + 1


async def test_a_look_that_began_before_somebody_asked_is_not_shared_and_who_gives_up_takes_it_from_nobody(
    tmp_path: Path,
) -> None:
    answers = asyncio.Event()

    async def answer(request: Recorded) -> bytes:
        await answers.wait()
        return EMPTY

    async with standing_in(answer) as (url, asked), asyncio.timeout(30):
        place = store(url, tmp_path)
        before = asyncio.create_task(place.list())
        while not asked:
            await asyncio.sleep(0.01)
        first, second, third = (asyncio.create_task(place.list()) for _ in range(3))
        await asyncio.sleep(0)
        for task in (before, second):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        answers.set()
        assert (await first, await third) == ([], [])
        assert len(asked) == 2


# — nothing is left —


async def test_places_that_nobody_has_any_more_leave_no_thread_and_are_gone(tmp_path: Path) -> None:
    async with serve(EMPTY) as server:
        kept = []
        for _ in range(10):
            place = store(server.url, tmp_path)
            await place.list()
            await open_place(settings_of(tmp_path)).list()
            kept.append(weakref.ref(place))
            del place
    async with asyncio.timeout(20):
        while any("place-" in thread.name for thread in threading.enumerate()):
            await asyncio.sleep(0.01)
    gc.collect()
    assert [reference() for reference in kept] == [None] * 10


async def test_a_refusal_comes_to_all_who_wait_for_it(silent: str, tmp_path: Path) -> None:
    async with serve(reply(b"", "500 Internal")) as server:
        place = store(server.url, tmp_path)
        for error in await asyncio.gather(*(refusal(place.list()) for _ in range(3))):
            assert isinstance(error, Unavailable)


async def test_an_upload_that_is_given_up_is_undone_before_whoever_gave_it_up_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is told so twice, as at the end of a process."""
    monkeypatch.setattr(place_threads, "WIND_UP", 60.0)
    large = tmp_path / "large"
    with open(large, "wb") as file:
        file.truncate(100 * 1024 * 1024)
    begun = "<?xml version='1.0'?><InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"

    async def answer(request: Recorded) -> bytes:
        await asyncio.sleep(0.1)
        return reply(begun.encode() if request.line.startswith("POST") else b"", etag='"e"')

    async with standing_in(answer) as (url, asked), asyncio.timeout(60):
        task = asyncio.create_task(store(url, tmp_path).put(name(), large))
        while not any("partNumber=" in line for line in asked):
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asked[-1].startswith("DELETE")
        assert len([line for line in asked if "partNumber=" in line]) < 5


PROGRAM = """
import asyncio, pathlib, signal, sys
from botocore.config import Config
from pydantic import SecretStr
from company_agents.backup import s3
from company_agents.backup.places import open_place
from company_agents.settings import read_settings

home, endpoint, asked, wait = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "until told"
settings = read_settings(home=home).model_copy(update={
    "backups": "s3://my-bucket/x", "backup_endpoint": endpoint,
    "aws_access_key_id": "made-up", "aws_secret_access_key": SecretStr("made-up"),
})
name = "company-agents-20260301T031705Z-0123456789ab.tar.zst"
s3._SHORT = s3._LONG = Config(connect_timeout=300, read_timeout=300)

async def main():
    place = open_place(settings)
    work = {
        "list": lambda: place.list(),
        "put": lambda: place.put(name, home / "made"),
        "get": lambda: place.get(name, home / "fetched"),
    }[asked]()
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    done, _ = await asyncio.wait([task], timeout=None if wait else 0.5)
    if not wait:
        task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        print("gave up", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("ends", ["by itself", "until told"])
@pytest.mark.parametrize("asked", ["list", "put", "get"])
async def test_a_process_whose_store_is_silent_ends_when_it_is_to(
    asked: str, ends: str, silent: str, made: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), endpoint, asked, ends]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                listening.settimeout(60)
                # It has asked, and gets no answer.
                connection, _ = listening.accept()
                with connection:
                    connection.settimeout(60)
                    connection.recv(1)
                    if ends == "until told":
                        process.send_signal(signal.SIGTERM)
                    out, err = process.communicate(timeout=25)
            finally:
                process.kill()
    assert (process.returncode, out, err) == (0, b"gave up\n", b"")
