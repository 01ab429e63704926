"""
`integration import` as somebody types it: what is asked, what is connected, and that no value is seen anywhere.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import threading
import uuid
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from company_agents.errors import Refused
from company_agents.keysources.document import read_document
from tests.cli.processes import Done, Machine
from tests.cli.standin import StandIn
from tests.cli.test_terminal import Terminal, terminal
from tests.cli.warm import Run
from tests.importing.providers import OTHER, TOKEN
from tests.keysources.servers.openbao import ROOT_TOKEN, Bao, address

HIDDEN = "hidden-from-all-17"


def importing(company: str, acme: StandIn, *words: str) -> list[str]:
    at = ["--base-url", f"acme={acme.url}", "--allow-private-network"]
    return ["integration", "import", "--company", company, *at, *words]


def connected(run: Run, company: str) -> dict[str, dict[str, Any]]:
    items = run("integration", "list", "--company", company, "--json").json["items"]
    return {item["name"]: item for item in items}


def events(run: Run, company: str) -> list[dict[str, Any]]:
    done = run("audit", "export", "--company", company)
    assert done.status == 0, done
    return [json.loads(json.loads(line)["record"]) for line in done.out.splitlines()]


def unseen(machine: Machine, run: Run, company: str, *shown: Any, values: tuple[str, ...] = (TOKEN, OTHER)) -> None:
    """None of the values is in what was shown, in the audit log, or in any file of the home that is no database's."""
    exported = run("audit", "export", "--company", company).out
    logs = [file.read_text(errors="replace") for file in (machine.home / "logs").rglob("*") if file.is_file()]
    assert logs, "no log was searched"
    for value in values:
        assert [text for text in (*map(str, shown), exported, *logs) if value in text] == []


# — without questions —


def test_what_is_recognised_is_tried_and_connected(
    machine: Machine, run: Run, company: str, acme: StandIn, env_file: Path
) -> None:
    agent = run("agent", "create", "ann", "--company", company, "--json").json["id"]
    done = run(*importing(company, acme, "--from-env", str(env_file), "--yes", "--allow", agent, "--json"))
    [item] = done.json["items"]
    found = connected(run, company)["acme"]
    assert (done.status, item) == (
        0,
        {"variable": "ACME_TOKEN", "provider": "acme", "result": "connected", "id": found["id"]},
    )
    assert (found["destination"], found["agents"], found["allow_all"]) == (acme.url, [agent], False)
    assert [request["path"] for request in acme.seen] == ["/api/auth.test"]
    # It works: the value that was sealed is the one of the file.
    assert run("integration", "check", "--id", found["id"], "--json").json["status"] == "connected"
    unseen(machine, run, company, done)


def test_it_is_on_record_which_variable_it_was(
    machine: Machine, run: Run, company: str, acme: StandIn, env_file: Path
) -> None:
    assert run(*importing(company, acme, "--from-env", str(env_file), "--yes")).status == 0
    found = events(run, company)
    [event] = [each for each in found if each["action"] == "integration.imported"]
    assert {name: event[name] for name in ("variable", "provider", "source", "integration")} == {
        "variable": "ACME_TOKEN",
        "provider": "acme",
        "source": "file",
        "integration": connected(run, company)["acme"]["id"],
    }
    assert run("audit", "verify", "--company", company).status == 0


def test_one_that_fails_says_why_and_the_rest_go_on(machine: Machine, run: Run, company: str, acme: StandIn) -> None:
    text = f"ACME_TOKEN={OTHER}\nACME_API_KEY={TOKEN}\nNOTES_KEY={'ab' * 16}\nSHOP_SECRET=shop-{OTHER}\n"
    done = run(*importing(company, acme, "--from-env", "-", "--yes", "--json"), given=text.encode())
    assert done.status == 1
    assert [
        (item["variable"], item["provider"], item["result"], item.get("problem", "")) for item in done.json["items"]
    ] == [
        ("ACME_TOKEN", "acme", "failed", "Acme did not accept the credential: invalid_auth"),
        ("ACME_API_KEY", "acme", "connected", ""),
        ("NOTES_KEY", "notes", "failed", "Notes has no address of its own"),
        (
            "SHOP_SECRET",
            None,
            "not recognised",
            "no provider here has a variable of this name, or tokens that begin like this",
        ),
    ]
    assert [*connected(run, company)] == ["acme_api_key"]
    unseen(machine, run, company, done, values=(TOKEN, OTHER, "ab" * 16))


