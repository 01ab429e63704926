"""
A Postgres of one's own, as DATABASE_URL names it: on a port, with a password that is really asked for.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from company_agents.db import host
from tests.database.processes import until

ADMINISTRATOR = "administrator"


class OwnPostgres:
    """A server on a port of this machine, with a database `agents` and its owner `app`, who may make roles."""

    def __init__(self, password: str, programs: Path, folder: Path, user: dict[str, Any]) -> None:
        self._programs, self._folder, self._user = programs, folder, user
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            self.port = chosen.getsockname()[1]
        self.address = self.address_of("app", password)
        self.administrator = self.address_of(ADMINISTRATOR, ADMINISTRATOR, "postgres")

    def address_of(self, user: str, password: str, database: str = "agents") -> str:
        """What goes into DATABASE_URL."""
        return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it; it answers when this returns."""
        settings = [f"-cport={self.port}", "-clisten_addresses=127.0.0.1", "-cunix_socket_directories=", "-cfsync=off"]
        command = [str(self._programs / "postgres"), "-D", str(self._folder / "data"), *settings]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log, stdout=log, cwd="/", **self._user)
        self.connect().close()

    def stop(self) -> None:
        """Stop it at once, as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None

    def connect(self) -> psycopg.Connection:
        """A connection of the administrator, as soon as there is one."""

        def look() -> psycopg.Connection | None:
            assert self._process is not None
            assert self._process.poll() is None, "Postgres did not start"
            with contextlib.suppress(psycopg.OperationalError):
                return psycopg.connect(self.administrator, autocommit=True)
            return None

        return until(look)


@contextlib.contextmanager
def own_postgres(password: str, postgres_bin: Path | None = None) -> Iterator[OwnPostgres]:
    """Make one and start it; nothing of it stays."""
    account = host.find_account("company-agents")
    programs = host.find_programs(postgres_bin, account)
    user: dict[str, Any] = {}
    if account.switch:
        user = {"user": account.uid, "group": account.gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if account.switch:
        shutil.chown(folder, account.uid, account.gid)
    try:
        _make(programs, folder, user)
        server = OwnPostgres(password, programs, folder, user)
        try:
            server.start()
            with server.connect() as connection:
                connection.execute(f"CREATE ROLE app LOGIN CREATEROLE PASSWORD '{password}'".encode())
                connection.execute("CREATE DATABASE agents OWNER app")
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def postgres_with(password: str) -> Iterator[str]:
    """Start one; the address of an empty database, with a user that may make the roles it needs."""
    with own_postgres(password) as server:
        yield server.address


def _make(programs: Path, folder: Path, user: dict[str, Any]) -> None:
    file = folder / "password"
    file.write_text(f"{ADMINISTRATOR}\n")
    if user:
        os.chown(file, user["user"], user["group"])
    command = [
        str(programs / "initdb"),
        f"--pgdata={folder / 'data'}",
        f"--pwfile={file}",
        "-U",
        ADMINISTRATOR,
        "-E",
        "UTF8",
    ]
    options = ["--auth=scram-sha-256", "--locale=C", "--no-sync", "--no-instructions"]
    subprocess.run([*command, *options], check=True, capture_output=True, cwd="/", **user)
