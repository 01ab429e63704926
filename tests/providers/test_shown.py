"""
Where an operator sees their own providers, and those that were refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from company_agents.app import App
from company_agents.cli import doctor, provider
from company_agents.cli.command import Session
from tests.conftest import provider_files
from tests.dashboard.people import LOCAL, owner, text_of
from tests.providers.test_files import GOOD

BAD = GOOD.replace('why = "write things"', "why = <b>")


@pytest.fixture
def files(app: App) -> Iterator[Path]:
    with provider_files(app.settings.home, {"acme": GOOD, "broken": BAD}) as folder:
        yield folder


async def test_the_gallery_has_the_good_one_and_says_what_is_wrong_with_the_other(
    app: App, tenant, files: Path
) -> None:
    here = await tenant()
    async with (await owner(app)).client() as browser:
        page = text_of((await browser.get(f"/companies/{here.company.id}/integrations/connect")).text)
    assert "A service of our own." in page
    assert "A provider file in the home was not loaded." in page
    assert "broken.toml, line 20: this is no TOML: invalid value" in page


async def test_a_service_with_a_host_for_each_customer_asks_for_the_address_and_for_no_header(app: App, tenant) -> None:
    here = await tenant()
    async with (await owner(app)).client() as browser:
        page = (await browser.get(f"/companies/{here.company.id}/integrations/connect/zendesk")).text
    assert 'placeholder="https://acme.zendesk.com"' in page
    assert 'name="base_url"' in page
    assert 'name="header"' not in page
    assert "Connect Zendesk" in page


def test_the_doctor_names_a_file_that_was_refused_and_counts_the_others(app: App, files: Path) -> None:
    [check] = doctor._provider_files(app.settings)
    assert not check.ok
    assert check.detail == "broken.toml, line 20: this is no TOML: invalid value"
    (files / "broken.toml").unlink()
    [check] = doctor._provider_files(app.settings)
    assert (check.ok, check.detail) == (True, "1 file of your own, read")
    (files / "acme.toml").unlink()
    assert doctor._provider_files(app.settings) == []


async def test_provider_list_has_the_good_one_and_names_the_other(app: App, files: Path) -> None:
    result = await provider.listing(Session(app, LOCAL, json=False))
    assert "acme" in [item["name"] for item in result.data["items"]]
    assert result.note == "not loaded: broken.toml, line 20: this is no TOML: invalid value"
    [bad] = result.data["bad_files"]
    assert (bad.file, bad.line) == ("broken.toml", 20)
