"""
What holds for every answer: headers, cookies, and where an act may come from.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from starlette.responses import Response

from company_agents.app import App
from company_agents.dashboard.forms import number, safe_return
from company_agents.dashboard.guard import HEADERS, drop_cookie, is_cross_site, set_cookie
from company_agents.errors import WrongUsage
from company_agents.sensitive import Sensitive
from tests.dashboard.people import PASSWORD, Person, client

OWN = "https://agents.example.com"


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        # As Chrome, Firefox and Safari send them with a form of our own page, over https or to localhost.
        ({"sec-fetch-site": "same-origin", "origin": OWN, "host": "agents.example.com"}, False),
        ({"sec-fetch-site": "none", "host": "agents.example.com"}, False),
        # A form on another site, on a neighbour below the same domain, in a sandboxed frame.
        ({"sec-fetch-site": "cross-site", "origin": "https://evil.example", "host": "agents.example.com"}, True),
        ({"sec-fetch-site": "same-site", "origin": "https://wiki.example.com", "host": "agents.example.com"}, True),
        ({"sec-fetch-site": "cross-site", "origin": "null", "host": "agents.example.com"}, True),
        # Over plain http, and from old browsers: Origin alone.
        ({"origin": "http://10.0.0.5:3101", "host": "10.0.0.5:3101"}, False),
        ({"origin": "http://10.0.0.5:8080", "host": "10.0.0.5:3101"}, True),
        ({"origin": "http://evil.example", "host": "10.0.0.5:3101"}, True),
        ({"origin": "null", "host": "10.0.0.5:3101"}, True),
        # What no browser sends.
        ({"origin": "http://[", "host": "10.0.0.5:3101"}, True),
        ({"origin": "", "host": ""}, True),
        # Behind a proxy that asks us by another name.
        ({"origin": OWN, "host": "10.0.0.5:3101"}, False),
        # A browser's word counts even where Origin would do.
        ({"sec-fetch-site": "cross-site", "origin": OWN, "host": "agents.example.com"}, True),
        # No browser.
        ({"host": "agents.example.com"}, False),
    ],
)
def test_an_act_from_another_site_is_told_by_what_the_browser_says(headers: dict[str, str], foreign: bool) -> None:
    assert is_cross_site("POST", headers, OWN) is foreign
    assert is_cross_site("GET", headers, OWN) is False


async def test_a_form_of_another_site_changes_nothing(app: App, somebody: Person, tenant: Any) -> None:
    here = await tenant()
    pause = f"/companies/{here.company.id}/agents/{here.agent.agent_id()}/pause"
    async with somebody.client(**{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}) as browser:
        refused = await browser.post(pause)
    assert refused.status_code == 403
    assert "This came from another site" in refused.text
    assert (await app.agents.get(here.local, here.agent.agent_id())).state == "active"
    async with somebody.client() as browser:
        assert (await browser.post(pause)).status_code == 303
    assert (await app.agents.get(here.local, here.agent.agent_id())).state == "paused"


@pytest.mark.parametrize(
    "path", ["/sign-in", "/nowhere", "/companies", "/account", "/join?token=x", "/static/style.css"]
)
async def test_every_answer_has_the_headers(app: App, somebody: Person, path: str) -> None:
    async with somebody.client() as browser:
        found = await browser.get(path)
    for name, value in HEADERS.items():
        if (path, name) not in {("/static/style.css", "Cache-Control")}:
            assert found.headers[name] == value, name


async def test_the_policy_lets_no_script_and_no_inline_style_run() -> None:
    policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "style-src": "'self'",
        "img-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }


async def test_an_error_that_nobody_foresaw_has_the_headers_and_no_details(
    app: App, somebody: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("xoxb-in-an-error")

    monkeypatch.setattr(type(app.sessions), "list", broken)
    async with somebody.client() as browser:
        found = await browser.get("/account")
    assert found.status_code == 500
    assert "Something went wrong on our side." in found.text
    assert "xoxb" not in found.text
    assert found.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]


async def test_static_files_may_be_kept_because_their_address_has_a_digest(app: App) -> None:
    async with client(app) as browser:
        page = await browser.get("/sign-in")
        address = page.text.split('rel="stylesheet" href="')[1].split('"')[0]
        found = await browser.get(address)
    assert "?v=" in address
    assert found.status_code == 200
    assert found.headers["Cache-Control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:3101", "company_agents=token; HttpOnly; Path=/; SameSite=lax"),
        ("https://agents.example.com", "__Host-company_agents=token; HttpOnly; Path=/; SameSite=lax; Secure"),
    ],
)
def test_the_cookie_is_for_this_host_only_and_for_no_script(app: App, url: str, expected: str) -> None:
    settings = app.settings.model_copy(update={"public_url": url})
    response = Response()
    set_cookie(response, settings, Sensitive("token"))
    drop_cookie(response, settings)
    given, taken = response.headers.getlist("set-cookie")
    assert given == expected
    assert "Max-Age=0" in taken
    assert taken.startswith(expected.split("=")[0] + '="";')


async def test_over_https_a_session_works_with_the_cookie_of_that_name(app: App, somebody: Person) -> None:
    https = dataclasses.replace(app, settings=app.settings.model_copy(update={"public_url": OWN}))
    async with dataclasses.replace(somebody, app=https).client() as browser:
        assert (await browser.get("/account")).status_code == 200
    async with client(https, cookies={"company_agents": somebody.session.reveal_text()}) as browser:
        assert (await browser.get("/account")).status_code == 303


@pytest.mark.parametrize(
    "elsewhere",
    [
        *("https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil.example", "/\t/evil.example"),
        *("javascript:alert(1)", "http:evil.example", " //evil.example", "evil.example", "", "/a\r\nSet-Cookie: a=b"),
        *("/@evil\\", "///evil.example", "/%0a\x00", "/a\nb"),
    ],
)
async def test_nobody_is_sent_to_another_site(app: App, somebody: Person, elsewhere: str) -> None:
    assert safe_return(elsewhere) == "/"
    async with somebody.client() as browser:
        signed_in = await browser.get("/sign-in", params={"return": elsewhere})
        confirmed = await browser.post("/confirm", data={"return": elsewhere, "password": PASSWORD})
    assert signed_in.headers["location"] == "/"
    assert confirmed.headers["location"] == "/"


def test_a_path_of_ours_may_be_returned_to() -> None:
    assert safe_return("/a\n") == "/"
    assert safe_return("/companies/1-2/audit?kind=agent.&before=3") == "/companies/1-2/audit?kind=agent.&before=3"


@pytest.mark.parametrize("text", ["-1", "1.5", "x", "1" * 19, "١"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(WrongUsage):
        number(text)


async def test_what_is_no_form_is_refused(app: App, somebody: Person) -> None:
    async with somebody.client() as browser:
        large = await browser.post("/companies/new", data={"name": "x" * 200_000})
        binary = await browser.post("/companies/new", content=b"name=\xff\xfe")
        zero = await browser.post("/companies/new", data={"name": "a\x00b"})
        strange = await browser.post("/sign-in", data={"name": "a\x00b", "password": "x", "code": "\x00"})
    assert [large.status_code, binary.status_code, zero.status_code] == [422, 422, 422]
    assert strange.status_code in (303, 401, 422)
