"""
The data folder of the embedded Postgres: made whole or not at all, and the settings it is run with.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
from pathlib import Path

from company_agents.db.host import die_with_parent
from company_agents.errors import MayNotStart

SUPERUSER = "postgres"
ROLES = ("company_agents_migrate", "company_agents_serve", "company_agents_instance")
OLDEST_MAJOR = 15
DISK_FULL = "No space left on device"

# What a Postgres of ours gets as its environment. Everything else it has from its command line.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}

# Written into postgresql.conf when the folder is made: whoever runs it may tune these.
TUNABLE = """
# company agents
max_connections = 100
shared_buffers = 128MB
jit = off
log_checkpoints = off
# Files in the data folder: what lies in /dev/shm is small in a container, and goes when its user logs out.
dynamic_shared_memory_type = mmap
"""

# Given on the command line, so that no file overrules them.
FIXED = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    # Nothing follows this server's log. A restore, whose tables are new, is spared to write every row twice.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "timezone": "UTC",
    # What is logged holds no statement, no parameter and no row. An error goes to its client only: its own
    # text may quote a value. ("log" ranks above "error" here.)
    "log_min_messages": "log",
    "log_timezone": "UTC",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] ",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}

HBA = "local all all peer map=company_agents\n"


def ident(client: int) -> str:
    """pg_ident.conf: the OS user that may connect, as any of our roles."""
    name = pwd.getpwuid(client).pw_name.replace('"', '""')
    return "".join(f'company_agents "{name}" {role}\n' for role in (SUPERUSER, *ROLES))


def version(programs: Path) -> int:
    """
    The major version of these programs.

    Raises:
        MayNotStart: they do not run, or are too old.
    """
    done = subprocess.run(
        [programs / "postgres", "--version"], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    found = re.search(r"\b(\d+)[.\d]*\w*", done.stdout)
    if done.returncode != 0 or found is None:
        raise MayNotStart(
            f"the Postgres in {programs} does not run: {last_line(done.stderr)}",
            hint="check COMPANY_AGENTS_POSTGRES_BIN, or unset it for the one installed with us",
        )
    if int(found[1]) < OLDEST_MAJOR:
        raise MayNotStart(
            f"the Postgres in {programs} is version {found[1]}", hint=f"{OLDEST_MAJOR} or newer is needed"
        )
    return int(found[1])


def last_line(text: str) -> str:
    """What a program said at the end, on one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def prepare(folder: Path, programs: Path, client: int, setup: str) -> None:
    """
    Make `folder/data` where it is missing, and see that it fits these programs. Run as its owner.

    Args:
        client: the OS user that connects.
        setup: the SQL of a new data folder.

    Raises:
        MayNotStart: it cannot be made, or is of another version of Postgres.
    """
    for left in folder.glob("data.new-*"):  # of a start that was killed
        shutil.rmtree(left, ignore_errors=True)
    data = folder / "data"
    major = version(programs)
    if not data.is_dir():
        _create(data, programs, major, setup)
    found = (data / "PG_VERSION").read_text().strip()
    if found != str(major):
        raise MayNotStart(
            f"the database was made by Postgres {found}, and this is Postgres {major}",
            hint=f"set COMPANY_AGENTS_POSTGRES_BIN to the bin folder of a Postgres {found}",
        )
    _write(data / "pg_hba.conf", HBA)
    _write(data / "pg_ident.conf", ident(client))


def _create(data: Path, programs: Path, major: int, setup: str) -> None:
    fresh = data.with_name(f"data.new-{secrets.token_hex(4)}")
    try:
        _initialise(fresh, programs, major)
        with (fresh / "postgresql.conf").open("a") as conf:
            conf.write(TUNABLE)
        # A server of one user, without a socket. What it wrote is synced below, all at once.
        settings = [*_set("exit_on_error", "on"), *_set("fsync", "off"), *_set("log_checkpoints", "off")]
        _run([programs / "postgres", "--single", "-j", "-D", fresh, *settings, "postgres"], setup)
        _write(fresh / "pg_hba.conf", HBA)
        _run([programs / "initdb", "--sync-only", "-D", fresh])
        fresh.rename(data)
        sync_folder(data.parent)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _initialise(fresh: Path, programs: Path, major: int) -> None:
    command: list[str | Path] = [
        programs / "initdb",
        "-D",
        fresh,
        "-U",
        SUPERUSER,
        "--auth-local=peer",
        "--auth-host=reject",
    ]
    command += ["-E", "UTF8", "--data-checksums", "--no-sync", "--no-instructions"]
    if major >= 17:
        _run([*command, "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"])
        return
    try:
        _run([*command, "--locale=C.UTF-8"])
    except MayNotStart:
        shutil.rmtree(fresh, ignore_errors=True)
        _run([*command, "--locale=C"])


def _run(command: list[str | Path], given: str = "") -> None:
    done = subprocess.run(
        command,
        input=given,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env=ENVIRONMENT,
        preexec_fn=die_with_parent(signal.SIGKILL),
    )
    if done.returncode != 0:
        if DISK_FULL in done.stderr:
            raise disk_full()
        said = [line for line in done.stderr.splitlines() if re.search("error:|FATAL:|PANIC:|could not", line)]
        cause = last_line(said[0] if said else done.stderr)
        raise MayNotStart(f"the database could not be made: {cause}", hint="see logs/database.log in the instance home")


def disk_full() -> MayNotStart:
    """What it means when Postgres says `DISK_FULL`."""
    return MayNotStart("the disk that holds the database is full", hint="free some space, then try again")


def _write(file: Path, text: str) -> None:
    """Replace a file, so that it is whole whenever we are killed. Not touched when it is right already."""
    if file.exists() and file.read_text() == text:
        return
    fresh = file.with_name(f"{file.name}.new")
    with fresh.open("w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(file)
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _set(name: str, value: str) -> list[str]:
    return ["-c", f"{name}={value}"]


def server_command(programs: Path, folder: Path, socket_dir: Path) -> list[str]:
    """How to run the server."""
    data = folder / "data"
    settings = FIXED | {
        # A list of folders; quotes keep commas and spaces in a name.
        "unix_socket_directories": '"' + str(socket_dir).replace('"', '""') + '"',
        "hba_file": str(data / "pg_hba.conf"),
        "ident_file": str(data / "pg_ident.conf"),
    }
    command = [str(programs / "postgres"), "-D", str(data)]
    for name, value in settings.items():
        command += _set(name, value)
    return command


def is_ready(folder: Path, pid: int) -> bool:
    """Whether our server says in its pid file that it takes connections (line 8, as pg_ctl reads it)."""
    lines = _pid_file(folder)
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7] == "ready"


def recorded_pid(folder: Path) -> int | None:
    """The process that the pid file names, be it alive or not."""
    lines = _pid_file(folder)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def _pid_file(folder: Path) -> list[str]:
    try:
        text = (folder / "data" / "postmaster.pid").read_text("utf-8", errors="replace")
        return [line.strip() for line in text.splitlines()]
    except OSError:
        return []
