"""
No secret is found anywhere: known values go into every secret field, the whole product is used, and then everything
that can be read is searched for them.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote, quote_from_bytes

import psycopg
import pytest
from psycopg import sql

from company_agents.db.embedded import join
from tests.cli.processes import machine_in
from tests.cli.warm import warm
from tests.database.processes import wait_stopped
from tests.promises.canary import approvals, consents, days, keys, mistakes, places
from tests.promises.canary.places import master_key
from tests.promises.canary.provider import ECHOES, echoing_slack
from tests.promises.canary.search import Place, token_like
from tests.promises.canary.story import Story

# The story is told once, for all tests of this file, while the first of them waits.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(450)]

KINDS = ["doors", "processes", "tables", "database files", "home", "after the crash", "after a killed rotation"]


@dataclass(frozen=True)
class Told:
    """What came of it: by kind of place, how much was searched, and what was found."""

    story: Story
    names: dict[str, set[str]]
    found: dict[str, list[str]]
    opened: dict[str, bytes]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    folder = tmp_path_factory.mktemp("canary")
    # What anybody of ours puts beside it for a moment lies around the home as well; and no key is kept for its grace.
    more = {"COMPANY_AGENTS_LOG_LEVEL": "debug", "TMPDIR": str(folder), "COMPANY_AGENTS_KEY_GRACE": "0"}
    debug = machine_in(folder, **more)
    with debug as machine, warm(machine) as run, echoing_slack() as slack:
        told = Told(Story(machine, run, slack), {}, {}, {})
        _tell(told)
        _plant_audit_keys(told)
        _search(told, "doors", told.story.doors.said)
        _search(told, "processes", told.story.seen)
        _search(told, "tables", places.database(machine.home))
        wait_stopped(machine.home)
        _search(told, "database files", places.database_files(machine.home))
        _search(told, "home", told.story.home())
        yield told


def _tell(told: Told) -> None:
    story = told.story
    with story.machine.up() as up:
        link = story.arrive(up)
        days.people(story, link)
        days.operator_tokens(story)
        days.agents(story)
        days.webhooks(story)
        days.remote_agents(story)
        days.connecting(story)
        days.rotating(story)
        days.calling(story)
        approvals.approving(story)
        consents.consenting(story)
        keys.rotating(story)
        keys.sealing(story)
        keys.pruning(story)
        _plant_audit_keys(told)
        _search(told, "after a killed rotation", keys.killed(story, up))
        _search(told, "after the crash", days.dying(story, up))
        story.leave(up)
    with story.machine.up() as up:
        story.arrive(up)
        for secret in (story.tokens["ann"], story.operator_token, token_like("the rotated token of by-cli")):
            mistakes.by_agents(story, secret)
            mistakes.by_programs(story, secret)
            mistakes.by_people(story, secret)
        mistakes.on_the_command_line(story, story.operator_token)
        mistakes.on_the_command_line(story, token_like("the rotated token of by-cli"))
        mistakes.on_standard_input(story)
        mistakes.in_settings(story, story.operator_token)
        keys.mistaken(story)
        keys.looked_at(story)
        days.looking(story)
        days.operating(story)
        story.look(up)
        assert up.stop() == 0
        story.leave(up)


def _plant_audit_keys(told: Told) -> None:
    """Those that there are; every rotation brings one, and the old ones stay, for verifying."""
    for name, value in places.opened(told.story.machine.home).items():
        if name.startswith(("audit_key/", "audit_head_key/", "approval_key")) and name not in told.opened:
            told.story.canaries.plant(name, value)
        if name.startswith("oauth_flow/"):
            # The verifier of a consent that nobody answered has never left.
            told.story.canaries.plant(name, json.loads(value)["secret"])
        told.opened[name] = value


def _search(told: Told, kind: str, kept: Iterable[Place]) -> None:
    told.names[kind], told.found[kind] = set(), []
    for place in kept:
        told.names[kind].add(place.name)
        told.found[kind] += told.story.canaries.found(place)


@pytest.mark.parametrize("kind", KINDS)
def test_no_secret_is_found_in(told: Told, kind: str) -> None:
    assert not told.found[kind], "\n".join(told.found[kind][:50])


def test_the_provider_did_send_the_credential_back_in_every_form(told: Told) -> None:
    forms = {*ECHOES, "elsewhere", "onwards"}
    assert told.story.removed >= {f"{form} from {name}" for form in forms for name in ("by-cli", "by-page", "generic")}


def test_no_credential_went_to_another_host(told: Told) -> None:
    assert told.story.slack.elsewhere.seen == []


def test_every_secret_that_is_kept_is_one_that_was_looked_for(told: Told) -> None:
    kinds = {name.partition("/")[0] for name in told.opened}
    # Each rotation brings one.
    assert len([name for name in told.opened if name.startswith("audit_key/")]) >= len(told.story.keys)
    # A run's is deleted when its lease ends, which may be before this looks.
    assert kinds - {"run_token"} == {
        *(
            "agent_adapter",
            "approval",
            "approval_key",
            "agent_token",
            "audit_head_key",
            "audit_key",
            "integration",
            "oauth_client",
            "oauth_flow",
        ),
        *("operator_token", "operator_totp", "webhook"),
    }
    for name, value in told.opened.items():
        assert told.story.canaries.found(Place("a secret", value)), f"{name} is new: give it a canary"


def test_everything_that_can_be_read_was_searched(told: Told) -> None:
    logs = {f"file home/logs/{name}.log" for name in ("orchestrator", "database", "postgres")}
    assert logs <= told.names["home"]
    assert "file home/secrets/master.key" in told.names["home"]
    assert logs <= told.names["after the crash"]
    assert {f"table public.{name}" for name in ("secrets", "audit_events", "sessions", "idempotency_keys")} <= (
        told.names["tables"]
    )
    for kind in ("database files", "after the crash"):
        assert any(name.startswith("database file data/pg_wal/0") for name in told.names[kind])
        assert sum(name.startswith("database file data/base/") for name in told.names[kind]) > 500
    assert {f"cmdline of {name}" for name in ("orchestrator", "supervisor", "postgres")} <= told.names["processes"]
    assert any(name.startswith("cmdline of postgres child") for name in told.names["processes"])
    assert len(told.names["doors"]) > 400


def test_every_key_that_there_was_was_looked_for_and_of_those_that_were_destroyed_no_file_is_left(told: Told) -> None:
    story = told.story
    assert len(story.destroyed) >= 5 and len(story.keys) - len(story.destroyed) >= 3
    assert {master_key(key_id) for key_id in story.keys} <= story.canaries.names
    living = {f"keys/{key_id}.key" for key_id in story.keys.keys() - story.destroyed}
    folder = story.machine.home / "secrets"
    left = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    # Nothing that was written for a moment either.
    assert left == {"master.key", "keys/instance", *living}
    assert story.active() not in story.destroyed


def test_a_rotation_was_looked_at_while_it_lived_and_after_it_was_killed(told: Told) -> None:
    names = told.names["after a killed rotation"]
    assert {f"{file} of {name}" for file in ("cmdline", "status") for name in ("rotator", "orchestrator")} <= names
    assert {
        "file home/logs/orchestrator.log",
        "file home/secrets/master.key",
        "file home/secrets/keys/instance",
    } <= names


# — it would be found —

TOKEN = token_like("the token of by-cli")
PLACED = b'{"token": "' + TOKEN.encode() + b'"}'
FORMS = {
    "as it is": PLACED,
    "as hex": PLACED.hex().encode(),
    "as base64": base64.b64encode(PLACED),
    "as base64, one byte further": base64.b64encode(b"x" + PLACED),
    "as base64, two bytes further": base64.b64encode(b"xx" + PLACED),
    "as base64 for addresses": base64.urlsafe_b64encode(PLACED),
    "for an address": quote(TOKEN).encode(),
    "as JSON in JSON": json.dumps(json.dumps({"token": TOKEN})).encode(),
    "in UTF-16": TOKEN.encode("utf-16"),
    "in capitals": TOKEN.upper().encode(),
    "cut short": PLACED[:40],
    "without its beginning": PLACED[-28:],
}


def _leaks(told: Told, places: Iterable[Place], name: str = "the token of by-cli") -> set[str]:
    """Where the token, or whatever is called so, is found, by the places' names."""
    found = told.story.canaries.found_in(places)
    return {each.removeprefix(f"{name} in ") for each in found}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_leak_in_a_reply_or_a_file_is_found_in_any_form(told: Told, form: bytes) -> None:
    for before in range(9):
        assert _leaks(told, [Place("a reply", b"x" * before + form + b"." * 9)]) == {"a reply"}
    log = told.story.machine.home / "logs" / "orchestrator.log"
    length = log.stat().st_size
    with log.open("ab") as file:
        file.write(form)
    assert _leaks(told, told.story.home()) == {"file home/logs/orchestrator.log"}
    os.truncate(log, length)
    assert _leaks(told, told.story.home()) == set()


