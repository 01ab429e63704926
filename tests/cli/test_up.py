"""
`up` and what happens to it: real processes, real signals, a real database.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from company_agents.app import open_app
from company_agents.outgoing.reply_search import encodings
from company_agents.settings import read_settings
from tests.cli.postgres import postgres_with
from tests.cli.processes import Machine, Tenant, Up, ask, machine_in, tenant
from tests.cli.standin import TOKEN, StandIn, stand_in
from tests.dashboard.people import owner
from tests.database.processes import ROOT, postmaster, the_supervisor, until, wait_gone, wait_stopped

KEYS = ["ready", "url", "mcp_url", "gateway_url", "sign_in_url"]


@pytest.fixture(scope="module")
def slack() -> Iterator[StandIn]:
    with stand_in() as slack:
        yield slack


def post_message(up: Up, found: Tenant) -> Any:
    path = f"/v1/companies/{found.company}/integrations/{found.integration}/request"
    return up.post(path, {"method": "POST", "path": "/api/chat.postMessage", "body": {"text": "hello"}}, found.token)


# — ready —


def test_the_first_line_says_where_everything_is_and_by_then_it_answers(machine: Machine, up: Up) -> None:
    assert list(up.ready) == KEYS
    assert up.ready["ready"] is True
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*", up.url)
    assert up.ready["mcp_url"] == f"{up.url}/mcp"
    assert up.ready["gateway_url"] == f"{up.url}/gateway"
    assert re.fullmatch(re.escape(up.url) + r"/join\?token=[\w-]{43}", up.ready["sign_in_url"])
    assert [up.get(path).status for path in ("/healthz", "/readyz", "/sign-in", "/v1/openapi.json")] == [200] * 4
    assert (up.get("/v1/me").status, ask(up.ready["mcp_url"], b"{}").status) == (401, 401)
    assert ask(up.ready["sign_in_url"]).status == 200


def test_a_request_that_is_sent_while_the_line_is_still_being_read_is_answered(machine: Machine) -> None:
    # Asked over and over from before the start: never an answer that is not the instance's own.
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    statuses: list[int] = []
    ended = threading.Event()

    def ask_on() -> None:
        while not ended.is_set():
            try:
                statuses.append(ask(f"http://127.0.0.1:{port}/readyz").status)
            except OSError:
                time.sleep(0.01)

    with machine_in(machine.home.parent / "early") as other:
        asking = threading.Thread(target=ask_on)
        asking.start()
        try:
            with other.up("--port", str(port)) as up:
                assert up.get("/readyz").status == 200
                ended.set()
                asking.join()
                up.stop()
        finally:
            ended.set()
    assert set(statuses) <= {200}


def test_a_request_in_the_name_of_another_host_is_turned_away(up: Up) -> None:
    assert up.get("/sign-in", Host="rebound.example").status == 421
    assert up.get("/v1/me", Host="rebound.example:3101").status == 421
    assert up.get("/sign-in", Host="localhost:3101").status == 200
    assert up.get("/sign-in", Host="[::1").status == 421
    # A probe of a load balancer has whatever name it likes.
    assert up.get("/healthz", Host="rebound.example").status == 200


async def test_there_is_no_link_for_an_owner_once_there_is_one(machine: Machine) -> None:
    with machine_in(machine.home.parent / "owned") as owned:
        with owned.up() as up:
            assert up.ready["sign_in_url"] is not None
            assert up.stop() == 0
        async with open_app(read_settings(home=owned.home)) as app:
            await owner(app, "the first")
        with owned.up() as up:
            assert list(up.ready) == KEYS
            assert up.ready["sign_in_url"] is None
            assert up.stop() == 0


# — two on one home —


def test_a_second_one_on_the_same_home_is_told_which_process_is_in_its_way(machine: Machine, up: Up) -> None:
    second = machine.run("up", "--port", "0", "--json")
    assert second.status == 75
    assert second.json["error"]["code"] == "busy"
    assert f"(process {up.pid})" in second.json["error"]["message"]
    assert up.get("/readyz").status == 200


def test_a_command_beside_it_works_and_leaves_it_the_database(machine: Machine, up: Up) -> None:
    before = postmaster(machine.home)
    made = machine.json("company", "create", "Beside")
    assert made["id"] in {entry["id"] for entry in machine.json("company", "list")["items"]}
    assert up.get("/readyz").status == 200
    assert postmaster(machine.home) == before


def test_a_link_made_beside_it_leads_to_the_port_that_it_really_has(machine: Machine, up: Up) -> None:
    link = machine.json("operator", "link")["url"]
    assert link.startswith(f"{up.url}/join?token=")
    assert ask(link).status == 200


def test_a_command_without_it_starts_the_database_and_nothing_is_left_running(machine: Machine) -> None:
    with machine_in(machine.home.parent / "alone") as alone:
        made = alone.json("company", "create", "Alone")
        wait_stopped(alone.home)
        assert not (alone.home / "db" / "data" / "postmaster.pid").exists()
        assert [entry["id"] for entry in alone.json("company", "list")["items"]] == [made["id"]]
        wait_stopped(alone.home)


# — stopping —


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_with_everything_written_that_is_written_late(
    machine: Machine, slack: StandIn, number: int, tmp_path: Path
) -> None:
    with machine_in(tmp_path) as own:
        with own.up() as up:
            found = tenant(own.home, slack.url, TOKEN)
            # Right before the stop: what a use leaves behind is written seconds later, or at the end.
            assert post_message(up, found).json["body"]["ok"] is True
            assert up.stop(number) == 0
            assert up.errors == ""
        wait_stopped(own.home)
        [agent] = own.json("agent", "list", "--company", found.company)["items"]
        assert agent["token_last_used_at"] is not None
        assert own.json("integration", "show", "--id", found.integration)["last_used_at"] is not None
        events = own.run("audit", "tail", "--json", "--company", found.company).out
        assert events.count('"credential.begun"') == events.count('"credential.ended"') == 1
        assert own.run("audit", "verify").status == 0


def test_a_kill_stops_the_database_too_and_the_next_start_opens_everything(
    machine: Machine, slack: StandIn, tmp_path: Path
) -> None:
    with machine_in(tmp_path) as own:
        with own.up() as up:
            found = tenant(own.home, slack.url, TOKEN)
            assert post_message(up, found).status == 200
            server = postmaster(own.home)
            up.process.kill()
            wait_gone(server)
        wait_stopped(own.home)
        with own.up() as up:
            assert post_message(up, found).json["body"]["ok"] is True
            assert own.json("key", "verify") == {"ok": True, "opened": 3, "bad": []}
            assert own.run("audit", "verify").status == 0
            assert up.stop() == 0


def test_a_kill_of_the_database_is_over_after_a_moment(machine: Machine, up: Up, slack: StandIn) -> None:
    found = tenant(machine.home, slack.url, TOKEN)
    assert post_message(up, found).status == 200
    server = postmaster(machine.home)
    os.kill(server, signal.SIGKILL)
    wait_gone(server)
    assert until(lambda: post_message(up, found) if up.get("/readyz").status == 200 else None).status == 200
    assert postmaster(machine.home) != server


def test_a_kill_of_the_supervisor_is_over_after_a_moment(machine: Machine, up: Up) -> None:
    supervisor, server = the_supervisor(machine.home), postmaster(machine.home)
    os.kill(supervisor, signal.SIGKILL)
    wait_gone(server)
    assert until(lambda: True if up.get("/readyz").status == 200 else None)


# — where it listens —


def test_a_port_that_is_taken_is_no_reason_to_take_another(machine: Machine, tmp_path: Path) -> None:
    with machine_in(tmp_path) as own, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = own.run("up", "--port", port, "--json")
        assert done.status == 78
        said = f"127.0.0.1 port {port} cannot be listened on: address already in use"
        assert (done.json["error"]["code"], done.json["error"]["message"]) == ("address", said)


def test_an_address_that_is_not_of_this_machine_is_refused(machine: Machine, tmp_path: Path) -> None:
    with machine_in(tmp_path) as own:
        assert own.run("up", "--host", "203.0.113.1", "--port", "0").status == 78


@pytest.mark.skipif(not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")
def test_it_listens_on_ipv6(machine: Machine, tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_INET6)) as tried:
        try:
            tried.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 loopback here")
    with machine_in(tmp_path) as own, own.up("--host", "::1") as up:
        assert re.fullmatch(r"http://\[::1\]:[1-9]\d*", up.url)
        assert up.get("/readyz").status == 200
        assert up.get("/sign-in").status == 200
        assert up.stop() == 0


# — whoever started it —


def test_it_goes_on_when_nobody_reads_its_output_any_more(machine: Machine, tmp_path: Path) -> None:
    with machine_in(tmp_path) as own:
        child = own.start("up", "--port", "0", stdin=subprocess.DEVNULL)
        assert child.stdout is not None
        assert child.stderr is not None
        url = child.stdout.readline().decode().split()[-1]
        child.stdout.close()
        try:
            assert ask(f"{url}/readyz").status == 200
            child.terminate()
            assert child.wait(60) == 0
        finally:
            child.kill()
            child.wait()
            child.stderr.close()


def test_an_ordinary_user_can_run_it(ordinary_machine: Machine, slack: StandIn) -> None:
    with ordinary_machine.up() as up:
        company = ordinary_machine.json("company", "create", "Of a user")["id"]
        words = ["--company", company, "--base-url", slack.url, "--allow-private-network", "--token-stdin"]
        made = ordinary_machine.json("integration", "connect", "slack", *words, given=TOKEN)
        assert made["status"] == "connected"
        assert ask(up.ready["sign_in_url"]).status == 200
        assert os.stat(ordinary_machine.home).st_mode & 0o777 == 0o700
        assert not (ordinary_machine.home / "db").is_symlink()
        assert os.stat(f"/proc/{postmaster(ordinary_machine.home)}").st_uid == os.stat(ordinary_machine.home).st_uid
        assert up.stop() == 0


# Says what another process of the same user gets to see of a process.
LOOK = """
import sys
for name in ("mem", "environ", "maps"):
    try:
        with open(f"/proc/{sys.argv[1]}/{name}", "rb") as file:
            # Nothing is mapped at the start of a memory; to have opened it is enough.
            name == "mem" or file.read(1)
        print(name, "opened")
    except PermissionError:
        print(name, "refused")