def test_the_end_says_what_to_do_next(machine: Machine, run: Run, company: str, acme: StandIn) -> None:
    text = f"ACME_TOKEN={OTHER}\nACME_API_KEY={TOKEN}\nSHOP_SECRET=shop-{OTHER}\n"
    done = run(*importing(company, acme, "--from-env", "-", "--yes"), given=text.encode())
    assert "hint: ACME_TOKEN: make a new one at https://acme.example/tokens\n" in done.err
    assert "called like secrets: SHOP_SECRET\nhint: `company-agents integration connect generic`" in done.err
    assert "take the values out of the file: ACME_API_KEY\n" in done.err
    unseen(machine, run, company, done)


def test_a_second_import_connects_nothing_twice(
    machine: Machine, run: Run, company: str, acme: StandIn, env_file: Path
) -> None:
    words = importing(company, acme, "--from-env", str(env_file), "--yes", "--json")
    assert run(*words).status == 0
    before = connected(run, company)
    acme.seen.clear()
    done = run(*words)
    [item] = done.json["items"]
    assert (done.status, item["result"], item["problem"]) == (
        0,
        "skipped",
        "there is an integration acme already",
    )
    assert (connected(run, company), acme.seen) == (before, [])


def test_only_what_is_named_is_imported(machine: Machine, run: Run, company: str, acme: StandIn) -> None:
    text = f"ACME_TOKEN={OTHER}\nACME_API_KEY={TOKEN}\n"
    done = run(
        *importing(company, acme, "--from-env", "-", "--yes", "--only", "ACME_API_KEY", "--json"), given=text.encode()
    )
    assert [item["variable"] for item in done.json["items"]] == ["ACME_API_KEY"]
    assert [*connected(run, company)] == ["acme"]
    refused = run(*importing(company, acme, "--from-env", "-", "--yes", "--only", TOKEN), given=text.encode())
    assert refused.status == 2
    unseen(machine, run, company, done, refused)


def test_private_networks_are_for_the_addresses_that_were_given(
    run: Run, company: str, acme: StandIn, env_file: Path
) -> None:
    env_file.write_text(f"ACME_TOKEN={TOKEN}\nINNER_TOKEN={HIDDEN}\n")
    done = run(*importing(company, acme, "--from-env", str(env_file), "--yes", "--json"))
    assert [item.get("problem", "") for item in done.json["items"]] == ["", "http:// is for private networks only"]


def test_what_only_looks_like_a_token_is_not_sent_anywhere_unasked(
    machine: Machine, run: Run, company: str, acme: StandIn
) -> None:
    for more in ([], ["--only", "SHOP_KEY"]):
        words = importing(company, acme, "--from-env", "-", "--yes", "--json", *more)
        done = run(*words, given=f"SHOP_KEY={TOKEN}".encode())
        [item] = done.json["items"]
        assert (done.status, item["result"], item["provider"]) == (0, "skipped", "acme")
        assert item["problem"] == "it looks like a token of Acme, but is not called like one"
        unseen(machine, run, company, done)
    assert (connected(run, company), acme.seen) == ({}, [])


# — the file —


@pytest.mark.parametrize(("mode", "said"), [(0o600, False), (0o640, True), (0o604, True)])
def test_a_file_that_others_can_read_is_told_of(
    machine: Machine, run: Run, company: str, acme: StandIn, env_file: Path, mode: int, said: bool
) -> None:
    env_file.chmod(mode)
    done = run(*importing(company, acme, "--from-env", str(env_file), "--yes"))
    assert ("can be read by others than its owner" in done.err) is said


