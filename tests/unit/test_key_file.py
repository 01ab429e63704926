"""
The key source `file`: what it writes, and every file that it will not take for a key.
"""

from __future__ import annotations

import os
import resource
import stat
import traceback
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import Exit, MayNotStart
from company_agents.keysources.base import open_source
from company_agents.keysources.failures import SourceChanged, SourceReadOnly
from company_agents.keysources.file import FileSource
from company_agents.keysources.found import Found
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings, read_settings

ROOT = os.geteuid() == 0
NOBODY = 65534
KEY = MasterKey(Sensitive(b"m" * 32))
OTHER = MasterKey(Sensitive(b"o" * 32))
NOTHING = Found((), None)


@pytest.fixture
def source(tmp_path: Path) -> FileSource:
    return FileSource.at("secrets/master.key", read_settings(home=tmp_path))


@pytest.fixture
async def made(source: FileSource) -> FileSource:
    """A source that holds KEY."""
    await add(source, KEY)
    await make_current(source, KEY)
    return source


async def add(source: FileSource, key: MasterKey) -> None:
    await source.add(key, await source.read())


async def make_current(source: FileSource, key: MasterKey) -> None:
    await source.make_current(key.key_id, await source.read())


async def refusal(work: Callable[[], Awaitable[object]]) -> MayNotStart:
    with pytest.raises(MayNotStart) as caught:
        await work()
    assert caught.value.exit_status is Exit.MAY_NOT_START
    assert caught.value.hint
    assert "\n" not in caught.value.sentence
    return caught.value


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def put(path: Path, content: bytes, permissions: int = 0o600) -> Path:
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(permissions)
    return path


def as_an_ordinary_user(made: FileSource, work: Callable[[FileSource], Coroutine[Any, Any, None]]) -> int:
    """The status of a child that did it: a child, because root may do everything whatever the mode says."""
    made.path.parent.parent.chmod(0o755)
    child = os.fork()
    if child == 0:
        try:
            if ROOT:
                for path in [made.path.parent, *made.path.parent.rglob("*")]:
                    os.chown(path, NOBODY, NOBODY)
                os.chdir(made.path.parent.parent)
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            # Relative, because the folders above are not for that user.
            try:
                work(FileSource(Path("secrets") / "master.key") if ROOT else made).send(None)
            except StopIteration:
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


# — what it writes —


async def test_a_key_lies_in_a_file_of_its_owner_alone_in_folders_of_its_owner_alone(made: FileSource) -> None:
    copy = made.ring / f"{KEY.key_id}.key"
    assert made.path.read_bytes() == copy.read_bytes() == KEY.secret.reveal()
    assert (mode(made.path), mode(copy)) == (0o600, 0o600)
    assert (mode(made.path.parent), mode(made.ring)) == (0o700, 0o700)


async def test_a_key_is_private_whatever_the_umask(source: FileSource) -> None:
    before = os.umask(0)
    try:
        await add(source, KEY)
        await make_current(source, KEY)
    finally:
        os.umask(before)
    assert (mode(source.path), mode(source.ring / f"{KEY.key_id}.key"), mode(source.ring)) == (0o600, 0o600, 0o700)


async def test_nothing_else_is_left_behind(made: FileSource) -> None:
    assert sorted(path.name for path in made.path.parent.rglob("*")) == [f"{KEY.key_id}.key", "keys", "master.key"]


async def test_an_empty_source_holds_nothing(source: FileSource) -> None:
    found = await source.read()
    assert (found.keys, found.current) == ((), None)


async def test_adding_a_key_twice_changes_nothing(made: FileSource) -> None:
    before = (made.ring / f"{KEY.key_id}.key").stat()
    await add(made, KEY)
    after = (made.ring / f"{KEY.key_id}.key").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


async def test_adding_never_writes_over_what_is_there(source: FileSource) -> None:
    source.ring.mkdir(parents=True)
    there = put(source.ring / f"{KEY.key_id}.key", OTHER.secret.reveal())
    assert (await refusal(lambda: source.add(KEY, NOTHING))).reason == "key_wrong"
    assert there.read_bytes() == OTHER.secret.reveal()


