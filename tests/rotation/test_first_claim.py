"""
A start that is refused leaves no mark: neither in a place that has not our keys, nor in the database of a new instance.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from company_agents.app import open_app
from company_agents.errors import MayNotStart
from company_agents.keysources.failures import read_only
from company_agents.keysources.file import FileSource
from company_agents.keysources.found import Found
from company_agents.settings import read_settings
from tests.conftest import remove
from tests.rotation.place import Place


async def test_a_place_without_our_keys_is_not_claimed(place: Place) -> None:
    async with place.open():
        pass
    away = place.folder.rename(place.folder.with_name("away"))
    assert (await place.refused()).reason == "key_missing"
    assert not place.folder.exists() or not any(place.folder.rglob("*"))
    shutil.rmtree(place.folder, ignore_errors=True)
    away.rename(place.folder)
    async with place.open():
        pass


class ReadOnly(FileSource):
    """A folder that lets itself be read only."""

    async def check_writable(self, seen: Found) -> None:
        raise read_only(self.address)


async def test_a_new_instance_makes_no_key_that_it_cannot_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read_settings(home=tmp_path / "home", database_url=None, master_key_source=None, master_key_path=None)
    with monkeypatch.context() as patched:
        patched.setattr("company_agents.app.open_source", lambda settings: ReadOnly.at("secrets/master.key", settings))
        with pytest.raises(MayNotStart) as caught:
            async with open_app(settings):
                pass
        assert caught.value.reason == "key_source_read_only"
    assert not (tmp_path / "home" / "secrets").exists()
    # Nothing was registered: with a place that can be written, it begins as any other does.
    async with open_app(settings) as app:
        assert (await app.keys.status()).active.rows > 0
    if (settings.home / "db").is_symlink():
        remove((settings.home / "db").resolve())