def test_a_pipe_of_another_program_is_read(
    machine: Machine, run: Run, company: str, acme: StandIn, env_file: Path
) -> None:
    words = machine.words(*importing(company, acme, "--from-env", "/dev/fd/3", "--yes", "--json"))
    done = subprocess.run(
        ["/bin/sh", "-c", f'cat {env_file} | {{ "$@" 3<&0 </dev/null; }}', "sh", *words],
        env=machine.environment,
        capture_output=True,
        cwd="/",
        check=True,
    )
    assert json.loads(done.stdout)["items"][0]["result"] == "connected"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"ACME_TOKEN='{TOKEN}\n", "the value does not end where its line ends"),
        (f"ACME_TOKEN={TOKEN}\x00\n", "line 1 of the environment file has a character that no text has"),
        (f"ACME_TOKEN={TOKEN}\n{OTHER}\n", "line 2 of the environment file is no NAME=value"),
        (f"ACME_TOKEN={TOKEN}{'x' * 300_000}\n", "an environment file has at most 256 KiB"),
    ],
    ids=["open quote", "NUL", "no variable", "huge"],
)
def test_a_hostile_file_is_refused_as_a_whole(
    machine: Machine, run: Run, company: str, acme: StandIn, env_file: Path, content: str, said: str
) -> None:
    env_file.write_text(content)
    for more in ([], ["--json"]):
        done = run(*importing(company, acme, "--from-env", str(env_file), "--yes", *more))
        assert done.status == 2
        assert said in done.out + done.err
        unseen(machine, run, company, done)
    assert (connected(run, company), acme.seen) == ({}, [])


def test_another_variable_is_not_looked_up(machine: Machine, run: Run, company: str, acme: StandIn) -> None:
    text = f"X={TOKEN}\nACME_TOKEN=${{X}}\n"
    words = importing(company, acme, "--from-env", "-", "--yes", "--only", "ACME_TOKEN", "--json")
    done = run(*words, given=text.encode())
    assert done.json["items"][0]["problem"] == ("it refers to another variable or a command, and nothing is expanded")
    assert acme.seen == []


@pytest.mark.parametrize(("name", "status"), [("nothing-here", 3), (".", 2), ("/dev/null", 2), ("x" * 5000, 2)])
def test_what_is_no_file_is_refused(
    machine: Machine, run: Run, company: str, acme: StandIn, name: str, status: int
) -> None:
    done = run(*importing(company, acme, "--from-env", name, "--yes"))
    assert (done.status, done.out) == (status, "")
    assert "hint: " in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("words", [["--from-env", "-"], ["--from-env", "FILE"], ["--from-vault", "kv/data/x"]])
def test_without_a_terminal_nothing_is_connected_unasked(
    machine: Machine, run: Run, company: str, acme: StandIn, env_file: Path, words: list[str]
) -> None:
    words = [str(env_file) if word == "FILE" else word for word in words]
    done = run(*importing(company, acme, *words), given=env_file.read_bytes())
    assert (done.status, done.err) == (
        2,
        "company-agents: there is no terminal to ask on\nhint: with --yes what is called like a provider's token is connected\n",
    )
    assert connected(run, company) == {}


# — on a terminal —


def answered(shell: Terminal, question: bytes, answer: bytes) -> None:
    shell.waits_for(question)
    shell.shown = shell.shown.split(question, 1)[1]
    shell.type(answer)


