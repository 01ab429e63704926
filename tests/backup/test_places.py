"""
Where scheduled backups lie: what a folder and a store promise alike, and what each has to itself.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import http.client
import os
import resource
import signal
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import botocore.session
import pytest
from pydantic import SecretStr

from company_agents.backup import s3
from company_agents.backup.place_failures import PlaceRefused, PlaceUnavailable
from company_agents.backup.places import FolderPlace, Place, backup_name, open_place
from company_agents.backup.s3 import S3Place
from company_agents.errors import CompanyAgentsError, MayNotStart, NotFound, WrongUsage
from company_agents.settings import Settings, read_settings
from tests.database.processes import ROOT
from tests.keysources.servers import moto as aws
from tests.keysources.servers.moto import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, Moto
from tests.outgoing.servers import Recorded, Server, authority, reply, serve

AT = datetime(2026, 3, 1, 3, 17, 5, tzinfo=UTC)
CONTENT = os.urandom(300_000)


def name() -> str:
    return backup_name(AT, uuid4())


@pytest.fixture(scope="module")
async def moto(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Moto]:
    async with aws.place(tmp_path_factory.mktemp("moto")) as place:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NO_PROXY", "*")
            yield place


class Bucket:
    """A bucket of this test, and an operator's hand in it."""

    def __init__(self, moto: Moto, home: Path) -> None:
        self.name = f"backups-{uuid4().hex[:12]}"
        self.url = f"http://127.0.0.1:{moto.port}"
        self.hand: Any = botocore.session.get_session().create_client(
            "s3",
            region_name=aws.REGION,
            endpoint_url=self.url,
            aws_access_key_id="operator",
            aws_secret_access_key="operator",
        )
        self.hand.create_bucket(Bucket=self.name, CreateBucketConfiguration={"LocationConstraint": aws.REGION})
        self.home = home

    def place(self, prefix: str = "nightly", **given: Any) -> S3Place:
        place = open_place(
            settings_of(self.home, backups=f"s3://{self.name}/{prefix}", backup_endpoint=self.url, **given)
        )
        assert isinstance(place, S3Place)
        return place

    def keys(self) -> list[str]:
        return [entry["Key"] for entry in self.hand.list_objects_v2(Bucket=self.name).get("Contents", ())]

    def unfinished(self) -> list[str]:
        return [entry["Key"] for entry in self.hand.list_multipart_uploads(Bucket=self.name).get("Uploads", ())]


def settings_of(home: Path, **given: Any) -> Settings:
    """Settings with these, by the names of the fields, and credentials of tests for a store."""
    credentials = {
        "aws_access_key_id": ACCESS_KEY,
        "aws_secret_access_key": SecretStr(SECRET_KEY),
        "aws_session_token": SecretStr(SESSION_TOKEN),
    }
    return read_settings(home=home).model_copy(update={**credentials, **given})


