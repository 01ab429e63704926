"""
A whole OAuth round trip in a real browser, against an authorization server of others' making, which is another site.
"""

from __future__ import annotations

import asyncio
import re
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import uvicorn
from playwright.async_api import Browser, BrowserContext, Page, Route, expect

from company_agents.app import App, open_app
from company_agents.dashboard.guard import cookie_name
from company_agents.errors import Refused
from company_agents.identity.principal import Caller
from company_agents.logs import Redactor, start_logging
from company_agents.mcp_server import mcp_door
from company_agents.settings import read_settings
from tests.conftest import remove
from tests.dashboard.people import LOCAL, Person, owner
from tests.flows.conftest import SECRET, write_services
from tests.oauth.server import AuthorizationServer

pytestmark = pytest.mark.browser

NAME = "dashboard.test"


@dataclass(frozen=True)
class Served:
    """An orchestrator with all its doors, at a name that is not the provider's."""

    app: App
    url: str
    log: Path


@pytest.fixture(scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    from company_agents.asgi import Front

    home = tmp_path_factory.mktemp("oauth") / "home"
    write_services(home)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://{NAME}:{listener.getsockname()[1]}"
        settings = read_settings(
            home=home,
            database_url=None,
            master_key_path=None,
            master_key_source=None,
            public_url=url,
            log_level="debug",
        )
        async with AsyncExitStack() as stack:
            redactor = Redactor()
            start_logging(redactor, folder=home / "logs", level="debug")
            app = await stack.enter_async_context(open_app(settings, redactor=redactor, long_lived=True))
            front = Front(app, mcp_door(app).asgi)
            # As an operator's own server may: with a log of every address.
            config = uvicorn.Config(front, log_level="debug", lifespan="off", log_config=None)
            server = uvicorn.Server(config)
            task = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started:
                await asyncio.sleep(0.01)
            yield Served(app, url, home / "logs" / "orchestrator.log")
            server.should_exit = True
            await task
    if (home / "db").is_symlink():
        remove((home / "db").resolve())


@pytest.fixture(scope="module")
async def olga(here: Served) -> Person:
    """An owner of that instance."""
    return await owner(here.app, "olga")


@pytest.fixture
async def company(here: Served) -> Caller:
    """A company of hers."""
    made = await here.app.companies.create(LOCAL, f"Northwind {uuid.uuid4().hex[:6]}")
    return await here.app.identity.in_company(LOCAL, made.id)


@pytest.fixture
def server(here: Served) -> Iterator[AuthorizationServer]:
    with AuthorizationServer() as server:
        server.add_client("client-1", SECRET, redirect_uris=[here.app.clients.redirect_uri("acme", server.url)])
        yield server


@dataclass
class Visitor:
    """A person's browser."""

    page: Page
    context: BrowserContext
    seen: list[str]
    referrers: list[str]


@pytest.fixture
async def visitor(here: Served, olga: Person, browser: Browser) -> AsyncIterator[Visitor]:
    """Hers. What the browser complains of (a policy that was violated, a script) fails the test."""
    complaints: list[str] = []
    context = await browser.new_context(base_url=here.url)
    cookie = {"name": cookie_name(here.app.settings), "value": olga.session.reveal_text(), "domain": NAME, "path": "/"}
    await context.add_cookies([{**cookie, "httpOnly": True, "sameSite": "Lax"}])  # type: ignore[typeddict-item]
    page = await context.new_page()
    visitor = Visitor(page, context, [], [])
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("response", lambda response: visitor.seen.append(response.url))
    page.on("request", lambda request: visitor.referrers.append(request.headers.get("referer", "")))
    yield visitor
    await context.close()
    expected = ("Failed to load resource", "The Cross-Origin-Opener-Policy header has been ignored")
    assert [text for text in complaints if not text.startswith(expected)] == []


async def _press(page: Page, name: str | re.Pattern[str]) -> None:
    main = page.locator("main")
    await main.get_by_role("button", name=name).or_(main.get_by_role("link", name=name)).first.click()


async def _h1(page: Page, text: str) -> None:
    await expect(page.locator("h1")).to_have_text(text)


async def _configure(page: Page, server: AuthorizationServer) -> None:
    """The client, on its page, once."""
    await _h1(page, "Acme: your client")
    assert (await page.locator("#redirect").inner_text()).endswith("/oauth/callback/acme")
    await page.get_by_text("Advanced:").click()
    await page.get_by_label("Issuer in place of").fill(server.url)
    await _press(page, "Show the redirect address")
    # A server of one's own has another one.
    await expect(page.locator("#redirect")).to_have_text(server.state.clients["client-1"].redirect_uris[0])
    await page.get_by_label("Client id").fill("client-1")
    await page.get_by_label("Client secret").fill(SECRET)
    await page.get_by_label("It may be in a private network").check()
    await _press(page, "Keep it")
    await expect(page.get_by_role("status")).to_contain_text("Kept.")
    assert SECRET not in await page.content()


async def _ask(page: Page, server: AuthorizationServer, company: Caller) -> None:
    """From the gallery to the provider's own page."""
    await page.goto(f"/companies/{company.scope.company_id}/integrations/connect?q=acme")
    await page.get_by_role("link", name="Acme", exact=True).click()
    if await page.get_by_role("link", name="By consent").get_attribute("aria-current") is None:
        await page.get_by_role("link", name="By consent").click()
    if "your client" in await page.locator("h1").inner_text():
        await _configure(page, server)
    await _h1(page, "Connect Acme")
    await page.get_by_text("Advanced:").click()
    await page.get_by_label("Address in place of").fill(server.url)
    await page.get_by_label("It may be in a private network").check()
    await page.get_by_label("write").uncheck()
    await _press(page, "Go on")
    await page.wait_for_url(f"{server.url}/authorize*")


async def _connected(visitor: Visitor, server: AuthorizationServer, company: Caller) -> str:
    """A consent that was given; the address of the integration."""
    await _ask(visitor.page, server, company)
    await visitor.page.get_by_role("button", name="Approve").click()
    await _h1(visitor.page, "acme")
    return visitor.page.url.partition("?")[0]


async def _caught(visitor: Visitor, server: AuthorizationServer, company: Caller) -> str:
    """An answer that the provider gave and that does not reach us yet: the address that it leads to."""
    caught: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def hold(route: Route) -> None:
        answer = await route.fetch(max_redirects=0)
        caught.set_result(answer.headers["location"])
        await route.fulfill(status=200, body="held")

    await _ask(visitor.page, server, company)
    await visitor.context.route(f"{server.url}/authorize*", hold)
    await visitor.page.get_by_role("button", name="Approve").click()
    async with asyncio.timeout(10):
        return await caught


async def _refused(page: Page, said: str) -> None:
    await _h1(page, "Not connected")
    await expect(page.locator("main")).to_contain_text(said)
    await expect(page.locator("main")).to_contain_text(re.compile("nothing was connected|begin again", re.IGNORECASE))


async def _nothing(here: Served, company: Caller) -> None:
    assert (await here.app.integrations.list(company)).items == []
    secrets = [secret.name for secret in await here.app.store.list(company.scope)]
    assert [name for name in secrets if not name.startswith("oauth_client/")] == []


async def _reasons(here: Served, chain: Any) -> list[str]:
    await asyncio.sleep(0.3)
    return [event["reason"] for event in await here.app.events.after(chain, 0) if event["action"] == "consent.refused"]


async def test_a_service_is_connected_by_consent_and_rotated_by_a_new_one(
    here: Served, visitor: Visitor, server: AuthorizationServer, company: Caller
) -> None:
    page = visitor.page
    await _ask(page, server, company)
    await expect(page.locator("li")).to_have_text(["read"])
    await page.get_by_role("button", name="Approve").click()
    await _h1(page, "acme")
    await expect(page.get_by_role("status")).to_contain_text("Connected.")
    assert "code=" not in page.url, "the address of the result has the code in it"
    assert "state=" not in page.url
    [integration] = (await here.app.integrations.list(company)).items
    assert (integration.kind, integration.account, integration.scopes) == ("consent", "ada", ["read"])
    # Nobody, not even ourselves, was told of the address that had them.
    assert [referrer for referrer in visitor.referrers if "/oauth/callback" in referrer] == []
    first = (await here.app.integrations.present(company, integration.id)).token

    await _press(page, "Rotate")
    await _press(page, "Go on to Acme")
    await page.wait_for_url(f"{server.url}/authorize*")
    await page.get_by_role("button", name="Approve").click()
    await expect(page.get_by_role("status")).to_contain_text("Rotated.")
    second = await here.app.integrations.present(company, integration.id)
    assert second.token != first
    assert second.consent is not None
    assert second.consent.scopes == ("read",)
    assert server.is_good(second.token.reveal_text())

    log = here.log.read_text()
    assert '"path": "/oauth/callback/acme/' in log
    for call in server.calls_to("/token"):
        for secret in (call.fields["code"], call.fields["code_verifier"], SECRET):
            assert secret not in log
    states = [value for url in visitor.seen for value in parse_qs(urlsplit(url).query).get("state", [])]
    assert states
    assert not any(state in log for state in states)


async def test_the_page_of_an_integration_shows_who_holds_what_and_ends_it(
    here: Served, visitor: Visitor, server: AuthorizationServer, company: Caller
) -> None:
    page = visitor.page
    await _connected(visitor, server, company)
    [integration] = (await here.app.integrations.list(company)).items
    agent, token = await here.app.agents.create(company, "ann")
    await here.app.integrations.allow(company, integration.id, agent.id)
    ann = await here.app.identity.agent(token.reveal_text())
    for _ in range(3):
        await here.app.requests.request(ann, "acme", "GET", "/api/me")
    _, run_token = await here.app.runs.open(ann)
    run = await here.app.identity.run(run_token.reveal_text())
    await _press(page, "Rotate")
    await _press(page, "Go on to Acme")
    await page.get_by_role("button", name="Approve").click()
    await _h1(page, "acme")

    draining = page.get_by_role("row").filter(has_text="Draining")
    await expect(draining).to_contain_text("1")
    await expect(page.locator("main")).to_contain_text("3 calls in the last 30 days, 3 of them today")
    await expect(page.get_by_role("img", name="3 calls in 30 days")).to_be_visible()
    assert (await here.app.requests.request(run, "acme", "GET", "/api/me")).status == 200
    await draining.get_by_role("button", name="Cut now").click()
    await expect(page.get_by_role("status")).to_contain_text("Cut off.")
    await expect(draining).to_have_count(0)
    with pytest.raises(Refused):
        await here.app.requests.request(run, "acme", "GET", "/api/me")

    await page.get_by_label("Days until a rotation").fill("90")
    await _press(page, "Save")
    await expect(page.locator("main")).to_contain_text("A rotation is asked for 90 days after the last one.")
    await _press(page, "Revoke at Acme")
    await _press(page, "Revoke it")
    await expect(page.get_by_role("status")).to_contain_text("Revoked at the provider.")
    await expect(page.locator("main")).to_contain_text("Needs attention")
    assert all(token.revoked for token in server.state.by_access.values())


async def test_who_deletes_an_integration_chooses_whether_its_consent_is_revoked(
    here: Served, visitor: Visitor, server: AuthorizationServer, company: Caller
) -> None:
    page = visitor.page
    for keep in (True, False):
        await page.goto(f"{await _connected(visitor, server, company)}/delete")
        await page.get_by_label("Type acme to confirm").fill("acme")
        if keep:
            await page.get_by_label("Leave the consent as it is").check()
        await _press(page, "Delete it")
        await _h1(page, "Integrations")
        assert (await here.app.integrations.list(company)).items == []
        assert bool(server.calls_to("/revoke")) is not keep


async def test_a_consent_that_is_denied_connects_nothing(
    here: Served, visitor: Visitor, server: AuthorizationServer, company: Caller
) -> None:
    await _ask(visitor.page, server, company)
    await visitor.page.get_by_role("button", name="Deny").click()
    await _refused(visitor.page, "The consent was denied.")
    await _nothing(here, company)
    assert await _reasons(here, company.scope.company_id) == ["denied"]
    await _press(visitor.page, "To the integrations")
    await _h1(visitor.page, "Integrations")


async def test_a_page_that_is_loaded_again_connects_nothing_twice(
    here: Served, visitor: Visitor, server: AuthorizationServer, company: Caller
) -> None:
    url = await _caught(visitor, server, company)
    await visitor.page.goto(url)
    await expect(visitor.page.get_by_role("status")).to_contain_text("Connected.")
    await visitor.page.goto(url)
    await _refused(visitor.page, "This answer was used before.")
    assert len(server.calls_to("/token")) == 1
    assert await _reasons(here, company.scope.company_id) == ["replayed"]


async def test_a_wrong_state_connects_nothing(
    here: Served, visitor: Visitor, server: AuthorizationServer, company: Caller
) -> None:
    url = await _caught(visitor, server, company)
    state = parse_qs(urlsplit(url).query)["state"][0]
    await visitor.page.goto(url.replace(state, state[:-2] + ("AA" if state[-2:] != "AA" else "QQ")))
    await _refused(visitor.page, "This answer belongs to nothing that was asked for here.")
    for other in ("state=", "nothing=", f"state={state}&state={state}"):
        await visitor.page.goto(url.replace(f"state={state}", other))
        await _refused(visitor.page, "This answer belongs to nothing that was asked for here.")
    assert server.calls_to("/token") == []
    assert (await here.app.integrations.list(company)).items == []
    assert "state" in await _reasons(here, company.scope.company_id)


@pytest.mark.parametrize("iss", ["https://login.evil.example", None], ids=["wrong", "missing"])
async def test_a_wrong_iss_connects_nothing(
    here: Served, visitor: Visitor, server: AuthorizationServer, company: Caller, iss: str | None
) -> None:
    server.iss = iss
    await _ask(visitor.page, server, company)
    await visitor.page.get_by_role("button", name="Approve").click()
    await _refused(visitor.page, "server")
    assert server.calls_to("/token") == []
    await _nothing(here, company)
    assert await _reasons(here, company.scope.company_id) == ["issuer"]


async def test_a_code_that_is_too_old_connects_nothing(
    here: Served, visitor: Visitor, server: AuthorizationServer, company: Caller
) -> None:
    server.state.code_life = -1
    await _ask(visitor.page, server, company)
    await visitor.page.get_by_role("button", name="Approve").click()
    await _refused(visitor.page, "too old")
    await _nothing(here, company)


async def test_the_answer_of_one_provider_at_the_address_of_another_connects_nothing(
    here: Served, visitor: Visitor, server: AuthorizationServer, company: Caller
) -> None:
    url = await _caught(visitor, server, company)
    await visitor.page.goto(url.replace("/callback/acme", "/callback/other"))
    await _refused(visitor.page, "This answer came from another provider than the one asked.")
    assert server.calls_to("/token") == []
    await _nothing(here, company)
    assert await _reasons(here, company.scope.company_id) == ["mixed_up"]


async def test_an_answer_in_somebody_elses_browser_connects_nothing(
    here: Served, visitor: Visitor, server: AuthorizationServer, company: Caller, browser: Browser
) -> None:
    url = await _caught(visitor, server, company)
    for person in (None, await owner(here.app)):
        context = await browser.new_context(base_url=here.url)
        if person is not None:
            value = person.session.reveal_text()
            await context.add_cookies(
                [{"name": cookie_name(here.app.settings), "value": value, "domain": NAME, "path": "/"}]
            )
        page = await context.new_page()
        await page.goto(url)
        said = "Nobody is signed in here" if person is None else "in another browser, or by somebody else"
        await _refused(page, said)
        # Whoever signs in there is not sent on to the answer, which would be in the address.
        assert await page.locator('a[href*="code"]').count() == 0
        await context.close()
    assert server.calls_to("/token") == []
    await _nothing(here, company)
    assert await _reasons(here, company.scope.company_id) == ["session"]
    assert "signed_out" in await _reasons(here, None)


async def test_a_token_that_the_service_does_not_take_is_not_kept(
    here: Served, visitor: Visitor, server: AuthorizationServer, company: Caller
) -> None:
    await _ask(visitor.page, server, company)
    server.misbehave("status", on="/api/me", status=401, body='{"error": "invalid_token"}')
    await visitor.page.get_by_role("button", name="Approve").click()
    await _h1(visitor.page, "Not connected")
    await expect(visitor.page.locator("main")).to_contain_text("Acme did not accept the credential")
    await _nothing(here, company)