async def test_a_new_current_key_leaves_the_others_where_they_are(made: FileSource) -> None:
    await add(made, OTHER)
    await make_current(made, OTHER)
    found = await made.read()
    assert {key.key_id for key in found.keys} == {KEY.key_id, OTHER.key_id}
    assert found.current == OTHER


async def test_a_destroyed_key_is_gone_with_what_a_kill_left_of_it(made: FileSource) -> None:
    await add(made, OTHER)
    for folder in (made.ring, made.path.parent):
        put(folder / f".new-{OTHER.key_id}-0011", OTHER.secret.reveal())
    await made.destroy(OTHER.key_id, await made.read())
    await made.destroy(OTHER.key_id, await made.read())
    left = [path for path in made.path.parent.rglob("*") if path.is_file()]
    assert sorted(path.read_bytes() for path in left) == [KEY.secret.reveal()] * 2


@pytest.mark.parametrize("what", ["add", "make_current"])
async def test_a_disk_that_fills_up_while_a_key_is_written_leaves_what_was_there(made: FileSource, what: str) -> None:
    await add(made, OTHER)
    third, seen = MasterKey.generate(), await made.read()
    before = {path: path.read_bytes() for path in made.path.parent.rglob("*") if path.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))  # half of a key fits
    try:
        error = await refusal(lambda: made.add(third, seen) if what == "add" else made.make_current(OTHER.key_id, seen))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.reason == "key_unreadable"
    assert {path: path.read_bytes() for path in made.path.parent.rglob("*") if path.is_file()} == before


# — whose it is —


async def test_the_mark_of_whose_the_keys_are_is_a_file_of_its_owner_alone(made: FileSource) -> None:
    instance = uuid.uuid4()
    await made.claim(instance, await made.read())
    assert made.mark.read_text() == f"{instance}\n"
    assert mode(made.mark) == 0o600
    assert (await made.read()).owner == instance
    assert sorted(path.name for path in made.ring.iterdir()) == [f"{KEY.key_id}.key", "instance"]


@pytest.mark.parametrize("content", [b"", b"mine\n", b"\xff\xfe", b"0" * 64])
async def test_a_mark_that_names_no_instance_is_refused_and_not_taken_for_a_missing_one(
    made: FileSource, content: bytes
) -> None:
    put(made.mark, content)
    assert (await refusal(made.read)).reason == "key_source_mark"
    assert (await refusal(lambda: made.claim(uuid.uuid4(), NOTHING))).reason == "key_source_mark"
    assert made.mark.read_bytes() == content


async def test_a_mark_that_anybody_else_could_have_written_is_refused(made: FileSource) -> None:
    put(made.mark, f"{uuid.uuid4()}\n".encode(), 0o622)
    assert (await refusal(made.read)).reason == "key_mode"


async def test_a_source_that_changed_hands_since_it_was_seen_is_not_taken_over(made: FileSource) -> None:
    first, second, third = (uuid.uuid4() for _ in range(3))
    await made.claim(first, await made.read())
    seen = await made.read()
    await made.claim(second, seen)
    with pytest.raises(SourceChanged):
        await made.claim(third, seen)
    assert (await made.read()).owner == second


# — what it refuses —


@pytest.mark.parametrize("verb", ["check_writable", "claim", "add", "make_current", "destroy"])
async def test_a_folder_that_may_only_be_read_is_said_to_be_so_and_is_read(made: FileSource, verb: str) -> None:
    await add(made, OTHER)
    for folder in (made.ring, made.path.parent):
        folder.chmod(0o500)

    async def tried(source: FileSource) -> None:
        seen = await source.read()
        assert seen.current == KEY
        with pytest.raises(SourceReadOnly) as caught:
            await {
                "check_writable": lambda: source.check_writable(seen),
                "claim": lambda: source.claim(uuid.uuid4(), seen),
                "add": lambda: source.add(MasterKey.generate(), seen),
                "make_current": lambda: source.make_current(OTHER.key_id, seen),
                "destroy": lambda: source.destroy(OTHER.key_id, seen),
            }[verb]()
        assert caught.value.hint

    try:
        assert as_an_ordinary_user(made, tried) == 0
    finally:
        for folder in (made.path.parent, made.ring):
            folder.chmod(0o700)
    assert len(list(made.path.parent.rglob("*.key"))) == 3


