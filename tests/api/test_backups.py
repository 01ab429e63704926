"""
Backups, for programs of an owner.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from company_agents.app import App
from company_agents.identity.permissions import Role
from tests.api.conftest import Ask, People, Person
from tests.api.world import some_backup


@pytest.fixture(autouse=True)
async def none_left(app: App, nothing_spoiled: None) -> AsyncIterator[None]:
    """Nothing of a test keeps a key, or needs attention, in another."""
    await _forget_all(app)
    yield
    await app.backup_work.ended()
    await _forget_all(app)


async def _forget_all(app: App) -> None:
    for row in await app.backups.current():
        await app.backups.forget(row.id, "local:tester")


async def test_a_backup_is_made_and_its_end_is_told(app: App, ask: Ask, owner: Person) -> None:
    begun = await ask(owner.token, "POST", "/v1/backups")
    assert begun.status_code == 202
    await app.backup_work.ended()
    found = (await ask(owner.token, "GET", "/v1/backups")).json()
    [made] = found["items"]
    active = (await ask(owner.token, "GET", "/v1/key")).json()["active_key_id"]
    assert (made["state"], made["with_ring"], made["scheduled"], made["verify_problem"]) == ("whole", False, False, "")
    assert made["key_ids"] == [active] and made["made_by"] == f"operator:{owner.id}" and made["verified_at"]
    assert (found["last"]["what"], found["last"]["ok"], found["last"]["backup_id"]) == ("make", True, made["id"])
    assert found["underway"] is None and found["concerns"] == [] and found["next"] is None
    assert (await ask(owner.token, "GET", f"/v1/backups/{made['id']}")).json() == made
    # A key that it needs is not destroyed.
    assert made["file"] in str((await ask(owner.token, "GET", "/v1/key")).json()["keys"])

    assert (await ask(owner.token, "POST", f"/v1/backups/{made['id']}/verify")).status_code == 202
    await app.backup_work.ended()
    last = (await ask(owner.token, "GET", "/v1/backups")).json()["last"]
    assert (last["what"], last["ok"], last["not_opened"], last["code"]) == ("verify", True, 0, None)
    assert last["opened"] > 0 and last["file"] == made["file"]


async def test_what_a_verification_finds_is_told_and_needs_attention(app: App, ask: Ask, owner: Person) -> None:
    made = await app.backups.make("local:tester")
    file = Path(made.place.removeprefix("file://")) / made.file
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] + b"?" + content[len(content) // 2 + 1 :])
    assert (await ask(owner.token, "POST", f"/v1/backups/{made.id}/verify")).status_code == 202
    await app.backup_work.ended()
    found = (await ask(owner.token, "GET", "/v1/backups")).json()
    assert (found["last"]["ok"], found["last"]["code"]) == (False, "backup_broken")
    assert [concern["kind"] for concern in found["concerns"]] == ["verify"]
    assert found["items"][0]["verify_problem"] == found["last"]["detail"]


async def test_one_that_cannot_be_looked_at_is_not_said_to_be_bad(app: App, ask: Ask, owner: Person) -> None:
    missing = await some_backup(app)
    assert (await ask(owner.token, "POST", f"/v1/backups/{missing}/verify")).status_code == 202
    await app.backup_work.ended()
    found = (await ask(owner.token, "GET", "/v1/backups")).json()
    assert (found["last"]["ok"], found["last"]["code"]) == (False, "not_found")
    assert found["concerns"] == [] and (found["items"][0]["verified_at"], found["items"][0]["verify_problem"]) == (
        None,
        "",
    )


async def test_one_is_made_at_a_time(app: App, ask: Ask, owner: Person) -> None:
    known = await some_backup(app)
    begun = asyncio.create_task(app.backup_work.make("local:tester"))
    while app.backup_work.underway is None:
        await asyncio.sleep(0)
    for path in ("/v1/backups", f"/v1/backups/{known}/verify"):
        busy = await ask(owner.token, "POST", path)
        assert (busy.status_code, busy.json()["code"]) == (409, "backup_runs")
    await begun


async def test_a_forgotten_backup_is_gone(app: App, ask: Ask, owner: Person) -> None:
    made = await app.backups.make("local:tester")
    file = Path(made.place.removeprefix("file://")) / made.file
    assert file.exists()
    assert (await ask(owner.token, "DELETE", f"/v1/backups/{made.id}")).status_code == 204
    assert not file.exists()
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/verify")):
        assert (await ask(owner.token, method, f"/v1/backups/{made.id}{path}")).status_code == 404
    assert (await ask(owner.token, "GET", "/v1/backups")).json()["items"] == []


async def test_an_owner_whose_token_has_a_lower_role_may_nothing_of_it(app: App, ask: Ask, person: People) -> None:
    lower, known = await person(None, Role.OWNER, Role.OPERATOR), await some_backup(app)
    for method, path in [
        ("GET", "/v1/backups"),
        ("GET", f"/v1/backups/{known}"),
        ("POST", "/v1/backups"),
        ("POST", f"/v1/backups/{known}/verify"),
        ("DELETE", f"/v1/backups/{known}"),
    ]:
        assert (await ask(lower.token, method, path)).status_code == 403, path
    assert [row.id for row in await app.backups.rows()] == [uuid.UUID(known)] and app.backup_work.underway is None
