"""
What a store answers that it should not: cut off, without its lengths, without an end. Each is said as a place that is out
of reach, and nothing of it is taken for a backup.
"""

from __future__ import annotations

import itertools
import os
import socket
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from botocore.config import Config

from company_agents.backup import s3
from company_agents.backup.place_failures import PlaceUnavailable
from company_agents.backup.places import Place, open_place
from company_agents.errors import MayNotStart
from tests.backup.test_places import name, refusal, settings_of
from tests.outgoing.servers import Recorded, Server, chunked, reply, serve

Answer = Callable[[Recorded], bytes | Iterable[bytes]]

HUNDRED = bytes(range(100))
XML = "application/xml"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    # No waiting between two tries.
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)


def place_at(server: Server, home: Path) -> Place:
    return open_place(settings_of(home, backups="s3://my-bucket/x", backup_endpoint=server.url))


def sent(body: bytes, status: str = "206 Partial Content", **headers: str) -> bytes:
    """A reply that ends with the connection: what it lacks never comes. A header in here goes before our own."""
    lines = [f"{key.replace('_', '-')}: {value}" for key, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "connection: close", "", ""]).encode() + body


def page(*entries: str, token: str = "") -> bytes:
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
    listed = "".join(f"<Contents>{entry}</Contents>" for entry in entries)
    return reply(
        f"<?xml version='1.0'?><ListBucketResult>{more if token else ''}{listed}</ListBucketResult>".encode(),
        content_type=XML,
    )


def entry(key: str = "", size: str = "<Size>5</Size>", at: str = "2026-03-01T03:17:05.000Z") -> str:
    return f"<Key>x/{key or name()}</Key>{size}<LastModified>{at}</LastModified>"


def by_verb(**answers: bytes | Iterable[bytes]) -> Answer:
    return lambda request: answers[request.line.split(" ")[0].lower()]


async def test_a_download_that_is_cut_off_is_out_of_reach_and_leaves_nothing(tmp_path: Path) -> None:
    cut = by_verb(
        head=sent(b"", "200 OK", content_length="1000", etag='"e"'),
        get=sent(HUNDRED, "200 OK", content_length="1000", etag='"e"'),
    )
    async with serve(cut) as server:
        error = await refusal(place_at(server, tmp_path).get(name(), tmp_path / "fetched"))
    assert isinstance(error, PlaceUnavailable)
    assert "s3://my-bucket/x is out of reach" in error.sentence
    assert list(tmp_path.iterdir()) == []


async def test_a_download_that_is_not_what_was_stored_is_no_question_of_credentials(tmp_path: Path) -> None:
    other = b64encode(zlib.crc32(b"other").to_bytes(4, "big")).decode()
    headers = {"content_length": "100", "etag": '"e"', "x_amz_checksum_crc32": other}
    wrong = by_verb(head=sent(b"", "200 OK", **headers), get=sent(HUNDRED, "200 OK", **headers))
    async with serve(wrong) as server:
        error = await refusal(place_at(server, tmp_path).get(name(), tmp_path / "fetched"))
    assert isinstance(error, PlaceUnavailable)
    assert list(tmp_path.iterdir()) == []


async def test_a_disk_that_is_full_is_not_called_a_store_that_is_out_of_reach(tmp_path: Path) -> None:
    whole = by_verb(
        head=sent(b"", "200 OK", content_length="100", etag='"e"'),
        get=sent(HUNDRED, "200 OK", content_length="100", etag='"e"'),
    )
    async with serve(whole) as server:
        error = await refusal(place_at(server, tmp_path).get(name(), tmp_path / "none" / "fetched"))
    assert "my-bucket" not in error.sentence
    assert str(tmp_path / "none") in error.sentence