def test_each_is_asked_for_and_no_is_the_default(
    machine: Machine, run: Run, company: str, acme: StandIn, tmp_path: Path
) -> None:
    file = tmp_path / "x.env"
    file.write_text(f"ACME_TOKEN={TOKEN}\nMY_OWN={OTHER}\n")
    with terminal(machine, *importing(company, acme, "--from-env", str(file))) as shell:
        answered(shell, b"ACME_TOKEN: connect it to Acme? [y/N] ", b"y\n")
        answered(shell, b"what the integration is called [acme]: ", b"Acme of ours\n")
        answered(shell, b"ACME_TOKEN: connected", b"")
        answered(
            shell, b"MY_OWN looks like a token of Acme, but is not called like one: connect it to Acme? [y/N] ", b"\n"
        )
        assert shell.end() == 0
        assert b"it was not wanted" in shell.shown
        unseen(machine, run, company, shell.shown.decode())
    assert [*connected(run, company)] == ["Acme of ours"]
    assert len(acme.seen) == 1


def test_where_a_name_is_taken_another_is_asked_for(
    machine: Machine, run: Run, company: str, acme: StandIn, env_file: Path
) -> None:
    words = importing(company, acme, "--from-env", str(env_file))
    assert run(*words, "--yes").status == 0
    with terminal(machine, *words) as shell:
        answered(shell, b"[y/N] ", b"yes\n")
        answered(shell, b"called [acme]: ", b"\n")
        answered(shell, b"there is an integration acme already", b"")
        answered(shell, b"called [acme]: ", b"acme 2\n")
        assert shell.end() == 0
    with terminal(machine, *words) as shell:
        answered(shell, b"[y/N] ", b"y\n")
        answered(shell, b"called [acme]: ", b"\n")
        answered(shell, b"called [acme]: ", b"\x04")
        assert shell.end() == 0
    assert [*connected(run, company)] == ["acme", "acme 2"]


def test_ctrl_c_at_a_question_leaves_what_is_connected_and_says_so(
    machine: Machine, run: Run, company: str, acme: StandIn, tmp_path: Path
) -> None:
    file = tmp_path / "x.env"
    file.write_text(f"ACME_TOKEN={TOKEN}\nACME_API_KEY={OTHER}\n")
    with terminal(machine, *importing(company, acme, "--from-env", str(file))) as shell:
        answered(shell, b"[y/N] ", b"y\n")
        answered(shell, b"called [acme]: ", b"\n")
        answered(shell, b"ACME_API_KEY: connect it to Acme? [y/N] ", b"\x03")
        assert shell.end() == 130
        assert b"take the values out of the file: ACME_TOKEN" in shell.shown
        assert b"ended early: what is connected stays; not connected: ACME_API_KEY" in shell.shown
        assert b"Traceback" not in shell.shown
        unseen(machine, run, company, shell.shown.decode())
    assert [*connected(run, company)] == ["acme"]


def test_a_signal_while_a_provider_is_asked_leaves_what_is_connected_and_says_so(
    machine: Machine, run: Run, company: str, acme: StandIn
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(handler: BaseHTTPRequestHandler, body: bytes) -> bool:
        if handler.headers["Authorization"] != f"Bearer {OTHER}":
            return False
        asked.set()
        go_on.wait(60)
        return False

    acme.answer = slow
    text = f"ACME_TOKEN={TOKEN}\nACME_API_KEY={OTHER}\n"
    try:
        with machine.start(*importing(company, acme, "--from-env", "-", "--yes", "--json")) as child:
            assert child.stdin is not None
            child.stdin.write(text.encode())
            child.stdin.close()
            child.stdin = None
            assert asked.wait(60)
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=60)
    finally:
        go_on.set()
    done = Done(child.returncode, out.decode(), err.decode())
    assert (done.status, [(item["variable"], item["result"]) for item in done.json["items"]]) == (
        130,
        [("ACME_TOKEN", "connected")],
    )
    assert [*connected(run, company)] == ["acme"]
    unseen(machine, run, company, done)


# — Vault —


def put(bao: Bao, **fields: Any) -> str:
    path = f"kv/data/shop/{uuid.uuid4().hex}"
    bao.call("POST", path, data=fields)
    return path


