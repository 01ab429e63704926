"""
The dashboard in a real browser, without a script: the whole round, the keyboard, small screens.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

import pyotp
import pytest
from playwright.async_api import Page, expect

from company_agents.app import App
from company_agents.identity.permissions import Role
from company_agents.identity.principal import Caller
from company_agents.sensitive import Sensitive
from tests.dashboard.conftest import NewPage
from tests.dashboard.people import LOCAL, PASSWORD, Person, join
from tests.dashboard.standin import FIRST_TOKEN, SECOND_TOKEN

pytestmark = pytest.mark.browser


async def _h1(page: Page, text: str) -> None:
    await expect(page.locator("h1")).to_have_text(text)


async def _press(page: Page, name: str) -> None:
    await (
        page.locator("main")
        .get_by_role("button", name=name)
        .or_(page.locator("main").get_by_role("link", name=name))
        .first.click()
    )


async def _join(page: Page, app: App, name: str) -> pyotp.TOTP:
    link = await app.operators.link(LOCAL)
    await page.goto(f"/join?token={link.reveal_text()}")
    await _h1(page, "Join Company Agents")
    secret = await page.locator("fieldset code").inner_text()
    await page.get_by_label("Your name").fill(name)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_label("The code that the app shows now").fill("000000")
    await _press(page, "Join and sign in")
    # A wrong code: the page is there again with the same secret, and what was typed, but for the password.
    await expect(page.get_by_role("alert")).to_contain_text("This code is not right.")
    assert await page.locator("fieldset code").inner_text() == secret
    await expect(page.get_by_label("Your name")).to_have_value(name)
    await expect(page.get_by_label("Password")).to_have_value("")
    totp = pyotp.TOTP(secret)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_label("The code that the app shows now").fill(totp.now())
    await _press(page, "Join and sign in")
    await expect(page.get_by_role("status")).to_have_text("Welcome. You are signed in.")
    return totp


async def _connect(page: Page, provider_address: str, token: str) -> None:
    await page.get_by_role("link", name="Integrations").click()
    await _press(page, "Connect an integration")
    await page.get_by_role("link", name="Slack").click()
    await page.get_by_label("Token", exact=True).fill(token)
    await page.get_by_text("Advanced: an address of your own").click()
    await page.get_by_label("Address in place of").fill(provider_address)
    await page.get_by_label("It may be in a private network").check()
    await _press(page, "Try the token and connect")


async def test_the_whole_round_from_the_link_to_signing_out(app: App, new_page: NewPage, provider_address: str) -> None:
    page = await new_page()
    seen: list[str] = []
    page.on("response", lambda response: seen.append(response.url))
    name = f"maren {uuid.uuid4().hex[:6]}"
    totp = await _join(page, app, name)

    await page.goto("/companies/new")
    company = f"Northwind {uuid.uuid4().hex[:6]}"
    await page.get_by_label("Name").fill(company)
    await _press(page, "Create")
    await _h1(page, company)
    home = page.url.partition("?")[0]

    # A token that the provider does not take is not kept, in no sense; the rest of the form is.
    await _connect(page, provider_address, "xoxb-not-a-good-token")
    await expect(page.get_by_role("alert")).to_contain_text("Slack did not accept the credential: invalid_auth")
    await expect(page.get_by_label("Token", exact=True)).to_have_value("")
    await expect(page.get_by_label("Address in place of")).to_have_value(provider_address)
    await page.get_by_label("Token", exact=True).fill(FIRST_TOKEN)
    await _press(page, "Try the token and connect")
    await _h1(page, "slack")
    await expect(page.get_by_role("status")).to_contain_text("Connected.")
    await expect(page.locator("main")).to_contain_text("Nobody yet")
    await expect(page.locator("main")).to_contain_text("chat:write")
    integration = page.url.partition("?")[0]
    assert FIRST_TOKEN not in await page.content()

    await page.get_by_role("link", name="Agents", exact=True).click()
    await _press(page, "Hire an agent")
    await page.get_by_label("Name").fill("ann")
    await _press(page, "Hire and show the token")
    await _h1(page, "ann is hired")
    token = await page.locator("#token").inner_text()
    assert f"Bearer {token}" in await page.locator("#config").inner_text()
    assert (await app.identity.agent(token)).principal.name == "ann"
    await _press(page, "I have copied it")
    assert token not in await page.content()

    await page.goto(integration)
    await _press(page, "Change")
    await page.get_by_label("ann").check()
    await _press(page, "Save")
    await expect(page.locator("main")).to_contain_text("ann")
    reply = await app.requests.request(await app.identity.agent(token), "slack", "POST", "/api/auth.test")
    assert reply.body["ok"] is True

    await _press(page, "Rotate")
    await page.get_by_label("New token").fill(SECOND_TOKEN)
    await _press(page, "Rotate")
    await expect(page.get_by_role("status")).to_contain_text("Rotated.")
    await expect(page.locator("dl").first).to_contain_text("Version2")
    await _press(page, "Check now")
    await expect(page.get_by_role("status")).to_contain_text("Checked.")

    await page.goto(f"{home}/audit")
    await expect(page.locator("main")).to_contain_text("Credential rotated")
    await expect(page.locator("main")).to_contain_text("Use of a credential begun")
    await _press(page, "Verify the chain")
    await _h1(page, "The chain is whole")

    await page.goto(f"{integration}/delete")
    await page.get_by_label("Type slack to confirm").fill("something else")
    await _press(page, "Delete it")
    await expect(page.get_by_role("alert")).to_contain_text("This is not its name.")
    await page.get_by_label("Type slack to confirm").fill("slack")
    await _press(page, "Delete it")
    await expect(page.get_by_role("status")).to_contain_text("Deleted, with its credential.")
    await expect(page.locator("main")).to_contain_text("Nothing connected yet")

    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("status")).to_have_text("You are signed out.")
    await page.goto(home)
    await _h1(page, "Sign in")
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_label("Code").fill(totp.at(pyotp_next(totp)))
    await _press(page, "Sign in")
    await _h1(page, company)
    assert not any(secret in url for url in seen for secret in (FIRST_TOKEN, SECOND_TOKEN, token, PASSWORD))


def pyotp_next(totp: pyotp.TOTP) -> int:
    """A moment whose code was not used yet: each is good once, and one step early is taken."""
    import time

    return int(time.time()) + totp.interval


async def _tab_to(page: Page, condition: str) -> None:
    for _ in range(60):
        await page.keyboard.press("Tab")
        if await page.evaluate(f"(element => {condition})(document.activeElement)"):
            return
    raise AssertionError(f"no Tab leads to {condition}")


async def test_the_keyboard_alone_connects_an_integration(
    app: App, somebody: Person, tenant: Any, new_page: NewPage, provider_address: str
) -> None:
    here = await tenant()
    page = await new_page(somebody)
    await page.goto(f"/companies/{here.company.id}/integrations")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.textContent") == "Skip to the content"
    await page.keyboard.press("Enter")
    await _tab_to(page, "element.textContent.includes('Connect an integration')")
    await page.keyboard.press("Enter")
    await _h1(page, "Connect an integration")
    await _tab_to(page, "element.id === 'q'")
    await page.keyboard.type("slack")
    await page.keyboard.press("Enter")
    await _h1(page, "Connect an integration")
    await _tab_to(page, "element.textContent === 'Slack'")
    await page.keyboard.press("Enter")
    # The token's field has the focus already.
    await page.wait_for_selector("#token:focus")
    await page.keyboard.type(FIRST_TOKEN)
    await _tab_to(page, "element.type === 'checkbox' && element.labels[0].textContent === 'ann'")
    await page.keyboard.press("Space")
    await _tab_to(page, "element.tagName === 'SUMMARY' && element.textContent.startsWith('Advanced')")
    await page.keyboard.press("Enter")
    await _tab_to(page, "element.id === 'base_url'")
    await page.keyboard.type(provider_address)
    await _tab_to(page, "element.name === 'private_network'")
    await page.keyboard.press("Space")
    await _tab_to(page, "element.textContent.includes('Try the token')")
    outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus is not seen"
    await page.keyboard.press("Enter")
    await _h1(page, "slack")
    await expect(page.locator("ul.chips")).to_contain_text("ann")


async def _every_page(app: App, caller: Caller, integration: Any, agent: Any) -> dict[str, str]:
    home = f"/companies/{caller.scope.company_id}"
    longest = await join(app, await app.operators.invite(caller, Role.OPERATOR), uuid.uuid4().hex * 3)
    link = await app.operators.link(LOCAL)
    one, ann = f"{home}/integrations/{integration.id}", f"{home}/agents/{agent.id}"
    signed_in = [
        *("/companies", "/companies/new", "/account", "/account/tokens/new", "/people", "/people/link", "/audit"),
        *(
            "/master-key",
            "/master-key/rotate",
            "/master-key/finish",
            "/master-key/compromised",
            "/master-key/prune",
            "/backups",
        ),
        *(
            "/seal",
            "/confirm",
            "/patterns",
            "/nowhere",
            home,
            f"{home}/invite",
            f"{home}/audit",
            f"{home}/audit/verify",
        ),
        *(f"{home}/people", f"{home}/people/{longest.operator.id}/remove"),
        *(f"{home}/integrations", f"{home}/integrations/connect", f"{home}/integrations/connect/slack"),
        *(f"{home}/integrations/connect/slack/consent", f"{home}/integrations/connect/generic/client"),
        *(f"{home}/clients", f"{home}/clients/slack/delete", f"{one}/revoke", f"{home}/integrations?q=x"),
        *(f"{home}/integrations/connect/generic", one, f"{one}/allow", f"{one}/rotate", f"{one}/delete"),
        *(f"{home}/agents", f"{home}/agents/hire", ann, f"{ann}/rotate-token", f"{ann}/retire"),
    ]
    return {
        **dict.fromkeys(signed_in, "in"),
        "/sign-in": "out",
        "/unseal": "out",
        f"/join?token={link.reveal_text()}": "out",
    }


# 320: what is left of a desktop's width where somebody has made the text four times as large (WCAG 2.2, 1.4.10).
@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 390), ("light", 320)])
async def test_no_page_scrolls_sideways_on_a_small_screen(
    app: App, somebody: Person, tenant: Any, new_page: NewPage, scheme: str, width: int
) -> None:
    here = await tenant()
    # The longest that a name may be, in one word: nothing breaks it but the page itself.
    agent, _ = await app.agents.create(here.local, "a" * 100)
    integration = await app.integrations.connect(
        here.local,
        "generic",
        Sensitive(FIRST_TOKEN),
        name="i" * 100,
        base_url=f"https://{'long.' * 30}example",
        allow=[agent.id],
    )
    inside = await new_page(somebody, width=width, scheme=scheme)
    outside = await new_page(width=width, scheme=scheme)
    ground = {"light": "rgb(244, 246, 244)", "dark": "rgb(14, 21, 19)"}[scheme]
    for path, who in (await _every_page(app, here.local, integration, agent)).items():
        page = inside if who == "in" else outside
        await page.goto(path)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert await page.locator("h1").count() == 1, path
        assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == ground, path
        assert not path.startswith("/companies/") or "Company Agents" in await page.title()
        assert await page.evaluate(UNNAMED) == [], path
        assert await page.evaluate(UNSTRUCTURED) == [], path
        assert await page.evaluate(TOO_SMALL) == [], path


# Controls that no label, text or title names.
UNNAMED = """[...document.querySelectorAll('input:not([type=hidden]), button, a[href], summary')].filter(element =>
  !(element.labels && element.labels.length) && !element.textContent.trim() && !element.getAttribute('aria-label')
).map(element => element.outerHTML)"""

# What leads somebody astray who hears a page: headings that leave a level out, parts of the page that are missing or
# have no name of their own, an id that is there twice, a description that is not there at all.
UNSTRUCTURED = """(() => {
  const all = selector => [...document.querySelectorAll(selector)], faults = []
  all('h1, h2, h3').map(heading => +heading.tagName[1]).reduce((above, level) => {
    if (level > above + 1) faults.push(`h${above} is followed by h${level}`)
    return level
  }, 0)
  for (const part of ['header', 'main', 'footer'])
    if (all(`body > ${part}`).length !== 1) faults.push(`not one ${part}`)
  const twice = names => names.filter((name, at) => !name || names.indexOf(name) !== at)
  faults.push(...twice(all('nav').map(nav => nav.getAttribute('aria-label'))), ...twice(all('[id]').map(one => one.id)))
  for (const name of ['aria-describedby', 'aria-labelledby'])
    for (const one of all(`[${name}]`))
      faults.push(...one.getAttribute(name).split(' ').filter(id => !document.getElementById(id)))
  return faults
})()"""

# Controls that a finger does not hit (WCAG 2.2, 2.5.8), but for links within a text.
TOO_SMALL = """[...document.querySelectorAll('a, button, summary, input:not([type=hidden], .unseen)')].filter(element => {
  const {width, height} = element.getBoundingClientRect()
  const inText = element.tagName === 'A' && element.closest('p, li, td, th, dd, h2')
  const ticked = ['radio', 'checkbox'].includes(element.type)
  return width > 1 && height > 1 && !inText && !ticked && (width < 24 || height < 24)
}).map(element => element.outerHTML)"""


async def test_forms_work_over_plain_http_where_browsers_send_no_fetch_metadata(
    app: App, new_page: NewPage, address: str
) -> None:
    """With `Referrer-Policy: no-referrer` this fails: the browser then sends `Origin: null`."""
    page = await new_page(url=address.replace("127.0.0.1", "dashboard.test"))
    sent: list[dict[str, str]] = []

    async def note(request: Any) -> None:
        if request.method == "POST":
            sent.append(await request.all_headers())

    page.on("request", note)
    await _join(page, app, f"plain {uuid.uuid4().hex[:6]}")
    # The page of the link has a policy of its own; this one has that of all others.
    await page.goto("/companies/new")
    company = f"Plain {uuid.uuid4().hex[:6]}"
    await page.get_by_label("Name").fill(company)
    await _press(page, "Create")
    await _h1(page, company)
    assert len(sent) == 3
    assert all("sec-fetch-site" not in headers for headers in sent)
    assert all(re.fullmatch(r"http://dashboard\.test:\d+", headers["origin"]) for headers in sent)
    # The sign-in link is in the address of the page, and goes nowhere from there.
    assert all("token" not in headers.get("referer", "") for headers in sent)


async def test_a_token_is_gone_when_its_page_is_loaded_again(
    app: App, somebody: Person, tenant: Any, new_page: NewPage
) -> None:
    here = await tenant()
    page = await new_page(somebody)
    await page.goto(f"/companies/{here.company.id}/agents/hire")
    await page.get_by_label("Name").fill("bob")
    await _press(page, "Hire and show the token")
    hired = await page.locator("#token").inner_text()
    await page.reload()
    assert hired not in await page.content()
    await expect(page.get_by_role("alert")).to_contain_text("There is one of this name already.")

    agent_id = (await app.identity.agent(hired)).agent_id()
    await page.goto(f"/companies/{here.company.id}/agents/{agent_id}/rotate-token")
    await _press(page, "Rotate and show the new token")
    rotated = await page.locator("#token").inner_text()
    await page.reload()
    assert rotated not in await page.content()
    await expect(page.get_by_role("alert")).to_contain_text("This token was rotated a moment ago.")
    assert (await app.identity.agent(rotated)).principal.name == "bob"
