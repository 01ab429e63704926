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


@contextlib.contextmanager
def postgres_with(password: str) -> Iterator[str]:
    """Start one; the address of an empty database, with a user that may make the roles it needs."""
    account = host.find_account("company-agents")
    programs = host.find_programs(None, account)
    user: dict[str, Any] = {}
    if account.switch:
        user = {"user": account.uid, "group": account.gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if account.switch:
        shutil.chown(folder, account.uid, account.gid)
    try:
        _make(programs, folder, user)
        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            port = chosen.getsockname()[1]
        settings = [f"-cport={port}", "-clisten_addresses=127.0.0.1", "-cunix_socket_directories=", "-cfsync=off"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", folder / "data", *settings], stderr=log, stdout=log, cwd="/", **user
            )
        try:
            yield _prepared(port, password, server)
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make(programs: Path, folder: Path, user: dict[str, Any]) -> None:
    file = folder / "password"
    file.write_text(f"{ADMINISTRATOR}\n")
    if user:
        os.chown(file, user["user"], user["group"])
    command = [str(programs / "initdb"), f"--pgdata={folder / 'data'}", f"--pwfile={file}", "-U", ADMINISTRATOR, "-E", "UTF8"]
    options = ["--auth=scram-sha-256", "--locale=C", "--no-sync", "--no-instructions"]
    subprocess.run([*command, *options], check=True, capture_output=True, cwd="/", **user)


def _prepared(port: int, password: str, server: subprocess.Popen[bytes]) -> str:
    def look() -> psycopg.Connection | None:
        assert server.poll() is None, "Postgres did not start"
        with contextlib.suppress(psycopg.OperationalError):
            address = f"host=127.0.0.1 port={port} user={ADMINISTRATOR} password={ADMINISTRATOR} dbname=postgres"
            return psycopg.connect(address, autocommit=True)
        return None

    with until(look) as connection:
        connection.execute(f"CREATE ROLE app LOGIN CREATEROLE PASSWORD '{password}'")
        connection.execute("CREATE DATABASE agents OWNER app")
    return f"postgresql://app:{quote(password, safe='')}@127.0.0.1:{port}/agents"
