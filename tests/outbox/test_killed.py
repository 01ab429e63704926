"""
A real orchestrator is killed at the worst moments: nothing is lost, and what comes twice comes under the same id.
"""

from __future__ import annotations

import http.server
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from company_agents.db.embedded import join
from tests.cli.processes import SLOWEST, Machine, machine_in
from tests.faults.test_full_disk import full_disk
from tests.outbox.lines import lines_of, seqs

FULL = 4096
"""Bytes that a sink has room for."""


@dataclass
class Receiver:
    """A receiver in a thread; `answer` may take a request over."""

    url: str = ""
    seen: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answer: Callable[[], int] = lambda: 204


@contextmanager
def receiving() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.seen.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(found.answer())
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Not to standard error."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + SLOWEST
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def executed(machine: Machine, statement: str) -> list[Any]:
    with join(machine.home) as member:
        address = member.database.conninfo("postgres")
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with machine_in(tmp_path) as found:
        yield found


def hired(machine: Machine, company: str) -> str:
    return str(machine.json("agent", "create", "ann", "--company", company)["id"])


def test_killed_between_the_sending_and_the_record_it_sends_again_under_the_same_id(machine: Machine) -> None:
    company = machine.json("company", "create", "Acme")["id"]
    with receiving() as receiver:
        words = ["create", receiver.url, "--company", company, "--event", "agent.token.rotated"]
        hook = machine.json("webhook", *words, "--allow-private-network")
        agent = hired(machine, company)
        with machine.up() as up:

            def dies() -> int:
                # It has sent, and the answer is on its way: whether it was taken, it will never write down.
                os.kill(up.pid, signal.SIGKILL)
                up.process.wait(SLOWEST)
                return 204

            receiver.answer = dies
            machine.json("agent", "rotate-token", "--id", agent)
            until(lambda: up.process.poll() is not None)
        assert len(receiver.seen) == 1
        receiver.answer = lambda: 204
        # Whoever had it claimed it for a moment, which passes.
        executed(machine, "UPDATE webhook_deliveries SET claimed_until = now() - interval '1 second'")
        with machine.up():
            until(lambda: len(receiver.seen) == 2)
            until(lambda: executed(machine, "SELECT state FROM webhook_deliveries") == [("delivered",)])
        ids = [headers["webhook-id"] for headers, _ in receiver.seen]
        assert ids[0] == ids[1]
        assert receiver.seen[0][1] == receiver.seen[1][1]
        for headers, body in receiver.seen:
            assert Verifier(hook["secret"]).verify(body, headers)["data"]["agent"] == agent


def test_what_happens_while_no_orchestrator_runs_arrives_when_one_does(machine: Machine) -> None:
    company = machine.json("company", "create", "Acme")["id"]
    with receiving() as receiver:
        words = [
            "create",
            receiver.url,
            "--company",
            company,
            "--event",
            "agent.token.rotated",
            "--event",
            "key.rotated",
        ]
        machine.json("webhook", *words, "--allow-private-network")
        agent = hired(machine, company)
        machine.json("agent", "rotate-token", "--id", agent)
        machine.json("key", "rotate")
        assert receiver.seen == []
        with machine.up():
            until(lambda: len(receiver.seen) == 2)
        assert {json.loads(body)["type"] for _, body in receiver.seen} == {"agent.token.rotated", "key.rotated"}


def test_sealed_it_sends_nothing_and_unsealed_all_of_it(machine: Machine) -> None:
    company = machine.json("company", "create", "Acme")["id"]
    with receiving() as receiver, machine.up() as up:
        words = ["create", receiver.url, "--company", company, "--event", "agent.token.rotated"]
        machine.json("webhook", *words, "--allow-private-network")
        agent = hired(machine, company)
        receiver.answer = lambda: 500
        machine.json("agent", "rotate-token", "--id", agent)
        until(lambda: receiver.seen)
        machine.json("seal")
        until(lambda: up.get("/readyz").status == 503)
        seen = len(receiver.seen)
        receiver.answer = lambda: 204
        executed(machine, "UPDATE webhook_deliveries SET due_at = now(), claimed_until = NULL")
        time.sleep(3)
        assert len(receiver.seen) == seen
        machine.json("unseal")
        until(lambda: executed(machine, "SELECT state FROM webhook_deliveries") == [("delivered",)])


def test_killed_again_and_again_while_it_writes_a_file_it_loses_no_event(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    machine = Machine(machine.home, more={"COMPANY_AGENTS_AUDIT_SINKS": f"file://{file}"})
    company = machine.json("company", "create", "Acme")["id"]
    # A long chain, so that it is always at writing when the end comes.
    writer = f"""
import asyncio, uuid
from company_agents.app import open_app
from company_agents.settings import read_settings
async def run():
    async with open_app(read_settings()) as app:
        await asyncio.gather(*(app.audit.append(uuid.UUID("{company}"), "test.one", n=n) for n in range(10_000)))
asyncio.run(run())
"""
    quiet = {**machine.environment, "COMPANY_AGENTS_AUDIT_SINKS": ""}
    subprocess.run([sys.executable, "-c", writer], env=quiet, check=True, timeout=SLOWEST, cwd="/")

    def size() -> int:
        return file.stat().st_size if file.exists() else 0

    sizes = []
    for n in range(4):
        with machine.up() as up:
            more = size() + 1
            until(partial(lambda more: size() > more, more))
            time.sleep(0.02 * n)
            up.process.kill()
            up.process.wait(SLOWEST)
        sizes.append(file.stat().st_size)
        if n == 2:
            # What a kill in the middle of a write leaves.
            os.truncate(file, file.stat().st_size - 7)
    with machine.up() as up:
        [[end]] = executed(machine, f"SELECT max(seq) FROM audit_events WHERE chain = '{company}'")
        until(lambda: end in _numbers(file, company))
        assert up.stop() == 0
    found = _numbers(file, company)
    assert found == list(range(1, end + 1))
    assert machine.run("audit", "verify", "--against", str(file)).status == 0


def _numbers(file: Path, company: str) -> list[int]:
    return seqs(lines_of(file), UUID(company))


def test_on_a_full_disk_what_stands_there_is_whole_and_it_goes_on_when_there_is_room(
    machine: Machine, tmp_path: Path
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir(0o700)
    (folder / "placeholder").write_bytes(b"")
    file = folder / "audit.jsonl"
    sinks = Machine(machine.home, more={"COMPANY_AGENTS_AUDIT_SINKS": f"required file://{file}"})
    # Held by a process that may write as much as it likes: only the sink is short of room.
    with machine.up(), full_disk(folder) as full:
        filler = folder / "filler"
        if full:
            os.truncate(filler, filler.stat().st_size - FULL)

        def limited() -> None:
            if not full:
                resource.setrlimit(resource.RLIMIT_FSIZE, (FULL, FULL))

        def short(*words: str) -> Any:
            with sinks.start(*words, "--json", preexec_fn=limited) as child:
                return json.loads(child.communicate(timeout=SLOWEST)[0])

        for n in range(8):
            short("company", "create", f"company {n}")
        problem = short("audit", "sinks")["items"][0]["problem"]
        assert "is full" in problem or "too large" in problem
        whole = file.read_bytes()
        assert whole.endswith(b"}\n") or not whole
        if full:
            filler.unlink()
        # The next command writes what is left, at its end.
        sinks.json("company", "list")
        assert len(file.read_bytes()) > len(whole)
        assert file.read_bytes().startswith(whole)
        assert sinks.json("audit", "verify", "--against", str(file))["ok"] is True
        assert sinks.json("audit", "sinks")["items"][0]["problem"] == ""