@pytest.fixture
def bucket(moto: Moto, tmp_path: Path) -> Bucket:
    return Bucket(moto, tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> FolderPlace:
    place = open_place(settings_of(tmp_path))
    assert isinstance(place, FolderPlace)
    return place


@pytest.fixture(params=["folder", "store"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "folder":
        return request.getfixturevalue("folder")
    return request.getfixturevalue("bucket").place()


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A backup that was just made."""
    path = tmp_path / "made"
    path.touch(mode=0o600)
    path.write_bytes(CONTENT)
    return path


async def refusal(work: Awaitable[object]) -> CompanyAgentsError:
    """What was raised; none of its words is a secret, down to the last cause."""
    with pytest.raises(CompanyAgentsError) as caught:
        await work
    text = "".join(traceback.format_exception(caught.value))
    assert not any(secret in text for secret in (SECRET_KEY, SESSION_TOKEN))
    assert caught.value.hint
    return caught.value


# — of every place —


async def test_what_was_put_there_is_listed_and_comes_back_as_it_was(place: Place, made: Path, tmp_path: Path) -> None:
    first, second = backup_name(AT, uuid4()), backup_name(AT.replace(day=2), uuid4())
    await place.put(second, made)
    await place.put(first, made)
    listed = await place.list()
    assert [(stored.name, stored.size) for stored in listed] == [(first, len(CONTENT)), (second, len(CONTENT))]
    assert all(abs((datetime.now(UTC) - stored.at).total_seconds()) < 3600 for stored in listed)
    await place.get(first, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == CONTENT
    assert stat.S_IMODE((tmp_path / "fetched").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["fetched", "made"]


async def test_the_beginning_can_be_read_without_the_rest(place: Place, made: Path) -> None:
    put = name()
    await place.put(put, made)
    assert await place.beginning(put, 64 * 1024) == CONTENT[: 64 * 1024]
    assert await place.beginning(put, 10 * len(CONTENT)) == CONTENT
    made.write_bytes(b"")
    empty = name()
    await place.put(empty, made)
    assert await place.beginning(empty, 100) == b""


async def test_the_same_name_once_more_replaces_what_was_there(place: Place, made: Path, tmp_path: Path) -> None:
    put = name()
    await place.put(put, made)
    await place.put(put, made)
    other = tmp_path / "other"
    other.write_bytes(b"other")
    await place.put(put, other)
    assert await place.beginning(put, 100) == b"other"
    assert len(await place.list()) == 1


async def test_what_is_deleted_is_gone_and_deleting_it_again_is_no_error(place: Place, made: Path) -> None:
    put = name()
    await place.put(put, made)
    await place.delete(put)
    await place.delete(put)
    assert await place.list() == []


async def test_one_that_is_not_there_is_not_found_and_leaves_nothing_behind(place: Place, tmp_path: Path) -> None:
    await place.delete(name())
    assert await place.list() == []
    for work in (place.get(name(), tmp_path / "fetched"), place.beginning(name(), 10)):
        assert isinstance(await refusal(work), NotFound)
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []


GOOD = backup_name(AT, UUID("f0c5dd61-e9b2-4b36-9b9e-0b6f8fb2a1c3"))


@pytest.mark.parametrize("bad", ["", "..", "../made", "backup.tar.zst", "/etc/passwd", f"{GOOD}/x", f"x/{GOOD}"])
async def test_a_name_that_is_not_ours_is_refused_everywhere(place: Place, bad: str, made: Path) -> None:
    for work in (place.put(bad, made), place.get(bad, made), place.beginning(bad, 1), place.delete(bad)):
        assert isinstance(await refusal(work), WrongUsage)
    assert made.read_bytes() == CONTENT


async def test_a_file_that_is_not_there_is_not_put(place: Place, tmp_path: Path) -> None:
    assert "none" in (await refusal(place.put(name(), tmp_path / "none"))).sentence
    assert await place.list() == []


def test_the_names_of_backups_are_in_order_of_time_and_two_of_one_moment_differ() -> None:
    ids = [uuid4() for _ in range(2)]
    assert backup_name(AT, ids[0]) == f"company-agents-20260301T031705Z-{ids[0].hex[:12]}.tar.zst"
    assert backup_name(AT, ids[0]) != backup_name(AT, ids[1])
    assert sorted([backup_name(AT.replace(year=2027), ids[0]), backup_name(AT, ids[1])])[0] == backup_name(AT, ids[1])


# — addresses —


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("data/backups", "file://{home}/data/backups"),
        ("/mnt/backups", "file:///mnt/backups"),
        ("file:///mnt/my backups/", "file:///mnt/my backups"),
        ("../backups", "file://{parent}/backups"),
        ("s3://my-bucket", "s3://my-bucket"),
        ("s3://my-bucket/", "s3://my-bucket"),
        ("s3://my-bucket/a/b_c/", "s3://my-bucket/a/b_c"),
    ],
)
def test_an_address_is_shown_as_it_was_meant(address: str, shown: str, tmp_path: Path) -> None:
    place = open_place(settings_of(tmp_path, backups=address))
    assert place.address == shown.format(home=tmp_path, parent=tmp_path.parent)


@pytest.mark.parametrize(
    "address",
    [
        *("file://host/folder", "file://folder", "ftp://host/folder", "s3://", "s3:///prefix", "s3://Bucket", "s3://b"),
        *(
            "s3://key:hunter2-hunter2@my-bucket/x",
            "s3://my-bucket/../x",
            "s3://my-bucket//x",
            "s3://my-bucket/x?hunter2",
        ),
        *("https://hunter2@host", "  ", "a\0hunter2"),
    ],
)
def test_a_malformed_address_stops_the_start_and_is_not_repeated(address: str, tmp_path: Path) -> None:
    with pytest.raises(MayNotStart) as caught:
        open_place(settings_of(tmp_path, backups=address))
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    assert "s3://bucket/prefix" in caught.value.hint


@pytest.mark.parametrize(
    "endpoint", ["http://store.example.com", "store.example.com", "https://u:hunter2@host", "ftp://h"]
)
def test_an_endpoint_that_would_show_backups_to_the_way_is_refused(endpoint: str, tmp_path: Path) -> None:
    with pytest.raises(MayNotStart, match="COMPANY_AGENTS_BACKUP_ENDPOINT") as caught:
        open_place(settings_of(tmp_path, backups="s3://my-bucket", backup_endpoint=endpoint))
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


# — folders —


async def test_a_folder_in_the_home_is_made_for_its_owner_alone(
    folder: FolderPlace, made: Path, tmp_path: Path
) -> None:
    before = os.umask(0)
    try:
        await folder.put(name(), made)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.folder.iterdir()] == [0o600]


async def test_a_folder_in_the_home_that_others_could_enter_is_closed_to_them(folder: FolderPlace, made: Path) -> None:
    folder.folder.mkdir(parents=True, mode=0o755)
    folder.folder.chmod(0o755)
    await folder.put(name(), made)
    assert stat.S_IMODE(folder.folder.stat().st_mode) == 0o700


async def test_a_file_that_others_can_read_is_not_the_one_that_is_kept(folder: FolderPlace, made: Path) -> None:
    made.chmod(0o644)
    put = name()
    await folder.put(put, made)
    assert stat.S_IMODE((folder.folder / put).stat().st_mode) == 0o600
    assert made.stat().st_nlink == 1


async def test_on_one_file_system_a_backup_takes_no_room_twice(folder: FolderPlace, made: Path) -> None:
    put = name()
    await folder.put(put, made)
    assert (folder.folder / put).samefile(made)
    assert folder.local(put) == folder.folder / put


async def test_a_link_is_not_what_is_kept_or_read(folder: FolderPlace, made: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(made)
    put = name()
    await folder.put(put, tmp_path / "link")
    assert not (folder.folder / put).is_symlink()
    planted = name()
    (folder.folder / planted).symlink_to(made)
    assert [stored.name for stored in await folder.list()] == [put]
    assert isinstance(await refusal(folder.beginning(planted, 10)), CompanyAgentsError)


async def test_a_pipe_with_a_name_of_ours_keeps_nobody_waiting(folder: FolderPlace, made: Path) -> None:
    await folder.put(name(), made)
    planted = name()
    os.mkfifo(folder.folder / planted)
    assert len(await folder.list()) == 1
    assert isinstance(await refusal(folder.beginning(planted, 10)), NotFound)


async def test_what_is_not_ours_in_a_folder_is_neither_listed_nor_touched(folder: FolderPlace, made: Path) -> None:
    folder.folder.mkdir(parents=True)
    (folder.folder / "photos.tar.zst").write_bytes(b"mine")
    (folder.folder / name()).mkdir()
    put = name()
    await folder.put(put, made)
    assert [stored.name for stored in await folder.list()] == [put]
    assert (folder.folder / "photos.tar.zst").read_bytes() == b"mine"


async def test_more_than_the_last_folder_is_not_made_outside_of_the_home(tmp_path: Path, made: Path) -> None:
    (tmp_path / "home").mkdir()
    away = open_place(settings_of(tmp_path / "home", backups=f"{tmp_path}/mnt/nas/backups"))
    error = await refusal(away.put(name(), made))
    assert (error.reason, error.hint) == ("backup_place_missing", "is its disk mounted? else make the folder")
    assert not (tmp_path / "mnt").exists()
    assert (await refusal(away.list())).reason == "backup_place_missing"
    (tmp_path / "mnt" / "nas").mkdir(parents=True)
    await away.put(name(), made)
    assert len(await away.list()) == 1


async def test_what_a_kill_left_behind_goes_with_the_next_backup_and_what_is_being_written_stays(
    folder: FolderPlace, made: Path
) -> None:
    folder.folder.mkdir(parents=True)
    left, held, fresh = (folder.folder / f".part-{which}" for which in ("left", "held", "fresh"))
    for path in (left, held, fresh):
        path.write_bytes(b"-" * 1000)
    long_ago = time.time() - 3600
    for path in (left, held):
        os.utime(path, (long_ago, long_ago))
    with open(held, "rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        await folder.put(name(), made)
    assert [path.exists() for path in (left, held, fresh)] == [False, True, True]
    assert len(await folder.list()) == 1


async def test_a_folder_that_may_not_be_written_says_so(tmp_path: Path, made: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    place = open_place(settings_of(tmp_path / "home", backups=str(closed)))
    mounted = ROOT and mount("-o", "ro", folder=closed)
    if ROOT and not mounted:
        pytest.skip("root may write everywhere, and no disk can be mounted here")
    try:
        error = await refusal(place.put(name(), made))
    finally:
        if mounted:
            subprocess.run(["umount", str(closed)], check=True)
    assert isinstance(error, PlaceRefused)
    assert error.sentence == f"file://{closed} may not be written"


def mount(*options: str, folder: Path) -> bool:
    """Whether a disk of its own is at this folder now."""
    command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


@contextmanager
def no_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A small disk at this folder; where none can be had, a limit on files, and no links, which need no room."""
    mounted = ROOT and mount("-o", "size=64k,mode=700", folder=folder)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    if not mounted:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
        monkeypatch.setattr(os, "link", _no_link)
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)


def _no_link(*_: object) -> None:
    raise OSError(errno.EXDEV, "another file system")


async def test_a_full_disk_is_said_nothing_half_is_left_and_it_works_when_there_is_room(
    folder: FolderPlace, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.folder.mkdir(parents=True)
    small = made.with_name("small")
    small.write_bytes(CONTENT[:20_000])
    with no_room(folder.folder, monkeypatch):
        kept = name()
        await folder.put(kept, small)
        error = await refusal(folder.put(name(), made))
        assert (error.reason, error.exit_status) == ("backup_place_full", 69)
        assert folder.address in error.sentence
        assert "make room" in error.hint
        assert [path.name for path in folder.folder.iterdir()] == [kept]
        await folder.put(name(), small)
        assert len(await folder.list()) == 2


async def test_a_put_that_nobody_waits_for_any_more_leaves_nothing(
    folder: FolderPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", _no_link)
    # Without an end, as long as nobody stops it.
    endless = tmp_path / "endless"
    endless.symlink_to("/dev/zero")
    task = asyncio.create_task(folder.put(name(), endless))
    while not (folder.folder.is_dir() and any(folder.folder.iterdir())):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(20):
        while any(folder.folder.iterdir()):
            await asyncio.sleep(0.01)


async def test_a_put_that_is_killed_leaves_no_backup_and_no_lock(
    folder: FolderPlace, made: Path, tmp_path: Path
) -> None:
    endless, put = tmp_path / "endless", name()
    endless.symlink_to("/dev/zero")
    program = (
        "import asyncio, pathlib, sys; from company_agents.backup.places import FolderPlace;"
        "asyncio.run(FolderPlace(pathlib.Path(sys.argv[1])).put(sys.argv[2], pathlib.Path(sys.argv[3])))"
    )
    folder.folder.mkdir(parents=True)
    command = [sys.executable, "-c", program, str(folder.folder), put, str(endless)]
    with subprocess.Popen(command) as process:
        while not any(path.stat().st_size for path in folder.folder.iterdir()):
            await asyncio.sleep(0.01)
        process.kill()
    [left] = folder.folder.iterdir()
    assert await folder.list() == []
    os.utime(left, (0, 0))
    await folder.put(put, made)
    assert [path.name for path in folder.folder.iterdir()] == [put]


# — stores —


async def test_a_large_backup_goes_in_parts_and_comes_back(bucket: Bucket, tmp_path: Path) -> None:
    large, place, put = tmp_path / "large", bucket.place(), name()
    content = os.urandom(1024 * 1024) * 20
    large.write_bytes(content)
    await place.put(put, large)
    assert "-" in bucket.hand.head_object(Bucket=bucket.name, Key=f"nightly/{put}")["ETag"]
    assert bucket.unfinished() == []
    assert place.local(put) is None
    await place.get(put, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == content


async def test_of_a_bucket_only_our_names_directly_below_the_prefix_are_listed(bucket: Bucket, made: Path) -> None:
    place, put = bucket.place("a"), name()
    await place.put(put, made)
    for key in ("a/other.txt", f"a/b/{name()}", name(), f"ab/{name()}"):
        bucket.hand.put_object(Bucket=bucket.name, Key=key, Body=b"x")
    assert [stored.name for stored in await place.list()] == [put]
    assert len(await bucket.place("").list()) == 1
    await place.delete(put)
    assert len(bucket.keys()) == 4


async def test_a_bucket_is_listed_beyond_its_first_page(bucket: Bucket) -> None:
    for _ in range(1003):
        bucket.hand.put_object(Bucket=bucket.name, Key=f"nightly/{name()}", Body=b"")
    assert len(await bucket.place().list()) == 1003


async def test_parts_that_a_kill_left_behind_are_ended_a_day_later(
    bucket: Bucket, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, other = f"nightly/{name()}", "nightly/of-somebody-else"
    for key in (ours, other):
        bucket.hand.create_multipart_upload(Bucket=bucket.name, Key=key)
    # Moto says of each that it was begun in 2010.
    with monkeypatch.context() as patch:
        patch.setattr(s3, "_ABANDONED", timedelta(days=36500))
        await bucket.place().put(name(), made)
    assert sorted(bucket.unfinished()) == sorted([ours, other])
    await bucket.place().put(name(), made)
    assert bucket.unfinished() == [other]


async def test_a_bucket_that_is_not_there_is_named(bucket: Bucket, made: Path) -> None:
    settings = settings_of(bucket.home, backups="s3://no-such-bucket/x", backup_endpoint=bucket.url)
    for work in (open_place(settings).put(name(), made), open_place(settings).list()):
        error = await refusal(work)
        assert (error.reason, error.exit_status) == ("backup_place_missing", 69)
        assert "s3://no-such-bucket/x" in error.sentence


def failing(code: str, status: str) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as a test wants it</Message></Error>"
    return reply(body.encode(), status, content_type="application/xml")


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        (failing("AccessDenied", "403 Forbidden"), PlaceRefused, "backup_place_refused"),
        (failing("SignatureDoesNotMatch", "403 Forbidden"), PlaceRefused, "backup_place_refused"),
        (failing("SlowDown", "503 Slow Down"), PlaceUnavailable, "backup_place_throttled"),
        (failing("InternalError", "500 Internal"), PlaceUnavailable, "backup_place_error"),
        (failing("Odd", "400 Bad Request"), PlaceUnavailable, "backup_place_error"),
        (b"", PlaceUnavailable, "backup_place_unavailable"),
    ],
)
async def test_what_a_store_does_not_do_is_said_in_our_words(
    moto: Moto, answer: bytes, kind: type, reason: str, tmp_path: Path, made: Path
) -> None:
    async with serve(answer) as server:
        place = open_place(settings_of(tmp_path, backups="s3://my-bucket/x", backup_endpoint=server.url))
        fetched = tmp_path / "fetched"
        put, get = (lambda: place.put(name(), made)), (lambda: place.get(name(), fetched))
        for work in (put, get, place.list, lambda: place.delete(name()), lambda: place.beginning(name(), 9)):
            error = await refusal(work())
            assert isinstance(error, kind)
            assert error.reason == reason
            assert "s3://my-bucket/x" in error.sentence
    assert not (tmp_path / "fetched").exists()


async def test_a_store_that_nobody_serves_is_out_of_reach(moto: Moto, tmp_path: Path, made: Path) -> None:
    place = open_place(settings_of(tmp_path, backups="s3://my-bucket", backup_endpoint="http://127.0.0.1:9"))
    for work in (place.put(name(), made), place.list()):
        assert (await refusal(work)).reason == "backup_place_refused"


async def test_a_certificate_is_checked_also_where_the_variable_for_authorities_is_empty(
    moto: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "")
    ours = authority(tmp_path, "127.0.0.1")
    async with serve(failing("AccessDenied", "403 Forbidden"), ours.server) as server:
        given = {"backups": "s3://my-bucket", "backup_endpoint": server.url.replace("http:", "https:")}
        assert (await refusal(open_place(settings_of(tmp_path, **given)).list())).reason == "backup_place_tls"
        trusting = open_place(settings_of(tmp_path, **given, ca_file=ours.ca_file))
        assert (await refusal(trusting.list())).reason == "backup_place_refused"


async def test_without_credentials_it_says_which_settings_have_them(moto: Moto, tmp_path: Path) -> None:
    given: dict[str, Any] = dict.fromkeys(("aws_access_key_id", "aws_secret_access_key", "aws_session_token"))
    place = open_place(settings_of(tmp_path, backups="s3://my-bucket", backup_endpoint="http://127.0.0.1:9", **given))
    error = await refusal(place.list())
    assert isinstance(error, MayNotStart)
    assert "AWS_ACCESS_KEY_ID" in error.hint


class Between:
    """A proxy in front of moto, which sees each request first."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.parts = asyncio.Event()
        self.truncates = False

    def answer(self, request: Recorded) -> bytes:
        verb, path, _ = request.line.split(" ")
        if "partNumber=" in path:
            self.parts.set()
        if verb == "HEAD" and self.truncates:
            return b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {key: value for key, value in request.headers.items() if key not in ("content-length", "expect")}
        connection.request(verb, path, request.body, headers)
        found = connection.getresponse()
        body = found.read()
        connection.close()
        kept = {key: value for key, value in found.getheaders() if key.lower() in ("etag", "content-type")}
        return reply(body, f"{found.status} {found.reason}", **{key.replace("-", "_"): kept[key] for key in kept})


@pytest.fixture
async def between(bucket: Bucket, moto: Moto) -> AsyncIterator[tuple[Between, Server]]:
    proxy = Between(moto.port)
    async with serve(proxy.answer) as server:
        yield proxy, server


async def test_an_upload_that_nobody_waits_for_any_more_leaves_no_object_and_no_parts(
    bucket: Bucket, between: tuple[Between, Server], tmp_path: Path
) -> None:
    proxy, server = between
    large = tmp_path / "large"
    with open(large, "wb") as file:
        file.truncate(200 * 1024 * 1024)
    bucket.url = server.url
    task = asyncio.create_task(bucket.place().put(name(), large))
    async with asyncio.timeout(60):
        await proxy.parts.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while bucket.unfinished():
            await asyncio.sleep(0.05)
    assert bucket.keys() == []


async def test_an_object_of_another_size_than_was_sent_is_no_backup(
    bucket: Bucket, between: tuple[Between, Server], made: Path
) -> None:
    proxy, server = between
    proxy.truncates = True
    bucket.url = server.url
    error = await refusal(bucket.place().put(name(), made))
    assert "not what was sent" in error.sentence
