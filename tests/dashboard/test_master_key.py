"""
The page of the master key: what it says, and what its buttons do, on an instance of its own with two orchestrators.
"""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Any
from uuid import UUID

from company_agents.app import App
from company_agents.crypto.keyring import MasterKey
from company_agents.dashboard.pages import master_key, sealing
from company_agents.errors import Busy
from company_agents.identity.permissions import Role
from company_agents.identity.principal import Caller
from company_agents.rotation.fence import Fence
from tests.dashboard.people import LOCAL, Person, join, member, owner, text_of

PAGES = [page for page in (*master_key.PAGES, *sealing.PAGES) if not page.for_anybody]


async def _execute(own: App, statement: str, *params: Any) -> None:
    async with await own.identity.db.logins.instance.connect() as connection:
        assert (await connection.execute(statement, params)).rowcount > 0


async def _backup(own: App, file: str, key_id: str) -> None:
    """A backup that needs a key."""
    await _execute(
        own,
        "INSERT INTO backups (id, file, state, key_ids) VALUES (gen_random_uuid(), %s, 'whole', %s)",
        *(file, [key_id]),
    )


async def _states(own: App) -> dict[str, str]:
    return {key.key_id: key.state for key in (await own.keys.status()).keys}


def _every_key(own: App) -> set[str]:
    """The keys in every form in which one could be shown."""
    keys = [key.secret.reveal() for key in own.held.ring.keys]
    forms = {key.hex() for key in keys} | {base64.b64encode(key).decode() for key in keys}
    return forms | {base64.urlsafe_b64encode(key).decode() for key in keys}


# — what is shown, and to whom —


async def test_an_owner_sees_all_that_the_command_line_says_and_no_key(own: App, olga: Person) -> None:
    status = await own.keys.status()
    async with olga.client() as browser:
        shown = [await browser.get(page.path) for page in PAGES if page.show]
    text = text_of(shown[0].text)
    for fact in (status.source, status.active_key_id, f"{status.active.seals:,} values of 4,294,967,296"):
        assert fact in text
    assert f"{status.age_days} days of {status.period_days}" in text
    assert len(status.replicas) == 2 and text.count("Holds it") == 2
    assert "refresh" not in shown[0].headers
    assert all(found.status_code == 200 for found in shown)
    assert not any(form in found.text for found in shown for form in _every_key(own))


async def test_nobody_else_sees_the_master_key_or_may_touch_it(own: App, company: Caller) -> None:
    before = await _states(own)
    for role in Role:
        somebody = await member(own, company, role)
        async with somebody.client() as browser:
            for page in PAGES:
                if page.show:
                    assert (await browser.get(page.path)).status_code == 403, page.path
                if page.act:
                    assert (await browser.post(page.path)).status_code == 403, page.path
            assert "/master-key" not in (await browser.get("/companies")).text
    assert await _states(own) == before and not own.held.sealed


async def test_a_key_that_is_old_is_said_to_owners_wherever_they_start(own: App, olga: Person, company: Caller) -> None:
    somebody = await member(own, company, Role.OWNER)
    said = "days old, and its period is 365: rotate it"
    active = (await own.keys.status()).active_key_id
    age = "UPDATE master_keys SET activated_at = activated_at + %s * interval '1 day' WHERE key_id = %s"
    await _execute(own, age, -400, active)
    try:
        for path in ("/companies", f"/companies/{company.scope.company_id}"):
            async with olga.client() as browser:
                found = await browser.get(path)
                assert said in found.text and 'href="/master-key"' in found.text
            async with somebody.client() as browser:
                assert said not in (await browser.get(path)).text
        async with olga.client() as browser:
            assert said in (await browser.get("/master-key")).text
    finally:
        await _execute(own, age, 400, active)


# — rotating —


async def test_a_rotation_goes_on_when_whoever_began_it_is_gone(own: App) -> None:
    before = (await own.keys.status()).active_key_id
    begun = asyncio.create_task(own.background.start(finish=False, compromised=False, who="local:tester"))
    while not own.background.running:
        await asyncio.sleep(0)
    begun.cancel()
    await own.background.ended()
    last = own.background.last
    assert last is not None and last.result is not None
    assert (last.result.action, last.result.old_key_id, last.result.bad) == ("rotated", before, [])
    assert (await own.keys.status()).active_key_id == last.result.new_key_id != before


async def test_one_rotation_at_a_time_and_every_page_sees_that_one_runs(own: App, olga: Person) -> None:
    before = await _states(own)
    async with Fence.taken(own.identity.db) as fence, olga.client() as browser:
        async with fence.step("rewrap", 3000):
            pass
        for path in ("/master-key/rotate", "/master-key/finish", "/master-key/compromised", "/master-key/prune"):
            refused = await browser.post(path)
            assert refused.status_code == Busy.http_status
            assert "The master key is being rotated or pruned just now." in refused.text
        found = await browser.get("/master-key")
        assert "Moving secrets to the new key: 0 of 3,000 secrets" in text_of(found.text)
        assert found.headers["refresh"] == "2"
        # Whoever reads with a screen reader can have it stand still.
        assert 'href="/master-key?live=no"' in found.text
        assert "refresh" not in (await browser.get("/master-key?live=no")).headers
    assert await _states(own) == before
    own.background.last = None


