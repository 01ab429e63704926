"""
What happens to the master key in the story: it is rotated at every door, killed in the middle of it, pruned, dropped and
had again.
"""

from __future__ import annotations

import base64
import contextlib
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pyotp

from company_agents.db.embedded import join
from tests.cli.processes import Done, Up, ask, bearer
from tests.database.processes import until
from tests.promises.canary import places
from tests.promises.canary.search import Place
from tests.promises.canary.story import Story

ROTATE = {"finish": False, "compromised": False}


def rotating(story: Story) -> None:
    """By command, by a program, on the page; looked at before and after; and once because the key got out."""
    doors = story.doors
    for form, kind in (([], []), (["--json"], ["--compromised"])):
        assert doors.cli("key", "rotate", "--dry-run", *kind, *form).status == 0
        assert doors.cli("key", "rotate", *form).status == 0
        story.collect()
    assert doors.rest(story.operator_token, "POST", "/v1/key/rotate", ROTATE).status == 202
    _ended(story)
    assert doors.page(story.cookie, "/master-key/rotate", {}).status == 303
    assert doors.page(story.cookie, "/master-key", name="GET /master-key while it runs").status == 200
    _ended(story)
    assert "Rotated:" in doors.page(story.cookie, "/master-key").text
    compromised(story)
    assert len(story.keys) == 6


def compromised(story: Story) -> None:
    """The active key got out; what it sealed is to be replaced."""
    done = story.doors.json("key", "rotate", "--compromised")
    assert done["destroyed"] and done["to_reissue"]
    story.collect(destroyed=[done["old_key_id"]])
    for form in ([], ["--json"]):
        assert story.doors.cli("key", "reissue", *form).status == 1


def _ended(story: Story) -> None:
    """One that was begun at a door of the orchestrator is done."""

    def look() -> Any:
        found = ask(f"{story.doors.url}/v1/key", headers=bearer(story.operator_token)).json
        return None if found["underway"] else found["last_rotation"]

    assert until(look)["action"] == "rotated"
    assert story.doors.rest(story.operator_token, "GET", "/v1/key").status == 200
    story.collect()


def killed(story: Story, up: Up) -> list[Place]:
    """A rotation dies in the middle, twice, and is finished; what was to be seen while it lived, and what it left."""
    seen: list[Place] = []
    for state in ("staged", "retiring"):
        with _kept_from_moving(story) as server, story.machine.start("key", "rotate", "--json") as child:
            _wait_for_a_key_that_is(state, server)
            child.send_signal(signal.SIGSTOP)
            story.collect()
            seen += places.processes(story.machine.home, up.pid, rotator=child.pid)
            child.kill()
            out, err = child.communicate()
        assert not out
        story.doors.keep(f"standard error of a rotation that was killed while a key was {state}", err)
        seen += story.home()
        until(lambda: _finished(story))
        story.collect()
    return seen


def _wait_for_a_key_that_is(state: str, server: psycopg.Connection) -> None:
    until(lambda: server.execute("SELECT 1 FROM master_keys WHERE state = %s", (state,)).fetchone())


@contextlib.contextmanager
def _kept_from_moving(story: Story) -> Iterator[psycopg.Connection]:
    """Somebody holds every secret's row, so that a rotation comes to its middle and no further; a connection."""
    with join(story.machine.home) as member:
        address = member.database.conninfo("postgres")
        with psycopg.connect(address) as holding, psycopg.connect(address, autocommit=True) as server:
            holding.execute("SELECT FROM secrets FOR UPDATE")
            yield server


def _finished(story: Story) -> Done | None:
    # The server needs a moment to see that whoever held the fence is gone.
    done = story.doors.cli("key", "rotate", "--finish", "--json")
    return done if done.status == 0 else None


def pruning(story: Story) -> None:
    """Keys whose time is over go: one by command, one by a program, the rest on the page."""
    doors, known = story.doors, _states(story)
    over = [key["key_id"] for key in known if key["state"] == "archived"]
    assert len(over) >= 4
    assert doors.json("key", "prune", "--id", over[0])["destroyed"] == over[:1]
    body = {"id": over[1]}
    assert doors.rest(story.operator_token, "POST", "/v1/key/prune", body).json["destroyed"] == over[1:2]
    assert doors.page(story.cookie, "/master-key/prune").status == 200
    text = doors.page(story.cookie, "/master-key/prune", {}).text
    assert all(key_id in text for key_id in over[2:])
    story.collect(destroyed=over)
    active = next(key["key_id"] for key in known if key["state"] == "active")
    assert doors.cli("key", "prune").status == 0
    assert doors.cli("key", "prune", "--id", active, "--json").status == 4