"""


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="/proc is Linux's")
def test_another_process_of_the_same_user_cannot_look_into_it(ordinary_machine: Machine) -> None:
    def look(pid: int) -> str:
        return subprocess.run(
            [ordinary_machine.program, "-I", "-c", LOOK, str(pid)],
            capture_output=True,
            text=True,
            cwd="/",
            **ordinary_machine.user,
        ).stdout

    with subprocess.Popen(["sleep", "600"], **ordinary_machine.user) as other:
        try:
            seen_of_another = look(other.pid)
        finally:
            other.kill()
    # The look is one that can succeed.
    assert "environ opened" in seen_of_another
    with ordinary_machine.up() as up:
        assert look(up.pid) == "mem refused\nenviron refused\nmaps refused\n"
        assert re.search(r"^Max core file size +0 +0 ", Path(f"/proc/{up.pid}/limits").read_text(), re.MULTILINE)
        assert up.stop() == 0


# — errors before it is ready —


def test_it_does_not_start_with_a_key_that_is_not_its_own(machine: Machine, tmp_path: Path) -> None:
    with machine_in(tmp_path) as own:
        own.json("company", "create", "Mine")
        wait_stopped(own.home)
        for file in (own.home / "secrets").rglob("*.key"):
            file.unlink()
        done = own.run("up", "--port", "0", "--json")
        assert done.status == 78
        assert done.json["error"]["hint"]
        assert not any((own.home / "secrets").rglob("*.key"))


def test_ctrl_c_before_it_is_ready_is_a_clean_end(machine: Machine, tmp_path: Path) -> None:
    with machine_in(tmp_path) as own:
        child = own.start("up", "--port", "0", stdin=subprocess.DEVNULL)
        # It has begun when its home is there; the first start of a database takes long enough.
        until(lambda: True if (own.home / "locks").exists() or child.poll() is not None else None)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
        assert (child.returncode, out) in ((130, b""), (0, out))
        assert b"Traceback" not in err


# — a database of one's own —

PASSWORD = "an/odd+password of the database"


def test_the_password_of_an_own_database_is_nowhere_to_be_seen(tmp_path: Path) -> None:
    with postgres_with(PASSWORD) as address, machine_in(tmp_path, DATABASE_URL=address) as own, own.up() as up:
        assert up.get("/readyz").status == 200
        company = own.json("company", "create", "Elsewhere")["id"]
        assert not (own.home / "db").exists()
        hidden = [form for value in (PASSWORD, address) for form in encodings(value.encode())]
        proc = Path(f"/proc/{up.pid}")
        # `ps` reads just these.
        seen = {name: (proc / name).read_bytes() for name in ("cmdline", "status")}
        if ROOT:
            seen["environ"] = (proc / "environ").read_bytes()
            # The variable is there, so the environment that is read is the right one.
            assert b"DATABASE_URL=*" in seen["environ"]
        else:
            # Not even to its own user: the process is not dumpable.
            with pytest.raises(PermissionError):
                (proc / "environ").read_bytes()
        assert list(_children(up.pid)) == []
        wrong = own.run("agent", "list", "--company", str(uuid.uuid4()))
        seen |= {"output": (up.first_line + up.errors + wrong.out + wrong.err).encode()}
        seen |= {file.name: file.read_bytes() for file in own.home.rglob("*") if file.is_file()}
        assert {"orchestrator.log", "master.key"} <= set(seen)
        assert [(name, form) for name, text in seen.items() for form in hidden if form in text] == []
        assert own.json("company", "list")["items"][0]["id"] == company
        assert up.stop() == 0


def test_a_database_that_does_not_let_us_in_is_named_without_its_address(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"postgresql://app:{quote(PASSWORD, safe='')}@127.0.0.1:{closed.getsockname()[1]}/agents"
        with machine_in(tmp_path, DATABASE_URL=address) as own:
            done = own.run("company", "list")
            assert (done.status, done.out) == (78, "")
            assert done.err.startswith("company-agents: the database cannot be reached\n")
            assert not [form for form in encodings(PASSWORD.encode()) if form in done.err.encode()]


def _children(pid: int) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if entry.read_text().rpartition(")")[2].split()[1] == str(pid):
                yield int(entry.parent.name)