@pytest.mark.parametrize("which", ["put", "get", "list", "beginning", "delete"])
async def test_a_store_that_is_silent_is_not_called_a_disk_or_a_file(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for config in ("_SHORT", "_LONG"):
        quick = Config(connect_timeout=5, read_timeout=0.2, retries={"mode": "standard", "total_max_attempts": 2})
        monkeypatch.setattr(s3, config, quick)
    (tmp_path / "made").write_bytes(HUNDRED)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        place = place_at(Server(port=listening.getsockname()[1]), tmp_path)
        work = {
            "put": lambda: place.put(name(), tmp_path / "made"),
            "get": lambda: place.get(name(), tmp_path / "fetched"),
            "list": lambda: place.list(),
            "beginning": lambda: place.beginning(name(), 100),
            "delete": lambda: place.delete(name()),
        }[which]
        error = await refusal(work())
    assert error.reason == "backup_place_timeout"
    assert "s3://my-bucket/x" in error.sentence


async def test_what_cannot_be_read_here_is_not_called_a_store_that_is_out_of_reach(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    async with serve(by_verb(put=reply(etag='"e"'))) as server:
        error = await refusal(place_at(server, tmp_path).put(name(), folder))
    assert "my-bucket" not in error.sentence
    assert str(folder) in error.sentence


async def test_an_upload_of_which_nobody_says_how_long_it_is_was_not_made(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.write_bytes(HUNDRED)
    async with serve(by_verb(put=reply(etag='"e"'), head=sent(b"", "200 OK"))) as server:
        error = await refusal(place_at(server, tmp_path).put(name(), made))
    assert isinstance(error, PlaceUnavailable)


@pytest.mark.parametrize(
    "answer",
    [
        page(entry(), entry(size="")),
        page(entry(), entry(at="hunter2")),
        page(entry(size="<Size>hunter2</Size>")),
        page("<Size>5</Size>"),
        page(f"<Key>x/{name()}</Key><Size>5</Size>"),
        reply(b"hunter2, and no XML", content_type=XML),
        page(token="always-the-same"),
    ],
    ids=["size", "time", "odd size", "key", "no time", "no XML", "no end"],
)
async def test_a_listing_that_cannot_be_used_is_out_of_reach_and_not_repeated(answer: bytes, tmp_path: Path) -> None:
    async with serve(answer) as server:
        error = await refusal(place_at(server, tmp_path).list())
    assert isinstance(error, PlaceUnavailable)
    assert "hunter2" not in f"{error.sentence}{error.hint}"


async def test_a_listing_without_an_end_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_LISTING_TIME", 0.5)
    number = itertools.count()
    async with serve(lambda _: page(entry(), token=f"then-{next(number)}")) as server:
        error = await refusal(place_at(server, tmp_path).list())
    assert error.reason == "backup_place_timeout"


@pytest.mark.parametrize(
    "answer",
    [
        sent(HUNDRED[:10], content_length="100", content_range="bytes 0-99/5000"),
        sent(HUNDRED[:10], content_length="10", content_range="bytes 0-9/5000"),
        sent(HUNDRED[:10], content_length="100", content_range="bytes 0-99/*"),
        sent(HUNDRED, content_length="100", content_range="bytes 5-104/5000"),
        sent(HUNDRED[:10], content_length="10", content_range="hunter2"),
        sent(HUNDRED[:10], "200 OK", content_length="100"),
        sent(HUNDRED[:10], "200 OK"),
        sent(b"", content_length="100", content_range="bytes 0-99/5000"),
        sent(b"", "200 OK"),
    ],
    ids=[
        "cut",
        "shorter",
        "of unknown length",
        "another range",
        "odd",
        "cut whole",
        "unsaid",
        "nothing",
        "unsaid nothing",
    ],
)
async def test_a_beginning_that_is_cut_is_not_taken_for_a_whole_one(answer: bytes, tmp_path: Path) -> None:
    async with serve(answer) as server:
        error = await refusal(place_at(server, tmp_path).beginning(name(), 100))
    assert isinstance(error, PlaceUnavailable)
    assert "hunter2" not in f"{error.sentence}{error.hint}"


@pytest.mark.parametrize(
    ("answer", "length"),
    [
        (sent(HUNDRED, content_length="100", content_range="bytes 0-99/5000"), 100),
        (sent(HUNDRED, content_length="100", content_range="bytes 0-99/100"), 5000),
        (sent(HUNDRED, "200 OK", content_length="100"), 5000),
        (sent(HUNDRED + b"more", "200 OK", content_length="104"), 100),
        ([*chunked(HUNDRED, b"more")], 100),
    ],
    ids=["range", "range of all", "all", "all and more", "in chunks"],
)
async def test_a_beginning_that_is_whole_is_read_whatever_the_store_makes_of_a_range(
    answer: bytes | list[bytes], length: int, tmp_path: Path
) -> None:
    async with serve(lambda _: answer) as server:
        assert await place_at(server, tmp_path).beginning(name(), length) == HUNDRED


async def test_settings_of_aws_that_cannot_be_used_stop_the_start_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", f"none-{os.getpid()}")
    async with serve(page()) as server:
        with pytest.raises(MayNotStart, match="AWS's own settings"):
            await place_at(server, tmp_path).list()


@pytest.mark.parametrize("address", ["~nosuchuser-of-tests/backups", "~nosuchuser-of-tests"])
def test_a_home_of_somebody_who_is_not_there_stops_the_start(address: str, tmp_path: Path) -> None:
    with pytest.raises(MayNotStart) as caught:
        open_place(settings_of(tmp_path, backups=address))
    assert "COMPANY_AGENTS_BACKUPS is a folder" in caught.value.hint