@pytest.mark.parametrize("scheme", ["", "vault://"])
def test_the_fields_of_a_document_in_vault_are_imported(
    machine: Machine, run: Run, company: str, acme: StandIn, bao: Bao, scheme: str
) -> None:
    path = put(bao, **{"acme-token": f"{TOKEN}\n", "port": 5432, "db_secret": HIDDEN, "nothing": None})
    done = run(*importing(company, acme, "--from-vault", f"{scheme}{path}", "--yes", "--json"))
    assert [(item["variable"], item["result"]) for item in done.json["items"]] == [
        ("acme-token", "connected"),
        ("db_secret", "not recognised"),
    ]
    assert [*connected(run, company)] == ["acme"]
    [event] = [each for each in events(run, company) if each["action"] == "integration.imported"]
    assert (event["variable"], event["source"]) == ("acme-token", "vault")
    unseen(machine, run, company, done, values=(TOKEN, HIDDEN, ROOT_TOKEN))


def test_after_an_import_from_vault_vault_is_named(
    machine: Machine, run: Run, company: str, acme: StandIn, bao: Bao
) -> None:
    done = run(*importing(company, acme, "--from-vault", put(bao, ACME_TOKEN=TOKEN), "--yes"))
    assert "take the values out of Vault, if nothing else reads them there: ACME_TOKEN" in done.err
    unseen(machine, run, company, done)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("kv/data/nothing/here", 3, "there is nothing at vault://kv/data/nothing/here"),
        ("nowhere/data/x", 3, "there is nothing at vault://nowhere/data/x (404)"),
        ("secret", 2, "the address of vault is malformed"),
        (f"{TOKEN}", 2, "the address of vault is malformed"),
        ("kv/data/../x", 2, "the address of vault is malformed"),
    ],
)
def test_a_document_that_cannot_be_had_says_why(
    machine: Machine, run: Run, company: str, acme: StandIn, path: str, status: int, said: str
) -> None:
    done = run(*importing(company, acme, "--from-vault", path, "--yes"))
    assert said in done.err
    assert "hint: " in done.err
    assert "key" not in done.err
    assert (done.status, done.out) == (status, "")
    unseen(machine, run, company, done)


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({"VAULT_TOKEN": OTHER}, 4, "refuses the one who reads it (403)"),
        ({"VAULT_TOKEN": ""}, 4, "no credentials for Vault are set"),
        ({"VAULT_ADDR": "http://127.0.0.1:9"}, 69, "nothing takes the connection"),
        ({"VAULT_ADDR": "http://vault.example:8200"}, 2, "VAULT_ADDR is not set, or is no address"),
        ({"VAULT_ADDR": ""}, 2, "VAULT_ADDR is not set, or is no address"),
    ],
)
def test_a_vault_that_does_not_answer_is_told_of_as_itself(
    machine: Machine, run: Run, company: str, acme: StandIn, bao: Bao, changed: dict[str, str], status: int, said: str
) -> None:
    words = importing(company, acme, "--from-vault", put(bao, ACME_TOKEN=TOKEN), "--yes")
    done = dataclasses.replace(machine, more={**machine.more, **changed}).run(*words)
    assert said in done.err
    assert "hint: " in done.err
    assert "key" not in done.err
    assert (done.status, done.out) == (status, "")
    unseen(machine, run, company, done)


async def test_the_document_of_the_master_key_is_not_imported_from(bao: Bao) -> None:
    settings = bao.settings()
    bao.put(settings, {"ACME_TOKEN": TOKEN})
    for path in (address(settings), f"vault://{address(settings)}"):
        with pytest.raises(Refused, match="this document holds the master key"):
            await read_document(path, settings)


@pytest.mark.parametrize("words", [[], ["--from-env", "x", "--from-vault", "y"]])
def test_where_the_tokens_are_is_said_once(machine: Machine, run: Run, company: str, words: list[str]) -> None:
    done = run("integration", "import", "--company", company, "--yes", *words)
    assert (done.status, done.err.splitlines()[0]) == (2, "company-agents: where the tokens are is said once")