async def test_what_was_left_unfinished_is_finished_from_the_page(own: App, olga: Person) -> None:
    new = MasterKey.generate()
    async with Fence.taken(own.identity.db) as fence:
        await own.rotator._stage(fence, new)
    # It has sealed nothing yet, whatever the others have.
    assert {key.key_id: key.seals for key in (await own.keys.status()).keys}[new.key_id] == 0
    async with olga.client() as browser:
        found = await browser.get("/master-key")
        assert "was left unfinished" in found.text and "Waiting to take over" in found.text
        assert "refresh" not in found.headers
        assert 'href="/master-key/rotate"' not in found.text
        assert (await browser.post("/master-key/finish")).headers["location"] == "/master-key"
        await own.background.ended()
        found = await browser.get("/master-key")
        assert "Finished:" in found.text and "unfinished" not in found.text
        assert (await own.keys.status()).active_key_id == new.key_id
        # Pressed once more, by somebody whose page is older: nothing is begun.
        await browser.post("/master-key/finish")
        await own.background.ended()
        assert "There was nothing to finish." in (await browser.get("/master-key")).text
    assert (await own.keys.status()).active_key_id == new.key_id


async def test_a_rotation_that_fails_says_so_on_the_page(own: App, olga: Person, company: Caller) -> None:
    made, _ = await own.agents.create(company, "broken")
    flip = "UPDATE secrets SET value = set_byte(value, 0, get_byte(value, 0) # 1) WHERE name LIKE %s"
    name = f"agent_token/{made.id}%"
    before = (await own.keys.status()).active_key_id
    await _execute(own, flip, name)
    try:
        async with olga.client() as browser:
            await browser.post("/master-key/rotate")
            await own.background.ended()
            found = text_of((await browser.get("/master-key")).text)
        assert "The last rotation did not succeed: 1 secret does not open, and nothing was changed" in found
        assert (await own.keys.status()).active_key_id == before
    finally:
        await _execute(own, flip, name)
        own.background.last = None


async def test_a_key_whose_time_is_over_is_pruned_and_one_that_is_needed_is_not(own: App, olga: Person) -> None:
    async with olga.client() as browser:
        await browser.post("/master-key/rotate")
        await own.background.ended()
        archived = [key.key_id for key in (await own.keys.status()).keys if key.state == "archived"]
        assert archived and "/master-key/prune" not in (await browser.get("/master-key")).text
        await _execute(own, "UPDATE master_keys SET ends_at = now() WHERE state = 'archived'")
        needed = archived[0]
        await _backup(own, "monday.backup", needed)
        assert "needed by 1 backup" in (await browser.get("/master-key")).text
        offered = (await browser.get("/master-key/prune")).text
        assert all(key_id in offered for key_id in archived)
        pruned = text_of((await browser.post("/master-key/prune")).text)
    assert "is kept: The backup monday.backup needs it." in pruned
    states = await _states(own)
    assert states[needed] == "archived"
    assert {states[key_id] for key_id in archived[1:]} <= {"destroyed"}
    await _execute(own, "DELETE FROM backups")


async def test_a_key_that_got_out_is_destroyed_and_what_it_sealed_is_listed_until_nothing_is_left(
    own: App, olga: Person, company: Caller
) -> None:
    agent, _ = await own.agents.create(company, "ann of the list")
    active = (await own.keys.status()).active_key_id
    await _backup(own, "tuesday.backup", active)
    async with olga.client() as browser:
        asked = text_of((await browser.get("/master-key/compromised")).text)
        assert "1 backup cannot be restored afterwards: tuesday.backup" in asked
        await browser.post("/master-key/compromised")
        await own.background.ended()
        found = (await browser.get("/master-key")).text
        assert "and with it tuesday.backup" in text_of(found) and "Got out" in found and "Destroyed" in found
        assert (await _states(own))[active] == "destroyed"
        left = await own.keys.to_reissue()
        kinds = {entry.name.partition("/")[0] for entry in left}
        assert {"agent_token", "operator_totp"} <= kinds
        paths = set(re.findall(r'<a href="([^"]+)">Replace it', found))
        assert f"/companies/{company.scope.company_id}/agents/{agent.id}/rotate-token" in paths
        assert f"/people/{olga.operator.id}/link" in paths
        # Every link leads to a page that replaces it, for an owner who has given the password again.
        for path in sorted(paths):
            assert (await browser.get(path)).status_code == 200, path
    await _set_up_anew(own)
    assert await own.keys.to_reissue() == []
    fresh = await owner(own)
    async with fresh.client() as browser:
        page = await browser.get("/master-key")
    assert "still to be replaced" not in page.text and "To be replaced" not in page.text


async def _set_up_anew(own: App) -> None:
    """Everybody gets a second factor anew, and every agent a token."""
    for entry in await own.keys.to_reissue():
        kind, owner_id = entry.name.split("/")[:2]
        if kind == "agent_token":
            assert entry.company_id is not None
            there = await own.identity.in_company(LOCAL, entry.company_id)
            await own.agents.rotate_token(there, UUID(owner_id))
        elif kind == "audit_head_key":
            # A backup that somebody made is signed with it.
            await own.outbox.head_keys.renew()
        else:
            assert kind == "operator_totp", entry.name
            await join(own, await own.operators.link(LOCAL, UUID(owner_id)))