KEY_FORMS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": bytes,
    "its first half": lambda key: key[:16],
    "its second half": lambda key: key[16:],
    "as hex": lambda key: key.hex().encode(),
    "as hex in capitals": lambda key: key.hex().upper().encode(),
    "as base64": base64.b64encode,
    "as base64 within more": lambda key: base64.b64encode(b"a key: " + key + b", and so on"),
    "as base64 for addresses": base64.urlsafe_b64encode,
    "as base64 without its end": lambda key: base64.b64encode(key)[:30],
    "as base64 in an address": lambda key: quote(base64.b64encode(key)).encode(),
    "as base64 in UTF-16": lambda key: base64.b64encode(key).decode().encode("utf-16"),
    "as base32": base64.b32encode,
    "for an address": lambda key: quote_from_bytes(key).encode(),
    "as Python writes it": lambda key: repr(key).encode(),
    "as a text in JSON": lambda key: json.dumps(key.decode("latin-1"), ensure_ascii=False).encode(),
    "as a text in JSON of ASCII": lambda key: json.dumps(key.decode("latin-1")).encode(),
    "as numbers": lambda key: str(list(key)).encode(),
    "as base64 in JSON in JSON": lambda key: json.dumps(json.dumps({"key": base64.b64encode(key).decode()})).encode(),
}


