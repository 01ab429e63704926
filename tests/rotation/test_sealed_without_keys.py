"""
The panic where the keys cannot be had, and what goes on in an orchestrator that is sealed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import shutil
import time

import pytest

from company_agents.audit.log import SEALED_PAUSE
from company_agents.crypto.keyring import KeyRing
from company_agents.errors import Sealed
from tests.rotation.place import Place, nothing_is_lost, outcome


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
        async with place.open(unseal=True) as command:
            assert await command.panic.unseal("tester")
        async with asyncio.timeout(30):
            while "broken off" not in [event.get("use") for event in await app.events.newest(place.company, limit=5)]:
                await asyncio.sleep(SEALED_PAUSE / 20)


async def test_one_that_is_sealed_again_while_its_keys_are_read_stays_sealed(place: Place) -> None:
    async with place.open(long_lived=True) as app:
        reading, go_on = asyncio.Event(), asyncio.Event()

        async def slowly() -> KeyRing:
            ring = await app.panic.unlock()
            reading.set()
            await go_on.wait()
            return ring

        assert app.replica is not None
        await app.replica.close()
        await app.panic.seal("tester")
        async with place.open(unseal=True) as command:
            await command.panic.unseal("tester")
        restoring = asyncio.create_task(outcome(dataclasses.replace(app.panic, unlock=slowly).restore()))
        await reading.wait()
        assert await app.panic.seal("tester")
        go_on.set()
        assert isinstance(await restoring, Sealed)
        assert app.held.sealed
        assert app.held.ring.keys == ()


async def test_orchestrators_that_said_no_good_bye_are_forgotten(place: Place) -> None:
    place.sql(
        "INSERT INTO replicas (id, host, process, version, key_ids, seen_at)"
        " SELECT gen_random_uuid(), 'killed', 1, '1', '{}', now() - interval '2 days' FROM generate_series(1, 100)"
    )
    async with place.open(long_lived=True) as app:
        assert app.replica is not None
        assert place.sql("SELECT id FROM replicas") == [{"id": app.replica.id}]
