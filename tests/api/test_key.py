"""
The master key and the panic button, for programs of an owner.
"""

from __future__ import annotations

import base64

import pytest

from company_agents.app import App
from company_agents.identity.permissions import Role
from company_agents.rotation.fence import Fence
from tests.api.conftest import Ask, People, Person
from tests.api.world import settle


@pytest.fixture(scope="module", autouse=True)
async def whole(app: App, nothing_spoiled: None) -> None:
    """A rotation does not begin beside what does not open, and one that was left unfinished because of it is finished."""
    await app.rotator.rotate(finish=True, compromised=False, who="tester", say=lambda step, done, total: None)


ROTATE = {"finish": False, "compromised": False}


async def test_a_rotation_is_begun_and_its_end_is_told(app: App, ask: Ask, owner: Person) -> None:
    before = (await ask(owner.token, "GET", "/v1/key")).json()
    begun = await ask(owner.token, "POST", "/v1/key/rotate", ROTATE)
    assert begun.status_code == 202
    await app.background.ended()
    after = (await ask(owner.token, "GET", "/v1/key")).json()
    assert after["active_key_id"] != before["active_key_id"]
    assert after["last_rotation"]["ok"] and after["last_rotation"]["action"] == "rotated"
    states = {key["key_id"]: key for key in after["keys"]}
    assert states[before["active_key_id"]]["state"] == "archived"
    assert states[after["active_key_id"]]["rows"] >= after["last_rotation"]["rows"] > 0
    assert after["underway"] is None
    rotated = [event for event in await app.events.newest(None, limit=20) if event["action"] == "key.rotated"]
    assert rotated[0]["actor"] == f"operator:{owner.id}"
    for key in app.held.ring.keys:
        assert base64.b64encode(key.secret.reveal()).decode() not in str(after)
        assert key.secret.reveal().hex() not in str(after)


async def test_what_keeps_a_rotation_from_beginning_is_answered(app: App, ask: Ask, owner: Person) -> None:
    async with Fence.taken(app.identity.db):
        busy = await ask(owner.token, "POST", "/v1/key/rotate", ROTATE)
        assert (busy.status_code, busy.json()["code"]) == (503, "key_busy") and busy.headers["retry-after"]
        pruned = await ask(owner.token, "POST", "/v1/key/prune", {})
        assert (pruned.status_code, pruned.json()["code"]) == (503, "key_busy")
        shown = (await ask(owner.token, "GET", "/v1/key")).json()
        assert shown["underway"]["running"] and shown["last_rotation"]["code"] == "key_busy"
    both = await ask(owner.token, "POST", "/v1/key/rotate", {"finish": True, "compromised": True})
    assert (both.status_code, both.json()["code"]) == (422, "wrong_usage")
    finished = await ask(owner.token, "POST", "/v1/key/rotate", {"finish": True, "compromised": False})
    assert finished.status_code == 202
    await app.background.ended()
    assert (await ask(owner.token, "GET", "/v1/key")).json()["last_rotation"]["action"] == "nothing"


async def test_a_key_that_is_not_there_or_is_needed_is_not_pruned(app: App, ask: Ask, owner: Person) -> None:
    active = (await ask(owner.token, "GET", "/v1/key")).json()["active_key_id"]
    missing = await ask(owner.token, "POST", "/v1/key/prune", {"id": "0" * 16})
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    needed = await ask(owner.token, "POST", "/v1/key/prune", {"id": active})
    assert (needed.status_code, needed.json()["code"]) == (403, "key_needed")
    assert (await app.keys.verify()).bad == []


async def test_a_key_that_got_out_leaves_a_list(app: App, ask: Ask, owner: Person, person: People) -> None:
    assert (await ask(owner.token, "POST", "/v1/key/rotate", {**ROTATE, "compromised": True})).status_code == 202
    await app.background.ended()
    shown = (await ask(owner.token, "GET", "/v1/key")).json()
    listed = (await ask(owner.token, "GET", "/v1/key/reissue")).json()
    assert shown["to_reissue"] == len(listed["items"]) > 0 and listed["next"] is None
    assert f"company-agents operator link --operator {owner.id}" in {entry["command"] for entry in listed["items"]}
    assert [key["state"] for key in shown["keys"] if key["compromised_at"]][-1] == "destroyed"


async def test_sealed_nothing_is_answered_until_it_is_unsealed(app: App, ask: Ask, owner: Person) -> None:
    sealed = await ask(owner.token, "POST", "/v1/instance/seal")
    assert (sealed.status_code, sealed.json()) == (200, {"sealed": True})
    assert app.held.sealed and not app.held.ring.keys
    refused = await ask(owner.token, "GET", "/v1/key")
    assert (refused.status_code, refused.json()["code"]) == (503, "sealed")
    await settle(app)
    assert (await ask(owner.token, "GET", "/v1/key")).status_code == 200


async def test_an_owner_whose_token_has_a_lower_role_may_nothing_of_it(app: App, ask: Ask, person: People) -> None:
    lower = await person(None, Role.OWNER, Role.OPERATOR)
    for method, path, body in [
        ("GET", "/v1/key", None),
        ("GET", "/v1/key/reissue", None),
        ("POST", "/v1/key/rotate", ROTATE),
        ("POST", "/v1/key/prune", {}),
        ("POST", "/v1/instance/seal", None),
    ]:
        assert (await ask(lower.token, method, path, body)).status_code == 403, path
    assert not app.held.sealed and not app.background.running