def _some_keys(told: Told) -> dict[str, bytes]:
    """The one that is active, all that were destroyed, and all audit keys."""
    story = told.story
    ids = [story.active(), *story.destroyed]
    audit = {name: value for name, value in told.opened.items() if name.startswith("audit_key/")}
    return {master_key(key_id): story.keys[key_id] for key_id in ids} | audit


@pytest.mark.parametrize("form", KEY_FORMS.values(), ids=KEY_FORMS)
def test_a_key_in_a_reply_or_a_file_is_found_in_any_form(told: Told, form: Callable[[bytes], bytes]) -> None:
    for name, key in _some_keys(told).items():
        for before in range(9):
            assert _leaks(told, [Place("a reply", b"x" * before + form(key) + b"." * 9)], name) == {"a reply"}
        with _written(told, "logs/a-key.log", form(key)):
            assert _leaks(told, told.story.home(), name) == {"file home/logs/a-key.log"}
    assert _leaks(told, told.story.home()) == set()


def test_a_key_is_found_also_beside_the_place_where_one_may_be(told: Told) -> None:
    story = told.story
    active, gone = story.active(), min(story.destroyed)
    other = min(story.keys.keys() - story.destroyed - {active})
    for file, key_id in (
        (f"keys/.new-{active}-0123456789abcdef", active),
        (f".new-{active}-0123456789abcdef", active),
        (f"keys/{active}", active),
        (f"{active}.key", active),
        (f"keys/{gone}.key", gone),
        (f"keys/.new-{gone}-0123456789abcdef", gone),
    ):
        with _written(told, f"secrets/{file}", story.keys[key_id]):
            assert _leaks(told, story.home(), master_key(key_id)) == {f"file home/secrets/{file}"}, file
    for file, key_id in ((f"keys/{other}.key", active), ("master.key", gone), (f"keys/{other}.key", gone)):
        before = (story.machine.home / "secrets" / file).read_bytes()
        with _written(told, f"secrets/{file}", story.keys[key_id]):
            assert _leaks(told, story.home(), master_key(key_id)) == {f"file home/secrets/{file}"}, file
        (story.machine.home / "secrets" / file).write_bytes(before)
    assert _leaks(told, story.home()) == set()


