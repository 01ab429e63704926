"""
The panic where the keys cannot be had, and what goes on in an orchestrator that is sealed.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time

import pytest

from company_agents.audit.log import SEALED_PAUSE
from tests.rotation.place import Place, nothing_is_lost


async def test_an_instance_is_sealed_also_where_the_keys_cannot_be_had(place: Place) -> None:
    aside = place.folder.rename(place.home / "aside")
    assert (await place.refused(unseal=True)).reason == "key_missing"
    async with place.open(unseal=True, keyless=True) as app:
        assert app.held.sealed
        assert await app.panic.seal("tester")
    assert place.sql("SELECT sealed_by FROM instance") == [{"sealed_by": "tester"}]
    shutil.rmtree(place.folder, ignore_errors=True)
    aside.rename(place.folder)
    async with place.open(unseal=True) as app:
        assert await app.panic.unseal("tester")
        await nothing_is_lost(place, app)


async def test_what_waits_for_a_key_while_the_instance_is_sealed_fills_no_log_and_is_written_when_it_is_open(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async with place.open(long_lived=True) as app:
        key, tried = app.audit.key, []

        async def noted() -> object:
            tried.append(time.monotonic())
            return await key()

        await app.panic.seal("tester")
        app.audit.key = noted  # type: ignore[assignment]
        caplog.clear()
        app.audit.note(place.company, "credential.ended", use="broken off")
        async with asyncio.timeout(30):
            while len(tried) < 3:
                await asyncio.sleep(SEALED_PAUSE / 20)
        assert tried[2] - tried[0] >= SEALED_PAUSE
        assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
        await app.panic.restore()
        assert await app.panic.unseal("tester")
        async with asyncio.timeout(30):
            while "broken off" not in [event.get("use") for event in await app.events.newest(place.company, limit=5)]:
                await asyncio.sleep(SEALED_PAUSE / 20)