def _states(story: Story) -> list[dict[str, Any]]:
    """What `key status` says of each."""
    found: list[dict[str, Any]] = story.doors.json("key", "status")["keys"]
    return found


def sealing(story: Story) -> None:
    """Sealed at each door, asked at each, and unsealed on the page, after a wrong password, and by command."""
    doors = story.doors
    assert doors.rest(story.operator_token, "POST", "/v1/instance/seal").status == 200
    _asked_in_vain(story)
    form = {"name": "olivia", "password": story.password("a mistyped password"), "code": "123456"}
    assert doors.page("", "/unseal", form, name="POST /unseal, wrong").status == 401
    form = {**form, "password": story.password("password of olivia"), "code": _code(story)}
    name = "a session of unsealing"
    story.session(doors.page("", "/unseal", form, shown={name}, name="POST /unseal"), name)
    assert doors.page(story.cookie, "/seal", {}).status == 303
    _asked_in_vain(story)
    for words in (["unseal"], ["seal", "--json"], ["unseal", "--json"]):
        assert doors.cli(*words).status == 0
    until(lambda: True if ask(f"{doors.url}/v1/key", headers=bearer(story.operator_token)).status == 200 else None)
    assert doors.json("key", "verify")["ok"] is True


def _code(story: Story) -> str:
    # Those of now and before may have been used for signing in.
    totp = pyotp.TOTP(story.totp["olivia"])
    return totp.at(int(time.time()) + totp.interval)


def _asked_in_vain(story: Story) -> None:
    doors = story.doors
    assert doors.rest(story.operator_token, "GET", "/v1/key", name="GET /v1/key, sealed").status == 503
    assert doors.page(story.cookie, "/master-key", name="GET /master-key, sealed").status == 503
    assert doors.page("", "/unseal", name="GET /unseal, sealed").status == 200
    assert doors.tool(story.tokens["ann"], "whoami", {}, name="whoami, sealed").status == 503
    for words in (["key", "status"], ["key", "rotate", "--json"]):
        assert doors.cli(*words, name=f"{' '.join(words)}, sealed").status != 0


def mistaken(story: Story) -> None:
    """A key where the id of one belongs, or its address."""
    doors = story.doors
    key = story.keys[story.active()]
    for secret, form in ((key.hex(), []), (base64.urlsafe_b64encode(key).decode(), ["--json"])):
        for words in (["prune", "--id", secret], ["prune", "--gone", secret], ["init", "--source", secret]):
            said = f"key {' '.join(words + form)}".replace(secret, "…")
            assert doors.cli("key", *words, *form, name=said).status != 0
        for path, body in (
            ("prune", {"id": secret}),
            ("prune", {secret: 1}),
            ("rotate", {**ROTATE, "finish": secret}),
            ("rotate", {**ROTATE, secret: True}),
        ):
            answer = doors.rest(story.operator_token, "POST", f"/v1/key/{path}", body, name=f"POST {path} with …")
            assert answer.status in (404, 422)
        doors.page(story.cookie, f"/master-key/prune?key={secret}", name="GET prune?key=…")
        assert doors.page(story.cookie, "/master-key/prune", {"key": secret}, name="POST prune of …").status == 404
        doors.page("", "/unseal", {"name": secret, "password": secret, "code": secret}, name="POST /unseal with …")


def looked_at(story: Story) -> None:
    """The pages and lists that are about it."""
    for page in ("", "/rotate", "/finish", "/compromised", "/prune", f"/prune?key={story.active()}"):
        assert story.doors.page(story.cookie, f"/master-key{page}").status == 200, page
    for page in ("/seal", "/unseal"):
        assert story.doors.page(story.cookie, page).status == 200, page
    for path in ("/v1/key", "/v1/key/reissue"):
        assert story.doors.rest(story.operator_token, "GET", path).status == 200, path
    status = story.doors.cli("key", "status").out
    assert all(re.search(rf"{key_id} +destroyed", status) for key_id in story.destroyed)
