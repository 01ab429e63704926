"""
The inbox of approvals, in a real browser and without one: what is shown is what is sent, and a person decides once.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.async_api import Page, expect

from company_agents.app import App
from company_agents.errors import ApprovalNeeded
from company_agents.identity.permissions import Role
from company_agents.integrations.indenting import indented, visible
from company_agents.outgoing.client import OutgoingRequest
from tests.approvals.conftest import Desk, desk, here, service, superuser  # noqa: F401
from tests.dashboard.conftest import NewPage
from tests.dashboard.people import PASSWORD, Person, member, text_of
from tests.dashboard.test_browser import TOO_SMALL, UNNAMED, UNSTRUCTURED
from tests.promises.evidence import sql

pytestmark = pytest.mark.usefixtures("hurried")

BAD = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
# Letters that do not show, or turn others round.
HIDDEN = "pay \u202e005\u202c to \u200bann\x07"


async def _press(page: Page, name: str) -> None:
    main = page.locator("main")
    await main.get_by_role("button", name=name).or_(main.get_by_role("link", name=name)).first.click()


@pytest.mark.browser
async def test_a_request_comes_in_is_read_approved_with_the_password_and_sent_as_it_was_shown(
    app: App,
    here: Desk,  # noqa: F811
    new_page: NewPage,
) -> None:
    person = await member(app, here.local, Role.OPERATOR)
    await forget_password(here, person)
    page, home = await new_page(person), f"/companies/{here.tenant.company.id}"
    await page.goto(home)
    await page.get_by_role("link", name="Approvals", exact=True).click()
    await expect(page.locator("main")).to_contain_text("Nothing waits")
    await expect(page.locator("#live")).to_have_text("Live")
    body = {"charge": "ch_17", "amount": 500, "note": f"{BAD} é"}
    approval_id = await here.ask(body=body, query={"q": BAD}, headers={"X-Note": "a <b> note"})
    # It comes up by itself.
    await page.locator("#approvals-rows").get_by_role("link", name="POST /v1/refunds").click()
    request = page.locator("main section").first
    await expect(page.locator("#address")).to_contain_text(f"{here.service.server.url}/v1/refunds?q=%3Cscript%3E")
    await expect(request).to_contain_text("a <b> note")
    await expect(request.locator(".output").first).to_have_text(json.dumps(body, indent=2, ensure_ascii=False))
    await page.get_by_text("As it is sent, ").click()
    raw = await request.locator("details .output").inner_text()

    await _press(page, "Confirm your password")
    await page.get_by_label(f"Password of {person.operator.name}").fill(PASSWORD)
    await _press(page, "Confirm and go on")
    await page.get_by_label("A word to the agent").fill("only this once")
    await _press(page, "Approve and send")
    await expect(page.get_by_role("status").first).to_contain_text("Approved. It is sent now")
    # What becomes of it is told without a reload.
    await expect(page.locator("#approval-state")).to_contain_text("Sent")
    await expect(page.locator("#approval-state")).to_contain_text("HTTP 200")
    await expect(page.locator("#approval-state")).to_contain_text(f"Approved by {person.operator.name}")
    [sent] = here.service.refunds
    assert sent.body.decode() == raw
    assert await page.locator("#approval-decision").inner_text() == ""
    await page.goto(f"{home}/approvals")
    await expect(page.locator("main")).to_contain_text("Decided lately")
    await page.goto(f"{home}/audit?kind=approval.")
    for said in ("Approval of a request asked for", "Request approved", "Approved request sent", "looked at"):
        await expect(page.locator("main")).to_contain_text(said)
    assert (await here.request(body=body, query={"q": BAD}, headers={"X-Note": "a <b> note"})).status == 200
    assert (await here.get(approval_id)).note == "only this once"


async def forget_password(here: Desk, person: Person) -> None:  # noqa: F811
    """The password was given long ago."""
    await sql(
        here.superuser,
        "UPDATE sessions SET confirmed_at = now() - interval '1 hour' WHERE operator_id = %(o)s",
        o=person.operator.id,
    )


@pytest.mark.browser
async def test_one_that_is_refused_says_so_and_no_page_scrolls_sideways(
    app: App,
    here: Desk,  # noqa: F811
    new_page: NewPage,
) -> None:
    person = await member(app, here.local, Role.OPERATOR)
    long: dict[str, Any] = {"path": "/v1/refunds", "query": {"q": "w" * 300}, "headers": {"X-Long": "w" * 300}}
    approval_id = await here.ask(**long, body={"w" * 300: "w" * 300})
    await here.ask(body="w" * 500)
    home = f"/companies/{here.tenant.company.id}/approvals"
    page = await new_page(person, width=390, scheme="dark")
    rules = f"/companies/{here.tenant.company.id}/integrations/{here.integration.id}"
    for place in (rules, f"{rules}/rules?agent={here.agent.agent_id()}", home, f"{home}/{approval_id}"):
        await page.goto(place)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390, place
        assert await page.evaluate(UNNAMED) == [], place
        assert await page.evaluate(UNSTRUCTURED) == [], place
        assert await page.evaluate(TOO_SMALL) == [], place
    await page.get_by_label("A word to the agent").fill("ask the customer")
    await _press(page, "Refuse")
    await expect(page.get_by_role("status").first).to_contain_text("Refused. The agent is told")
    await expect(page.locator("#approval-state")).to_contain_text("ask the customer")
    assert here.service.refunds == []


# — without a browser —


async def test_what_a_request_says_is_shown_to_who_decides_and_put_on_record(
    app: App,
    here: Desk,  # noqa: F811
) -> None:
    approval_id = await here.ask(body={"secret": "of-the-customer"})
    page = f"/companies/{here.tenant.company.id}/approvals/{approval_id}"
    viewer, operator = await member(app, here.local, Role.VIEWER), await member(app, here.local, Role.OPERATOR)
    async with viewer.client() as browser:
        shown = await browser.get(page)
        assert (shown.status_code, "of-the-customer" in shown.text) == (200, False)
        assert "Shown to those who may decide" in shown.text and "Approve and send" not in shown.text
        assert [(await browser.post(f"{page}/{act}")).status_code for act in ("approve", "refuse")] == [403, 403]
    assert await here.events("approval.shown", approval_id) == []
    async with operator.client() as browser:
        assert "of-the-customer" in (await browser.get(page)).text
    [event] = await here.events("approval.shown", approval_id)
    assert event["actor"] == f"operator:{operator.operator.id}"


async def test_who_decides_too_late_is_told_so_and_sees_what_became_of_it(app: App, here: Desk) -> None:  # noqa: F811
    approval_id = await here.ask()
    page = f"/companies/{here.tenant.company.id}/approvals/{approval_id}"
    person = await member(app, here.local, Role.OPERATOR)
    async with person.client() as browser:
        assert "Approve and send" in (await browser.get(page)).text
        await here.app.approvals.refuse(here.local, approval_id)
        late = await browser.post(f"{page}/approve", data={"note": "yes"})
        assert (late.status_code, "nothing to decide any more" in late.text) == (409, True)
        assert here.service.refunds == []
        # Without a password of the last minutes nothing is decided.
        second = await here.ask(body={"n": 1})
        await forget_password(here, person)
        page = page.replace(str(approval_id), str(second))
        assert "Confirm your password" in (await browser.get(page)).text
        turned = await browser.post(f"{page}/approve", data={})
        assert (turned.status_code, turned.headers["location"].startswith("/confirm?")) == (303, True)
        assert (await here.get(second)).state == "waiting"


async def test_characters_that_do_not_show_are_shown_and_a_body_that_is_no_text_is_a_size_and_a_hash(
    app: App,
    here: Desk,  # noqa: F811
) -> None:
    person, home = await member(app, here.local, Role.OPERATOR), f"/companies/{here.tenant.company.id}/approvals"
    twice = '{"amount": 1, "amount": 500000, "to": "' + HIDDEN.replace("\x07", "") + '"}'
    first = await here.ask(body=twice, headers={"Content-Type": "application/json"})
    content = b"\xff\xfe\x00"
    binary = OutgoingRequest("POST", "/v1/refunds", "", (), content)
    with pytest.raises(ApprovalNeeded) as needed:
        async with app.relay.open(here.agent, str(here.integration.id), binary):
            raise AssertionError("it was sent")
    async with person.client() as browser:
        shown = html.unescape((await browser.get(f"{home}/{first}")).text)
        assert not re.search("[\u202e\u202c\u200b]", shown)
        assert "\\u202e005\\u202c" in shown
        # Both of them, as a provider may read either.
        assert re.search(r'"amount": 1,\s+"amount": 500000', shown)
        said = text_of(html.unescape((await browser.get(f"{home}/{needed.value.facts['approval']}")).text))
        assert f"3 bytes, SHA-256 {hashlib.sha256(content).hexdigest()}" in said


async def test_rules_are_set_for_all_and_for_one_on_their_page(app: App, here: Desk) -> None:  # noqa: F811
    person, agent = await member(app, here.local, Role.OPERATOR), str(here.agent.agent_id())
    one = f"/companies/{here.tenant.company.id}/integrations/{here.integration.id}"
    async with person.client() as browser:
        found = html.unescape((await browser.get(one)).text)
        assert "POST /v1/refunds" in found and "anything" in found
        assert re.search(r">\s*POST /v1/refunds</textarea>", (await browser.get(f"{one}/rules")).text)
        form = {"only": "get /a/**\r\n\r\n  POST /v1/refunds ", "ask": "", "per_minute": "60"}
        saved = await browser.post(f"{one}/rules", data=form, follow_redirects=True)
        assert "The rules count from the next call on" in saved.text
        own = {"agent": agent, "own_only": "all", "own_ask": "own", "ask": "* /a/b", "own_per_minute": "own"}
        assert (await browser.post(f"{one}/rules", data=own)).status_code == 303
        said = await app.rulebook.get(here.local, here.integration.id)
        assert (said.only, said.ask, said.per_minute) == (["GET /a/**", "POST /v1/refunds"], [], 60)
        assert [(each.only, each.ask, each.per_minute) for each in said.agents] == [(None, ["* /a/b"], 0)]
        shown = html.unescape((await browser.get(f"{one}/rules?agent={agent}")).text)
        assert "Rules for <bdi>ann</bdi>" in shown and re.search(r">\s*\* /a/b</textarea>", shown)
        # One that is none is not kept, and what was typed is still there.
        for wrong, what in (({"ask": "GET a"}, "begins with one /"), ({"per_minute": "many"}, "not a number")):
            failed = await browser.post(f"{one}/rules", data={**form, **wrong})
            assert (failed.status_code, what in failed.text, "get /a/**" in failed.text) == (422, True, True)
        for stranger in ("x", "0b0bb7e2-7e63-4a4b-8b0a-6f2d7f0f9f5e"):
            assert (await browser.post(f"{one}/rules", data={**own, "agent": stranger})).status_code == 404
        assert await app.rulebook.get(here.local, here.integration.id) == said
        # Back to what counts for all.
        await browser.post(f"{one}/rules", data={"agent": agent})
        assert (await app.rulebook.get(here.local, here.integration.id)).agents == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=12,
    )
)
def test_json_that_is_indented_is_the_same_json(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, separators=(",", ":"))):
        shown = indented(text)
        assert shown is not None and json.loads(shown) == value


def test_nothing_of_json_is_left_away_or_changed_as_it_is_indented() -> None:
    text = '{"a":1.00,"a":1e400,"b":[],"c":{},"d":[1,{"e":"\\u00e9 \\" , :"}]}'
    assert indented(text) == (
        '{\n  "a": 1.00,\n  "a": 1e400,\n  "b": [],\n  "c": {},\n  "d": [\n    1,\n    {\n      "e": "é \\" , :"\n    }\n  ]\n}'
    )
    assert indented("no json") is None
    assert visible("a\u202eb\x00\n\tc é") == "a\\u202eb\\x00\n\tc é"