@pytest.mark.parametrize("length", [0, 31, 33, 64])
async def test_a_key_of_another_length_is_refused(made: FileSource, length: int) -> None:
    put(made.path, b"x" * length)
    assert (await refusal(made.read)).reason == "key_length"


@pytest.mark.parametrize("bit", [0o001, 0o002, 0o004, 0o010, 0o020, 0o040], ids=oct)
@pytest.mark.parametrize("which", ["hint", "ring"])
async def test_a_key_that_anybody_else_could_use_is_refused(made: FileSource, bit: int, which: str) -> None:
    path = made.path if which == "hint" else made.ring / f"{KEY.key_id}.key"
    path.chmod(0o600 | bit)
    error = await refusal(made.read)
    assert error.reason == "key_mode"
    assert error.hint == f"chmod 600 {path}"


async def test_a_key_that_its_owner_may_only_read_is_taken(made: FileSource) -> None:
    made.path.chmod(0o400)
    assert (await made.read()).current == KEY


async def test_a_directory_is_no_key(made: FileSource) -> None:
    made.path.unlink()
    made.path.mkdir(mode=0o700)
    assert (await refusal(made.read)).reason == "key_directory"


async def test_a_pipe_is_no_key_and_keeps_nobody_waiting(made: FileSource) -> None:
    made.path.unlink()
    os.mkfifo(made.path, 0o600)
    assert (await refusal(made.read)).reason == "key_directory"


async def test_a_device_is_no_key(made: FileSource) -> None:
    made.path.unlink()
    made.path.symlink_to("/dev/zero")
    assert (await refusal(made.read)).reason == "key_symlink"


async def test_a_link_to_elsewhere_is_refused(made: FileSource, tmp_path: Path) -> None:
    elsewhere = put(tmp_path / "elsewhere.key", KEY.secret.reveal())
    made.path.unlink()
    made.path.symlink_to(elsewhere)
    assert (await refusal(made.read)).reason == "key_symlink"


async def test_a_link_within_the_folder_is_how_mounted_secrets_look(made: FileSource) -> None:
    data = made.path.parent / "..data"
    data.mkdir(mode=0o700)
    made.path.rename(data / "master.key")
    made.path.symlink_to(Path("..data") / "master.key")
    assert (await made.read()).current == KEY


async def test_a_link_that_leads_nowhere_is_refused(made: FileSource) -> None:
    made.path.unlink()
    made.path.symlink_to("gone.key")
    assert (await refusal(made.read)).reason == "key_unreadable"


async def test_links_in_a_circle_are_refused(made: FileSource) -> None:
    made.path.unlink()
    made.path.symlink_to("round.key")
    (made.path.parent / "round.key").symlink_to("master.key")
    assert (await refusal(made.read)).reason == "key_unreadable"


async def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "secrets", b"")
    source = FileSource.at("secrets/master.key", read_settings(home=tmp_path))
    assert (await refusal(source.read)).reason == "key_unreadable"
    assert (await refusal(lambda: source.add(KEY, NOTHING))).reason == "key_unreadable"


async def test_a_ring_file_with_another_key_than_its_name_says_is_refused(made: FileSource) -> None:
    put(made.ring / f"{OTHER.key_id}.key", KEY.secret.reveal())
    assert (await refusal(made.read)).reason == "key_wrong"


