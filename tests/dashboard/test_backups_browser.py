"""
The page of the backups in a real browser: one is made, watched, verified, downloaded and given up.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from company_agents.app import App
from company_agents.dashboard import dashboard_app
from tests.dashboard.conftest import NewPage
from tests.dashboard.people import PASSWORD, Person
from tests.dashboard.standin import served
from tests.dashboard.test_browser import TOO_SMALL, UNNAMED, UNSTRUCTURED
from tests.promises.evidence import connect_past, sql

pytestmark = pytest.mark.browser


@pytest.fixture
async def url(own: App) -> AsyncIterator[str]:
    """Where the pages of the instance are that has backups; it has none before and afterwards."""
    await _none(own)
    async with served(dashboard_app(own)) as found:
        yield found
    await own.backup_work.ended()
    await _none(own)
    shutil.rmtree(_folder(own), ignore_errors=True)


async def _none(own: App) -> None:
    own.backup_work.last = None
    for row in await own.backups.current():
        await own.backups.forget(row.id, "local:tester")


def _folder(own: App) -> Path:
    return Path(own.backups.place.address.removeprefix("file://"))


async def _confirmed(page: Page) -> None:
    await expect(page.locator("h1")).to_have_text("Confirm your password")
    await page.get_by_label("Password of").fill(PASSWORD)
    await page.get_by_role("button", name="Confirm and go on").click()


async def test_a_backup_is_made_watched_verified_downloaded_and_forgotten(
    own: App, olga: Person, new_page: NewPage, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = await new_page(olga, url=url)
    await page.goto("/backups")
    await expect(page.locator("main")).to_contain_text("No backup yet")
    # Whoever has this table has it wait, as a large one would; the page is not loaded again by anybody but itself.
    async with await connect_past(own, "postgres") as past, past.transaction():
        await sql(past, "LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        await page.get_by_role("button", name="Make a backup now").click()
        await expect(page.locator("#running")).to_have_text("A backup is being made")
        await expect(page.locator("main")).to_contain_text("The page looks again every two seconds.")
        await expect(page.get_by_text("Being made", exact=True)).to_be_visible()
        await expect(page.get_by_role("button", name="Make a backup now")).to_have_count(0)
    banner = page.locator(".banner.good")
    await expect(banner).to_contain_text("is whole and verified:", timeout=15_000)
    [row] = await own.backups.rows()
    await expect(page.locator("tbody tr")).to_have_count(1)
    await expect(page.locator("tbody tr")).to_contain_text("Every secret opens")

    await page.get_by_role("button", name=f"Verify {row.name}").click()
    await expect(banner).to_contain_text(f"{row.name} would restore here: It is whole")

    await page.get_by_text("Restore it").click()
    command = page.get_by_label("Command that restores it")
    await expect(command).to_have_text(f"company-agents backup restore {_folder(own) / row.name}")

    monkeypatch.setattr("company_agents.identity.sessions.CONFIRMED_MINUTES", 0)
    await page.get_by_role("link", name=f"Download {row.name}").click()
    monkeypatch.undo()
    await _confirmed(page)
    await expect(page.locator("h1")).to_have_text("Download a backup")
    async with page.expect_download() as coming:
        await page.get_by_role("button", name="Download").click()
    got = await coming.value
    assert got.suggested_filename == row.name
    assert Path(await got.path()).read_bytes() == (_folder(own) / row.name).read_bytes()

    await page.get_by_role("link", name="Backups").first.click()
    await page.get_by_role("link", name=f"Forget {row.name}").click()
    await expect(page.locator("main")).to_contain_text("There is no other good backup.")
    await page.get_by_role("button", name="Forget it").click()
    await expect(page.get_by_role("status")).to_have_text("Forgotten. It keeps no master key any more.")
    await expect(page.locator("main")).to_contain_text("No backup yet")
    assert not (_folder(own) / row.name).exists()


@pytest.mark.parametrize("width", [1180, 320])
async def test_the_pages_of_the_backups_can_be_used_on_any_screen(
    own: App, olga: Person, new_page: NewPage, url: str, width: int
) -> None:
    made = await own.backups.make("local:tester")
    export = own.settings.home / f"{'long' * 40}.tar.zst"
    await own.backups.export(export, passphrase=None, who="local:tester")
    export.unlink()
    page = await new_page(olga, width=width, url=url)
    for path in ("/backups", f"/backups/{made.id}/download", f"/backups/{made.id}/forget", "/master-key"):
        await page.goto(path)
        for part in await page.locator("details").all():
            await part.locator("summary").click()
        assert await page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert await page.locator("h1").count() == 1, path
        for faults in (UNNAMED, UNSTRUCTURED, TOO_SMALL):
            assert await page.evaluate(faults) == [], path
