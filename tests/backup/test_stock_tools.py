"""
A backup is read without a program of ours: zstd and tar take it apart, psql puts a table of it into a database, age opens
its key ring.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from company_agents.crypto.keyring import key_id_of
from company_agents.db import host
from tests.backup.instances import PASSPHRASE, Office
from tests.cli.postgres import ADMINISTRATOR
from tests.cli.processes import SLOWEST

WRONG = "another passphrase than that one"


def program(name: str) -> str:
    """Where a program is that scripts/test-packages gets."""
    found = shutil.which(name) or shutil.which(name, path=Path(__file__).parents[2] / ".cache" / "bin")
    if found is None:
        pytest.skip(f"there is no {name}; scripts/test-packages gets it")
    return found


def shell(command: str, **variables: str) -> bytes:
    """What a line of shell prints, all of whose programs did what they were asked."""
    folders = {str(Path(program(name)).parent) for name in ("zstd", "tar")}
    environment = {"PATH": os.pathsep.join([*folders, os.defpath]), "LANG": "C.UTF-8", **variables}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], env=environment, capture_output=True, timeout=SLOWEST
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def on_a_terminal(words: list[str], typed: str) -> tuple[int, str]:
    """Run a program that asks its terminal for a passphrase; its status, and what stood on the terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=_owns
    ) as child:
        os.close(theirs)
        shown, end, answered = b"", time.monotonic() + SLOWEST, False
        while time.monotonic() < end and select.select([ours], [], [], SLOWEST)[0]:
            try:
                part = os.read(ours, 4096)
            except OSError:
                # Nobody has it open any more.
                break
            if not part:
                break
            shown += part
            if not answered and b"passphrase" in shown:
                os.write(ours, typed.encode() + b"\n")
                answered = True
        os.close(ours)
        child.wait(SLOWEST)
    return child.returncode, shown.decode(errors="replace")


def _owns() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture(scope="module")
def programs() -> Path:
    """Those of Postgres that the embedded database has."""
    return host.find_programs(None, host.find_account("company-agents"))


def test_tar_and_zstd_find_every_member_by_its_name(files: dict[str, Path]) -> None:
    for kind, file in files.items():
        names = shell(f"zstd -dc {file} | tar t").decode().splitlines()
        manifest = json.loads(shell(f"zstd -dc {file} | tar xO manifest.json"))
        pieces = [
            f"{member['name']}/{number:08}" if "/" in member["name"] else member["name"]
            for member in manifest["members"]
            for number in range(1, member["pieces"] + 1)
        ]
        assert names == ["manifest.json", "manifest.mac", *pieces]
        assert ("keyring.age" in names) == (kind == "ring")


def test_zstd_finds_it_whole_and_tar_finds_plain_files_of_their_owner_alone(files: dict[str, Path]) -> None:
    assert shell(f"zstd -t {files['plain']} 2>&1")
    lines = shell(f"zstd -dc {files['plain']} | tar tv").decode().splitlines()
    assert lines
    assert all(line.startswith("-rw------- ") for line in lines)


def test_every_checksum_of_the_manifest_is_that_of_a_stock_tool(files: dict[str, Path], tmp_path: Path) -> None:
    shell(f"zstd -dc {files['plain']} | tar x -C {tmp_path}")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for member in manifest["members"]:
        path = tmp_path / member["name"]
        where = f"{path}/*" if path.is_dir() else f"{path}"
        found = shell(f"cat {where} | sha256sum").decode().split()[0]
        rows = int(shell(f"cat {where} | wc -l")) if member["columns"] else 0
        assert (found, rows) == (member["sha256"], member["rows"]), member["name"]


def test_psql_reads_a_table_out_of_it_into_a_plain_one(office: Office, files: dict[str, Path], programs: Path) -> None:
    place = office.place
    address = place.server.address_of(ADMINISTRATOR, ADMINISTRATOR, "postgres")
    manifest = json.loads(shell(f"zstd -dc {files['plain']} | tar xO manifest.json"))
    psql = f"{programs / 'psql'} -X -q -v ON_ERROR_STOP=1 '{address}'"
    for name in ("companies", "secrets", "audit_events"):
        [member] = [each for each in manifest["members"] if each["name"] == f"tables/{name}"]
        columns = ", ".join(f'"{column}" text' for column in member["columns"])
        shell(f"{psql} -c 'CREATE TABLE plain_{name} ({columns})'")
        try:
            shell(
                f"zstd -dc {files['plain']} | tar xO --wildcards 'tables/{name}/*' | {psql} -c '\\copy plain_{name} FROM STDIN'"
            )
            found = shell(
                f"{psql} -At -c 'SELECT count(*), count(DISTINCT id) FROM plain_{name}'"
                if name != "audit_events"
                else f"{psql} -At -c 'SELECT count(*), count(*) FROM plain_{name}'"
            )
            assert found.decode().strip() == f"{member['rows']}|{member['rows']}"
            if name == "companies":
                assert shell(f"{psql} -At -c 'SELECT name FROM plain_companies'") == b"the company\n"
        finally:
            shell(f"{psql} -c 'DROP TABLE plain_{name}'")


async def test_age_opens_the_key_ring_with_the_passphrase_and_with_no_other(
    office: Office, files: dict[str, Path], tmp_path: Path
) -> None:
    age, ring, out = program("age"), tmp_path / "keyring.age", tmp_path / "ring.json"
    shell(f"zstd -dc {files['ring']} | tar xO keyring.age > {ring}")
    assert ring.read_bytes().startswith(b"age-encryption.org/v1\n-> scrypt ")
    status, shown = await asyncio.to_thread(on_a_terminal, [age, "-d", "-o", str(out), str(ring)], WRONG)
    assert status != 0, shown
    assert "incorrect passphrase" in shown
    assert not out.exists()
    status, shown = await asyncio.to_thread(
        on_a_terminal, [age, "-d", "-o", str(out), str(ring)], PASSPHRASE.reveal_text()
    )
    assert status == 0, shown
    keys = json.loads(out.read_text())["keys"]
    assert [base64.b64decode(key["key"]) for key in keys] == [office.place.hint()]
    assert [key["key_id"] for key in keys] == [key_id_of(office.place.hint())]
