"""
Homes with odd names, and homes and servers that do not start: each says why, in one sentence.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path

import pytest

from company_agents.db import embedded, host, locks
from company_agents.db.embedded import join
from company_agents.db.supervisor import ServerLog
from company_agents.errors import MayNotStart
from tests.database.processes import (
    NOBODY,
    ROOT,
    clean,
    one,
    the_supervisor,
    until,
    wait_stopped,
)


@pytest.mark.parametrize(
    "name",
    ['it\'s "odd" \\ $HOME 漢', "a,b", "x" * 120],
    ids=["spaces and quotes", "comma", "too long for a socket"],
)
def test_a_home_may_be_called_anything(tmp_path, name):
    home = tmp_path / name / "home"
    try:
        with join(home) as member, join(home) as second:
            folder = member.database.socket_dir
            assert len(os.fsencode(folder / host.SOCKET_NAME)) <= host.LONGEST_SOCKET_PATH
            assert one(second.database, "SELECT 1") == 1
        wait_stopped(home)
        assert not folder.exists() or folder.samefile(home / "db")
    finally:
        clean(home)


def test_a_folder_for_the_socket_is_made_anew_and_never_one_of_somebody_else(tmp_path):
    account = host.find_account("company-agents")
    home, deep = tmp_path / "home", tmp_path / ("x" * 120)
    (home / "locks").mkdir(parents=True)
    first = host.socket_folder(home, deep, account, None)
    assert host.socket_folder(home, deep, account, None) == first
    first.rmdir()  # as after a restart of the machine
    assert host.socket_folder(home, deep, account, None) == first
    first.rmdir()
    first.symlink_to(tmp_path)
    second = host.socket_folder(home, deep, account, None)
    assert second != first
    first.unlink()
    second.chmod(0o755)
    third = host.socket_folder(home, deep, account, None)
    assert third != second
    second.rmdir()
    third.rmdir()


# --- what does not start says why


def refused(home: Path, postgres_bin: Path | None = None) -> MayNotStart:
    with pytest.raises(MayNotStart) as caught:
        join(home, postgres_bin=postgres_bin).close()
    assert caught.value.hint
    assert "\n" not in caught.value.sentence
    return caught.value


def test_a_data_folder_of_another_postgres_is_refused(home):
    file = home / "db" / "data" / "PG_VERSION"
    right = file.read_text()
    file.write_text("9\n")
    try:
        assert "made by Postgres 9" in refused(home).sentence
    finally:
        file.write_text(right)


def test_a_home_of_another_os_user_is_refused(tmp_path):
    home = Path("/usr")
    if ROOT:
        home = tmp_path / "home"
        home.mkdir()
        os.chown(home, NOBODY, NOBODY)
    assert "belongs to the user" in refused(home).sentence


def test_a_home_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    assert "file exists" in refused(tmp_path / "file" / "home").sentence
    assert "one line" in refused(tmp_path / "a\nb").sentence


def test_a_shared_folder_is_no_home(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    assert "other things" in refused(shared).sentence


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "is full"), (errno.EROFS, "read-only"), (errno.EACCES, "may not be used"), (errno.EIO, "error")],
)
def test_a_failing_file_system_is_explained(number, words):
    error = locks.explained(OSError(number, os.strerror(number), "/home/db"), Path("/home"))
    assert words in error.sentence
    assert error.hint


@pytest.mark.parametrize(
    ("initdb", "words"),
    [
        ('echo "initdb: error: could not write: No space left on device" >&2; exit 1', "is full"),
        ('echo "initdb: error: it broke" >&2; exit 1', "it broke"),
        ("kill -9 $$", "could not be made"),
    ],
)
def test_a_failing_start_says_why(tmp_path, fresh_home, initdb, words):
    tmp_path.chmod(0o755)
    programs = reachable_folder()
    try:
        program(programs / "postgres", 'echo "postgres (PostgreSQL) 18.6"')
        program(programs / "initdb", initdb)
        assert words in refused(fresh_home, postgres_bin=programs).sentence
        program(programs / "postgres", 'echo "postgres (PostgreSQL) 9.6.1"')
        assert "version 9" in refused(fresh_home, postgres_bin=programs).sentence
    finally:
        shutil.rmtree(programs)
    assert "no Postgres server" in refused(fresh_home, postgres_bin=programs).sentence


def reachable_folder() -> Path:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    return folder


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_server_that_never_comes_up_is_given_up_with_its_last_words(home):
    conf = home / "db" / "data" / "postgresql.conf"
    right = conf.read_text()
    conf.write_text(right + "\nmax_connections = none\n")
    try:
        assert "the database does not start" in refused(home).sentence
    finally:
        conf.write_text(right)
    with join(home) as member:
        assert one(member.database, "SELECT 1") == 1


def test_a_failed_restart_is_told_to_the_watcher_and_tried_again(home, monkeypatch):
    heard: list[MayNotStart | None] = []
    right, broken = embedded._ensure, threading.Event()

    def ensure(start, until):
        if not broken.is_set():
            broken.set()
            raise MayNotStart("not now")
        return right(start, until)

    with join(home) as member:
        monkeypatch.setattr(embedded, "_ensure", ensure)
        member.watch(heard.append)
        os.kill(the_supervisor(home), signal.SIGKILL)
        until(lambda: True if len(heard) == 2 else None)
        assert [str(error) for error in heard] == ["not now", "None"]
        assert one(member.database, "SELECT 1") == 1


def test_the_servers_log_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("company_agents.db.supervisor.LOG_SIZE", 1000)
    log = ServerLog(tmp_path / "postgres.log")
    for number in range(100):
        log.take(b"LOG:  %d %s\n" % (number, b"x" * 90))
    log.take(b"2026 [1] FATAL:  the last word\n")
    assert log.serious == "the last word"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["postgres.log", "postgres.log.1"]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2500
    assert "the last word" in (tmp_path / "postgres.log").read_text()


@pytest.mark.skipif(not ROOT, reason="an ordinary user's database lies in the home and goes with it")
def test_a_database_whose_home_was_deleted_is_known_as_left_behind(fresh_home):
    join(fresh_home).close()
    wait_stopped(fresh_home)
    folder = (fresh_home / "db").resolve()
    try:
        assert host.left_behind(fresh_home) == []
        shutil.rmtree(fresh_home)
        assert host.left_behind(fresh_home) == [folder]
        assert host.left_behind(fresh_home.with_name("another")) == []
        join(fresh_home).close()
        wait_stopped(fresh_home)
        assert (fresh_home / "db").resolve() != folder
        assert host.left_behind(fresh_home) == [folder]
    finally:
        shutil.rmtree(folder)
    assert host.left_behind(fresh_home) == []
