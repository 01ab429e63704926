"""
The embedded Postgres with real processes: who keeps it alive, and what a kill of each part does. The tests
hold as root (a service user runs Postgres) and as an ordinary user.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from company_agents.db.embedded import hold_home, join
from company_agents.errors import Busy
from tests.database.processes import (
    INSTANCE,
    MIGRATE,
    SERVE,
    connect,
    one,
    postmaster,
    supervisors,
    the_supervisor,
    until,
    using,
    wait_gone,
    wait_stopped,
)

# --- one server for all who use it


def test_a_fresh_home_gets_a_server_that_answers_each_role(fresh_home):
    with join(fresh_home) as member:
        for role in (MIGRATE, SERVE, INSTANCE):
            assert one(member.database, "SELECT current_user::text", role) == role
    assert stat.S_IMODE(fresh_home.stat().st_mode) == 0o700


def test_a_second_user_shares_the_server(home, member):
    before = postmaster(home)
    with join(home) as second:
        assert second.database == member.database
        assert one(second.database, "SELECT 1") == 1
        assert postmaster(home) == before
    assert len(supervisors(home)) == 1


def test_a_command_that_started_it_does_not_take_it_away(home):
    with using(home) as command:
        assert command.says() == "joined"
        with join(home) as second:
            before = postmaster(home)
            command.kill()
            assert one(second.database, "SELECT 1") == 1
            assert postmaster(home) == before


def test_it_stops_when_its_last_user_is_killed(home):
    with using(home) as user:
        assert user.says() == "joined"
        server, supervisor = postmaster(home), the_supervisor(home)
        user.kill()
        wait_gone(server)
        wait_gone(supervisor)
    assert not (home / "db" / "data" / "postmaster.pid").exists()


@pytest.mark.parametrize("words", [("child",), ("fork",), ("fork", "exec")], ids=" ".join)
def test_what_a_user_started_does_not_keep_it_alive(home, words):
    with using(home, *words) as user:
        assert user.says() == "joined"
        server = postmaster(home)
        user.kill()
        wait_gone(server)


def test_who_comes_while_it_stops_gets_a_new_one(home):
    for _ in range(5):
        with join(home) as member:
            assert one(member.database, "SELECT 1") == 1


def test_users_that_come_at_once_to_a_fresh_home_share_one_server(fresh_home):
    with contextlib.ExitStack() as stack:
        users = [stack.enter_context(using(fresh_home)) for _ in range(4)]
        assert [user.says() for user in users] == ["joined"] * 4
        assert len(supervisors(fresh_home)) == 1
    log = (fresh_home / "logs" / "database.log").read_text()
    assert log.count("is ready") == 1


def test_a_second_orchestrator_is_refused_and_told_of_the_first(home):
    with hold_home(home):
        with pytest.raises(Busy, match=rf"another orchestrator \(process {os.getpid()}\) runs on this home") as caught:
            hold_home(home)
        assert caught.value.hint
    hold_home(home).close()


# --- what a kill does


def test_a_killed_server_comes_back_with_what_was_committed(home, member):
    one(member.database, "CREATE TABLE IF NOT EXISTS kept AS SELECT 1 AS n", MIGRATE)
    before, supervisor = postmaster(home), the_supervisor(home)
    os.kill(before, signal.SIGKILL)
    wait_gone(before)
    assert one(member.database, "SELECT n FROM kept", MIGRATE) == 1
    assert postmaster(home) != before
    assert supervisors(home) == [supervisor]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_watching_user_gets_a_new_supervisor_when_that_is_killed(home, number):
    with using(home, "watch") as user:
        assert user.says() == "joined"
        with join(home) as member:
            one(member.database, "CREATE TABLE IF NOT EXISTS kept AS SELECT 1 AS n", MIGRATE)
            before, server = the_supervisor(home), postmaster(home)
            os.kill(before, number)
            assert user.says() == "back None"
            wait_gone(server)
            assert one(member.database, "SELECT n FROM kept", MIGRATE) == 1
            assert supervisors(home) != [before]


def test_a_server_does_not_outlive_a_killed_supervisor_and_the_next_start_waits_for_it(home):
    with join(home) as member, connect(member.database):
        server, supervisor = postmaster(home), the_supervisor(home)
        os.kill(supervisor, signal.SIGKILL)
        wait_gone(supervisor)
        with join(home) as second:
            wait_gone(server)
            assert one(second.database, "SELECT 1") == 1


@pytest.mark.parametrize("share", [0.1, 0.7])
def test_a_kill_while_the_data_folder_is_made_is_repaired_by_the_next_start(fresh_home, share):
    with using(fresh_home):
        until(lambda: next(iter(Path(os.path.realpath(fresh_home / "db")).glob("data.new-*/PG_VERSION")), None))
        time.sleep(share * 0.5)  # somewhere in the middle; any place will do
        os.kill(the_supervisor(fresh_home), signal.SIGKILL)
    with join(fresh_home) as member:
        assert one(member.database, "SELECT 1", INSTANCE) == 1
    # Something that initdb had started may have been writing a little longer; now it has ended too.
    wait_stopped(fresh_home)
    join(fresh_home).close()
    folder = Path(os.path.realpath(fresh_home / "db"))
    assert not list(folder.glob("data.new-*"))


def test_a_stale_pid_file_that_names_another_live_process_does_not_keep_it_down(home):
    file = home / "db" / "data" / "postmaster.pid"
    file.write_text(f"{os.getpid()}\n{home / 'db' / 'data'}\n1\n5432\n/nowhere\n\n\nready\n")
    with join(home) as member:
        assert one(member.database, "SELECT 1") == 1
