"""
The pages of webhooks: registered, tried, rotated, enabled, deleted; the secret is shown once.
"""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from company_agents.app import App
from company_agents.identity.permissions import Role
from tests.conftest import Tenant
from tests.dashboard.people import member
from tests.outbox.conftest import MakeTenant
from tests.outgoing.servers import reply, serve

SECRET = re.compile(r"whsec_[A-Za-z0-9+/]{43}=")


@pytest.fixture
async def person(app: App, mine: Tenant) -> Any:
    return await member(app, mine.local, Role.OPERATOR)


async def test_a_webhook_from_its_first_page_to_its_last(app: App, mine: Tenant, person: Any) -> None:
    answers = [reply(b"", "204 No Content"), reply(b"", "410 Gone"), reply(b"", "204 No Content")]
    home = f"/companies/{mine.company.id}/webhooks"
    async with serve(lambda _: answers.pop(0)) as server, person.client() as browser:
        assert "Nothing is sent anywhere" in (await browser.get(home)).text
        form = {"url": f"{server.url}/hook", "event": ["key.rotated", "integration.rotated"], "private_network": "yes"}
        made = await browser.post(f"{home}/new", data=form)
        assert made.status_code == 200
        [first] = SECRET.findall(html.unescape(made.text))
        [webhook] = (await app.outbox.webhooks.list(mine.local)).items
        assert webhook.events == ["key.rotated", "integration.rotated"]
        page = f"{home}/{webhook.id}"
        for shown in (home, page):
            text = html.unescape((await browser.get(shown)).text)
            assert (f"{server.url}/hook" in text, SECRET.search(text)) == (True, None)
        tested = await browser.post(f"{page}/test", follow_redirects=True)
        assert "the receiver took it" in tested.text
        assert "HTTP 204" in tested.text
        gone = await browser.post(f"{page}/test", follow_redirects=True)
        assert "did not arrive" in gone.text
        assert "Disabled" in gone.text
        enabled = await browser.post(f"{page}/enable", follow_redirects=True)
        assert "Enabled" in enabled.text
        seen = re.findall(r'name="seen" value="([^"]+)"', (await browser.get(f"{page}/rotate-secret")).text)[0]
        rotated = await browser.post(f"{page}/rotate-secret", data={"seen": html.unescape(seen)})
        [second] = SECRET.findall(html.unescape(rotated.text))
        assert second != first
        # Loaded again, the page does not rotate once more.
        again = await browser.post(f"{page}/rotate-secret", data={"seen": html.unescape(seen)})
        assert (again.status_code, SECRET.search(again.text)) == (409, None)
        assert "its secret is deleted" in (await browser.get(f"{page}/delete")).text
        deleted = await browser.post(f"{page}/delete", follow_redirects=True)
        assert "Deleted, with its signing secret" in deleted.text
        assert (await browser.get(page)).status_code == 404


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"url": "http://example.com/", "event": "key.rotated"}, "private networks only"),
        ({"url": "https://10.0.0.1/", "event": "key.rotated"}, "is a private address"),
        ({"url": "https://hooks.example.com/"}, "at least one event"),
        ({"url": "https://u:a-password-1@example.com/", "event": "key.rotated"}, "user name or a password"),
    ],
)
async def test_a_form_that_will_not_do_comes_back_with_what_is_wrong(
    app: App, mine: Tenant, person: Any, form: dict[str, str], said: str
) -> None:
    async with person.client() as browser:
        answer = await browser.post(f"/companies/{mine.company.id}/webhooks/new", data=form)
    assert answer.status_code == 422
    assert said in html.unescape(answer.text)
    assert (await app.outbox.webhooks.list(mine.local)).items == []


async def test_a_viewer_sees_no_webhooks_and_no_way_to_them(app: App, mine: Tenant) -> None:
    viewer = await member(app, mine.local, Role.VIEWER)
    async with viewer.client() as browser:
        assert (await browser.get(f"/companies/{mine.company.id}/webhooks")).status_code == 403
        assert "/webhooks" not in (await browser.get(f"/companies/{mine.company.id}")).text


async def test_another_company_s_webhook_reads_like_one_that_does_not_exist(
    app: App, tenant: MakeTenant, mine: Tenant, person: Any
) -> None:
    theirs = await tenant()
    webhook, _ = await app.outbox.webhooks.create(theirs.local, "https://hooks.example.com/", ["key.rotated"])
    async with person.client() as browser:
        for page in ("", "/rotate-secret", "/delete"):
            found = await browser.get(f"/companies/{mine.company.id}/webhooks/{webhook.id}{page}")
            assert found.status_code == 404
        for act in ("test", "enable", "delete", "rotate-secret"):
            found = await browser.post(f"/companies/{mine.company.id}/webhooks/{webhook.id}/{act}", data={"seen": "x"})
            assert found.status_code == 404
    assert (await app.outbox.webhooks.get(theirs.local, webhook.id)).status == "enabled"
