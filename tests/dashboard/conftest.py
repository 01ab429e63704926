"""
The dashboard of the shared instance, served to a real browser, and a provider for it to connect to.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from company_agents.app import App, open_app
from company_agents.dashboard import dashboard_app, live
from company_agents.dashboard.guard import cookie_name
from company_agents.identity.principal import Caller
from company_agents.settings import read_settings
from tests.conftest import remove
from tests.dashboard.people import LOCAL, Person, owner
from tests.dashboard.standin import served, slack

CHROMIUM = os.environ.get("CHROMIUM") or "/usr/bin/chromium"
ARGUMENTS = [
    *("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
    # A name that is not localhost: over plain http a browser trusts it less, and sends no Sec-Fetch-Site.
    "--host-resolver-rules=MAP dashboard.test 127.0.0.1",
]

NewPage = Callable[..., Awaitable[Page]]


Scheme = Literal["light", "dark"]


@pytest.fixture(scope="module")
async def somebody(app: App) -> Person:
    """An owner of the instance, signed in."""
    return await owner(app)


@pytest.fixture(scope="session")
async def address(app: App) -> AsyncIterator[str]:
    """Where the dashboard is served."""
    async with served(dashboard_app(app)) as url:
        yield url


@pytest.fixture(scope="session")
async def provider_address() -> AsyncIterator[str]:
    """Where the stand-in for Slack is served."""
    async with served(slack()) as url:
        yield url


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """A real one."""
    if not Path(CHROMIUM).exists():
        pytest.skip("there is no Chromium; scripts/test-packages gets it, CHROMIUM names it")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture
async def new_page(app: App, address: str, browser: Browser) -> AsyncIterator[NewPage]:
    """
    Opens a page in a browser of its own, as a person or as nobody. Whatever the browser complains of during the
    test (a policy that was violated, a script, an error) fails it.
    """
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    async def make(
        person: Person | None = None, width: int = 1180, scheme: Scheme = "light", url: str = address
    ) -> Page:
        context = await browser.new_context(
            base_url=url, color_scheme=scheme, viewport={"width": width, "height": 800}, java_script_enabled=True
        )
        contexts.append(context)
        if person is not None:
            value = person.session.reveal_text()
            await context.add_cookies([{"name": cookie_name(app.settings), "value": value, "url": url}])
        page = await context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: complaints.append(f"asked for {request.url}") if not request.url.startswith(url) else None,
        )
        return page

    yield make
    for context in contexts:
        await context.close()
    # An answer of 4xx is noted on the console by the browser itself, and that it heeds a header only over https.
    expected = ("Failed to load resource", "The Cross-Origin-Opener-Policy header has been ignored")
    assert [text for text in complaints if not text.startswith(expected)] == []


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams look four times a second."""
    monkeypatch.setattr(live, "EVERY", 0.25)


@pytest.fixture
def paths(app: App) -> Callable[..., SimpleNamespace]:
    """Paths below a company."""

    def below(company_id: object) -> SimpleNamespace:
        home = f"/companies/{company_id}"
        return SimpleNamespace(home=home, integrations=f"{home}/integrations", agents=f"{home}/agents")

    return below


# — an instance that may be rotated and sealed: no test of another file stands on it —


@pytest.fixture(scope="session")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[App, App]]:
    """Two orchestrators of one instance."""
    home = tmp_path_factory.mktemp("own") / "home"
    settings = read_settings(home=home, database_url=None, master_key_path=None, master_key_source=None)
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(open_app(settings, long_lived=True))
        other = await stack.enter_async_context(open_app(settings, long_lived=True))
        yield one, other
    if (home / "db").is_symlink():
        remove((home / "db").resolve())


@pytest.fixture(scope="session")
def own(both: tuple[App, App]) -> App:
    """The one whose pages are looked at."""
    return both[0]


@pytest.fixture(scope="module")
async def olga(own: App) -> Person:
    """An owner of that instance, of each file its own: where everybody signs in anew, the tests of another file do not."""
    return await owner(own, f"olga {uuid.uuid4().hex[:8]}")


@pytest.fixture(scope="session")
async def company(own: App) -> Caller:
    """A company there."""
    made = await own.companies.create(LOCAL, "Northwind")
    return await own.identity.in_company(LOCAL, made.id)