@contextmanager
def _written(told: Told, file: str, content: bytes) -> Iterator[None]:
    path = told.story.machine.home / file
    path.write_bytes(content)
    yield
    path.unlink()


@pytest.mark.parametrize("column", ["text", "bytea"])
def test_a_leak_in_the_database_is_found_in_the_tables_and_in_the_files(told: Told, column: str) -> None:
    home = told.story.machine.home
    with join(home) as member, psycopg.connect(member.database.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE TABLE leak_{column} (value {column})")
        value = TOKEN if column == "text" else TOKEN.encode()
        connection.execute(f"INSERT INTO leak_{column} SELECT %s FROM generate_series(1, 3)", (value,))
        connection.execute("CHECKPOINT")
        assert _leaks(told, places.database(home)) == {f"table public.leak_{column}"}
        found = _leaks(told, places.database_files(home))
        assert {name.split("/")[1] for name in found} == {"base", "pg_wal"}
        connection.execute(f"DROP TABLE leak_{column}")


def test_a_key_in_the_database_is_found_in_the_tables_and_in_the_files(told: Told) -> None:
    home, values = told.story.machine.home, _some_keys(told)
    with join(home) as member, psycopg.connect(member.database.conninfo("postgres"), autocommit=True) as connection:
        connection.execute("CREATE TABLE leak_of_keys (value bytea)")
        for key in values.values():
            connection.execute("INSERT INTO leak_of_keys VALUES (%s)", (key,))
        connection.execute("CHECKPOINT")
        found = told.story.canaries.found_in(places.database(home))
        assert set(found) == {f"{name} in table public.leak_of_keys" for name in values}
        found = told.story.canaries.found_in(places.database_files(home))
        assert {(each.partition(" in ")[0], each.split("/")[-2]) for each in found} >= {(n, "pg_wal") for n in values}
        assert {each.partition(" in ")[0] for each in found if "/base/" in each} == set(values)
        connection.execute("DROP TABLE leak_of_keys")


def test_a_leak_in_a_statement_that_runs_is_found(told: Told) -> None:
    home = told.story.machine.home
    with join(home) as member, psycopg.connect(member.database.conninfo("postgres")) as connection:
        connection.execute(f"SELECT {sql.quote(TOKEN)}")
        assert "table pg_catalog.pg_stat_activity" in _leaks(told, places.database(home))


def test_a_leak_in_what_is_seen_of_a_process_is_found(told: Told) -> None:
    home = told.story.machine.home
    words = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", base64.b64encode(PLACED)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with join(home), subprocess.Popen(words, env={"A": PLACED.hex()}, **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout.readline()
        found = _leaks(told, places.processes(home, child.pid))
        child.kill()
    assert found == {"cmdline of orchestrator", "environ of orchestrator"}


def test_every_canary_is_one_that_is_found(told: Told) -> None:
    planted = told.story.canaries
    assert len(planted.names) > 30
    for name, secret in planted.spelled():
        for data in (secret, b"." + base64.b64encode(secret), secret.hex().encode()):
            assert f"{name} in a reply" in planted.found(Place("a reply", data + bytes(8)))