async def test_what_is_no_key_file_in_the_ring_is_passed_over(made: FileSource) -> None:
    put(made.ring / f".new-{OTHER.key_id}-00", b"half", 0o644)
    put(made.ring / "README", b"keys", 0o644)
    assert [key.key_id for key in (await made.read()).keys] == [KEY.key_id]


@pytest.mark.skipif(not ROOT, reason="only root can give a file away")
@pytest.mark.parametrize("which", ["hint", "ring"])
async def test_a_key_that_belongs_to_another_user_is_refused(made: FileSource, which: str) -> None:
    os.chown(made.path if which == "hint" else made.ring / f"{KEY.key_id}.key", NOBODY, NOBODY)
    assert (await refusal(made.read)).reason == "key_owner"


@pytest.mark.parametrize("which", ["hint", "ring", "folder", "ring folder"])
async def test_a_key_that_cannot_be_read_is_not_taken_for_a_missing_one(made: FileSource, which: str) -> None:
    locked = {
        "hint": made.path,
        "ring": made.ring / f"{KEY.key_id}.key",
        "folder": made.path.parent,
        "ring folder": made.ring,
    }[which]
    locked.chmod(0)

    async def tried(source: FileSource) -> None:
        assert (await refusal(source.read)).reason == "key_unreadable"

    try:
        assert as_an_ordinary_user(made, tried) == 0
    finally:
        locked.chmod(0o700)


async def test_no_refusal_shows_what_is_in_the_file(made: FileSource) -> None:
    put(made.path, b"a-key-with-a-line-end-at-its-end\n")
    error = await refusal(made.read)
    assert "a-key" not in f"{error.sentence} {error.hint} {error.__cause__!r} {error.__context__!r}"


# — where it lies —


def settings(home: Path, path: str | None = None, source: str | None = None) -> Settings:
    return read_settings(home=home).model_copy(
        update={"master_key_path": path, "master_key_source": SecretStr(source) if source is not None else None}
    )


def opened(home: Path, path: str | None = None, source: str | None = None) -> Path:
    found = open_source(settings(home, path, source))
    assert isinstance(found, FileSource)
    return found.path


def test_the_key_lies_where_the_guide_says(tmp_path: Path) -> None:
    assert opened(tmp_path) == tmp_path / "secrets" / "master.key"
    assert opened(tmp_path, "", "") == tmp_path / "secrets" / "master.key"


def test_the_key_can_be_moved(tmp_path: Path) -> None:
    assert opened(tmp_path, "/keys/a.key") == Path("/keys/a.key")
    assert opened(tmp_path, None, "file:///keys/a.key") == Path("/keys/a.key")
    assert opened(tmp_path, None, "file://other/a.key") == tmp_path / "other" / "a.key"
    assert opened(tmp_path, "~/a.key") == Path.home() / "a.key"


@pytest.mark.parametrize(
    ("path", "source"),
    [("/keys/a.key", "file:///keys/a.key"), ("~/a.key", "file://~/a.key")],
)
def test_both_settings_may_name_the_same_place(tmp_path: Path, path: str, source: str) -> None:
    assert opened(tmp_path, path, source) == opened(tmp_path, path)


@pytest.mark.parametrize("source", ["file:///keys/b.key", "file://a.key", "vault://kv/data/key", "env://KEY"])
def test_two_settings_that_differ_are_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(MayNotStart) as caught:
        open_source(settings(tmp_path, "/keys/a.key", source))
    assert (caught.value.reason, caught.value.exit_status) == ("key_settings_conflict", 78)


@pytest.mark.parametrize("source", ["ftp://host/key", "master.key", "://", "file://", "FILE:/x", "a-secret-by-mistake"])
def test_an_address_of_no_known_kind_is_refused_and_not_repeated(tmp_path: Path, source: str) -> None:
    with pytest.raises(MayNotStart) as caught:
        open_source(settings(tmp_path, None, source))
    assert (caught.value.reason, caught.value.exit_status) == ("key_source_unknown", 78)
    assert source not in caught.value.sentence
    assert "a-secret" not in caught.value.sentence + caught.value.hint
