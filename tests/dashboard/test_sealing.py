"""
Sealing from the page, and the way back: an instance of two orchestrators, both with all their doors.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pyotp
import pytest
from playwright.async_api import Page, expect

from company_agents.app import App
from company_agents.asgi import Front
from company_agents.dashboard.guard import cookie_name
from company_agents.identity.permissions import Role
from company_agents.identity.principal import Caller
from company_agents.rotation.background import Ended
from tests.dashboard.conftest import NewPage
from tests.dashboard.people import BROWSER, PASSWORD, Person, member, owner, text_of
from tests.dashboard.standin import served

FORM = {"name": "olga", "password": PASSWORD, "code": "000000"}
HTML = {"Accept": "text/html,application/xhtml+xml"}
PLAIN = "the instance is sealed; an owner unseals it\n"


async def _no_door(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("nothing of these tests is for this door")


@pytest.fixture(scope="module")
def fronts(both: tuple[App, App]) -> tuple[Front, Front]:
    """All doors of the two."""
    return Front(both[0], _no_door), Front(both[1], _no_door)


@pytest.fixture
async def open_again(both: tuple[App, App]) -> AsyncIterator[None]:
    """Whatever became of a test: the next one finds the instance open."""
    yield
    await both[0].panic.unseal("local:tester")
    await _beat(*both)


async def _beat(*apps: App) -> None:
    """A sign of life of each, as it gives one every second."""
    for app in apps:
        assert app.replica is not None
        await app.replica.beat()


def _client(front: Front, app: App, **headers: str) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(front)
    return httpx2.AsyncClient(transport=transport, base_url=app.settings.url, headers={**BROWSER, **headers})


def _code(person: Person, steps: int = 0) -> str:
    """A code of now, or of so many steps later. Each is good once, and one step early is taken."""
    totp = pyotp.TOTP(person.totp.reveal_text())
    return totp.at(int(time.time()) + steps * totp.interval)


async def _refused(app: App) -> list[dict[str, Any]]:
    events = await app.events.newest(None, limit=200)
    return [event for event in events if event["action"] == "instance.unseal_refused"]


@pytest.mark.usefixtures("open_again")
async def test_sealed_from_the_page_every_orchestrator_answers_503_and_leads_browsers_to_unseal(
    both: tuple[App, App], fronts: tuple[Front, Front], company: Caller
) -> None:
    own, other = both
    _, token = await own.agents.create(company, "ann who is cut off")
    sealer = await owner(own)
    # No password again: somebody who was signed in for hours is in a hurry too.
    long_ago = "UPDATE sessions SET confirmed_at = confirmed_at - interval '1 hour' WHERE operator_id = %s"
    await _execute(own, long_ago, sealer.operator.id)
    cookie = f"{cookie_name(own.settings)}={sealer.session.reveal_text()}"
    async with _client(fronts[0], own, **HTML, Cookie=cookie) as browser:
        assert "Seal it now" in (await browser.get("/seal")).text
        done = await browser.post("/seal")
        assert (done.status_code, done.headers["location"]) == (303, "/unseal?done=sealed")
        unseal = await browser.get("/unseal")
        # Whoever is signed in reaches nothing either, and is not told otherwise.
        assert "Unseal the instance" in unseal.text and "Sign out" not in unseal.text
    await _beat(own, other)
    assert own.held.sealed and other.held.sealed
    for app, front in zip(both, fronts, strict=True):
        async with _client(front, app, **HTML, Cookie=cookie) as browser:
            for path in ("/", "/companies", "/sign-in", "/seal", "/nowhere", "/v1/me"):
                found = await browser.get(path)
                assert found.status_code == 503, path
                assert 'href="/unseal"' in found.text and "default-src" in found.headers["content-security-policy"]
            assert (await browser.post("/companies/new", data={"name": "x"})).status_code == 503
            found = await browser.get("/")
            sheet = re.search(r'href="(/static/style[^"]+)"', found.text)
            assert sheet is not None and (await browser.get(sheet[1])).status_code == 200
        async with _client(front, app) as program:
            for path in ("/", "/companies", "/v1/me", "/mcp", "/unsea"):
                found = await program.get(path, headers={"Authorization": f"Bearer {token.reveal_text()}"})
                assert (found.status_code, found.text) == (503, PLAIN), path


async def _execute(app: App, statement: str, *params: Any) -> None:
    async with await app.identity.db.logins.instance.connect() as connection:
        assert (await connection.execute(statement, params)).rowcount > 0


@pytest.mark.usefixtures("open_again")
async def test_an_owner_unseals_it_with_password_and_code_and_every_orchestrator_follows(
    both: tuple[App, App], fronts: tuple[Front, Front]
) -> None:
    own, other = both
    opener = await owner(own)
    await own.panic.seal("local:tester")
    await _beat(own, other)
    form = {"name": opener.operator.name, "password": PASSWORD, "code": _code(opener, 1)}
    async with _client(fronts[1], other, **HTML) as browser:
        done = await browser.post("/unseal", data=form)
        assert (done.status_code, done.headers["location"]) == (303, "/unseal?done=unsealed")
        assert not other.held.sealed
        found = await browser.get("/unseal?done=unsealed")
        assert "The instance is open" in found.text and "Unsealed, and you are signed in." in found.text
        assert (await browser.get("/master-key")).status_code == 200
    await _beat(own)
    assert not own.held.sealed and len(own.held.ring.keys) >= 1
    assert (await own.sessions.current(opener.session.reveal_text())) is not None
    actions = [event["action"] for event in await own.events.newest(None, limit=10)]
    assert "instance.unsealed" in actions and "instance.sealed" in actions
    assert (await own.events.verify(None)).faults == ()


@pytest.mark.usefixtures("open_again")
async def test_nobody_but_an_owner_unseals_it_and_which_part_was_wrong_is_not_said(
    both: tuple[App, App], fronts: tuple[Front, Front], company: Caller
) -> None:
    own = both[0]
    opener = await owner(own)
    members = [await member(own, company, role) for role in Role]
    before = len(await _refused(own))
    await own.panic.seal("local:tester")
    right = {"name": opener.operator.name, "password": PASSWORD, "code": _code(opener, 1)}
    wrong = [
        {**right, "name": "nobody of this name"},
        {**right, "password": "four other words here"},
        {**right, "code": _code(opener, 9)},
        {"name": opener.operator.name},
        *({"name": each.operator.name, "password": PASSWORD, "code": _code(each, 1)} for each in members),
    ]
    answers = []
    async with _client(fronts[0], own, **HTML) as browser:
        for form in wrong:
            found = await browser.post("/unseal", data=form)
            assert found.status_code == 401, form
            assert own.held.sealed and not own.held.ring.keys
            assert "set-cookie" not in found.headers
            answers.append(text_of(found.text))
        assert len(set(answers)) == 1 and "Name, password or code is not right." in answers[0]
        foreign = await browser.post("/unseal", data=right, headers={"Sec-Fetch-Site": "cross-site"})
        assert foreign.status_code == 403 and own.held.sealed
        # The right code was not used up by any of that.
        assert (await browser.post("/unseal", data=right)).status_code == 303
    # Nobody had the keys to write that down with; it is written when somebody has.
    refused = await _refused(own)
    for _ in range(100):
        refused = await _refused(own)
        if sum(1 + event.get("repeated", 0) for event in refused) - before >= 4:
            break
        await asyncio.sleep(0.05)
    assert sum(1 + event.get("repeated", 0) for event in refused) - before >= 4
    assert {event.get("name") for event in refused} >= {opener.operator.name, members[0].operator.name}
    assert "nobody of this name" not in str(refused)


@pytest.mark.usefixtures("open_again")
async def test_guessing_at_unsealing_is_slowed_down_like_guessing_at_signing_in(
    both: tuple[App, App], fronts: tuple[Front, Front]
) -> None:
    own = both[0]
    opener = await owner(own)
    await own.panic.seal("local:tester")
    form = {"name": opener.operator.name, "password": "not these four words", "code": "000000"}
    async with _client(fronts[0], own, **HTML) as browser:
        statuses = [(await browser.post("/unseal", data=form)).status_code for _ in range(7)]
        assert statuses[0] == 401 and statuses[-1] == 429
        right = {"name": opener.operator.name, "password": PASSWORD, "code": _code(opener, 1)}
        blocked = await browser.post("/unseal", data=right)
        assert blocked.status_code == 429 and int(blocked.headers["retry-after"]) >= 1
    assert own.held.sealed
    await own.panic.unseal("local:tester")
    # The wait of a few seconds made long, so that it lasts until the next line on any machine.
    async with await own.store.db.logins.instance.connect() as connection:
        await connection.execute("UPDATE sign_in_failures SET blocked_until = blocked_until + interval '1 hour'")
    # It is the same count: signing in waits as well.
    async with _client(fronts[0], own) as browser:
        assert (await browser.post("/sign-in", data=right)).status_code == 429


@pytest.mark.usefixtures("open_again")
async def test_where_the_keys_cannot_be_had_a_stranger_is_not_told_where_they_are(
    both: tuple[App, App], fronts: tuple[Front, Front]
) -> None:
    own = both[0]
    opener = await owner(own)
    await own.panic.seal("local:tester")
    key = own.settings.home / "secrets" / "master.key"
    away = key.with_name("away")
    key.rename(away)
    try:
        async with _client(fronts[0], own, **HTML) as browser:
            stranger = await browser.post("/unseal", data={**FORM, "name": "a stranger"})
            right = {"name": opener.operator.name, "password": PASSWORD, "code": _code(opener, 1)}
            found = await browser.post("/unseal", data=right)
    finally:
        away.rename(key)
    # Who has not the password of an owner does not even have the source read.
    assert stranger.status_code == 401
    assert found.status_code == 503 and "The keys cannot be had just now." in found.text
    assert "master.key" not in found.text and str(own.settings.home) not in found.text
    assert own.held.sealed


async def test_an_instance_that_is_open_says_so_and_leads_to_signing_in(
    both: tuple[App, App], fronts: tuple[Front, Front]
) -> None:
    async with _client(fronts[0], both[0]) as browser:
        found = await browser.get("/unseal")
        assert "The instance is open" in found.text and "Sign in" in found.text and "<form" not in found.text
        done = await browser.post("/unseal", data=FORM)
        assert (done.status_code, done.headers["location"]) == (303, "/unseal")
        assert (await browser.get("/")).status_code == 303


def _last(app: App) -> Ended | None:
    return app.background.last


@pytest.mark.usefixtures("open_again")
async def test_a_rotation_ends_where_it_is_when_the_instance_is_sealed(both: tuple[App, App]) -> None:
    own = both[0]
    # An orchestrator that never says that it holds the new key: the rotation waits for it.
    silent = (uuid.uuid4(),)
    await _execute(
        own,
        "INSERT INTO replicas (id, host, process, version, key_ids, seen_at)"
        " VALUES (%s, 'silent', 1, '0', '{}', now() + interval '1 hour')",
        *silent,
    )
    try:
        await own.background.start(finish=False, compromised=False, who="local:tester")
        while not any(key.state == "staged" for key in (await own.keys.status()).keys):
            await asyncio.sleep(0.01)
        await own.panic.seal("local:tester")
        await own.background.ended()
    finally:
        await _execute(own, "DELETE FROM replicas WHERE id = %s", *silent)
    assert _last(own) is None, "it went on"
    assert own.held.sealed and not own.held.ring.keys
    await own.panic.unseal("local:tester")
    await own.background.start(finish=True, compromised=False, who="local:tester")
    await own.background.ended()
    last = _last(own)
    assert last is not None and last.result is not None and last.result.action == "finished"
    assert (await own.keys.verify()).bad == []
    assert (await own.keys.status()).underway is None


# — in a browser —


async def _press(page: Page, name: str) -> None:
    found = (
        page.locator("main").get_by_role("button", name=name).or_(page.locator("main").get_by_role("link", name=name))
    )
    await found.first.click()


@pytest.mark.browser
@pytest.mark.usefixtures("open_again")
async def test_an_owner_rotates_the_key_seals_the_instance_and_unseals_it(
    both: tuple[App, App], fronts: tuple[Front, Front], new_page: NewPage
) -> None:
    own, other = both
    somebody = await owner(own)
    before = (await own.keys.status()).active_key_id
    async with served(fronts[0]) as url:
        page = await new_page(somebody, url=url)
        await page.goto("/companies")
        await page.get_by_role("navigation").get_by_role("link", name="Master key").click()
        await expect(page.locator("main")).to_contain_text(before)
        await _press(page, "Rotate")
        await expect(page.locator("h1")).to_have_text("Rotate the master key")
        await _press(page, "Rotate")
        # The page looks again by itself until it is done.
        await expect(page.locator(".banner.good")).to_contain_text("Rotated:", timeout=30_000)
        after = (await own.keys.status()).active_key_id
        assert after != before
        await expect(page.locator("code.id")).to_have_text(after)

        await _press(page, "Seal the instance")
        await _press(page, "Seal it now")
        await expect(page.get_by_role("status")).to_contain_text("Sealed.")
        await _beat(other)
        await page.goto("/companies")
        await expect(page.locator("h1")).to_have_text("The instance is sealed.")
        await _press(page, "Unseal it")
        await page.get_by_label("Name").fill(somebody.operator.name)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_label("Code").fill("000000")
        await _press(page, "Unseal the instance")
        await expect(page.get_by_role("alert")).to_contain_text("Name, password or code is not right.")
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_label("Code").fill(_code(somebody, 1))
        await _press(page, "Unseal the instance")
        await expect(page.locator("h1")).to_have_text("The instance is open")
        await _press(page, "To the start")
        await expect(page.locator("h1")).not_to_have_text("The instance is sealed.")
    await _beat(other)
    assert not own.held.sealed and not other.held.sealed
