"""
A restore, and who comes meanwhile; and keys that lie there otherwise than expected.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from company_agents.backup.restore import Restorer
from company_agents.errors import Busy, CompanyAgentsError
from tests.backup.instances import Office, comes_back, exported, refusal, remade, restored, signature_of
from tests.outgoing.servers import Server
from tests.rotation.place import Place, rotate

Fresh = Callable[[], Place]


async def test_who_starts_between_the_backup_of_what_is_there_and_the_restore_is_seen(
    copy: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with copy.open() as app:
        await exported(app, tmp_path / "then")
    before = copy.secrets()
    safety = Restorer._safety

    async def and_then_a_start(self: Any, *given: Any) -> Any:
        made = await safety(self, *given)
        copy.sql(
            "INSERT INTO replicas (id, host, process, version, key_ids) VALUES (gen_random_uuid(), 'elsewhere', 7, '1', '{}')"
        )
        return made

    monkeypatch.setattr(Restorer, "_safety", and_then_a_start)
    error = await refusal(restored(copy, tmp_path / "then", replace=True))
    assert (error.reason, copy.secrets()) == ("orchestrator_runs", before)


async def test_what_was_recorded_after_the_backup_of_what_is_there_is_not_lost(
    copy: Place, office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with copy.open() as app:
        await exported(app, tmp_path / "then")
    safety = Restorer._safety

    async def and_then_a_command(self: Any, *given: Any) -> Any:
        made = await safety(self, *given)
        async with copy.open() as app:
            await app.agents.create(await office.local(app), "late")
        return made

    monkeypatch.setattr(Restorer, "_safety", and_then_a_command)
    error = await refusal(restored(copy, tmp_path / "then", replace=True))
    assert error.reason == "instance_in_use"
    assert copy.sql("SELECT count(*) AS n FROM agents WHERE name = 'late'") == [{"n": 1}]


async def test_a_start_that_waited_for_a_restore_does_not_go_on_as_who_was_there_before(
    copy: Place, tmp_path: Path
) -> None:
    async with copy.open() as app:
        await exported(app, tmp_path / "then")
    with copy.connect() as connection, connection.transaction():
        # What a restore holds until it commits.
        connection.execute("SELECT pg_advisory_xact_lock(7301002)")
        starting = asyncio.create_task(refusal(opened(copy)))
        await waits(copy)
        connection.execute("UPDATE instance SET id = gen_random_uuid()")
    error = await starting
    assert isinstance(error, Busy)
    assert "restored just now" in error.sentence


async def opened(place: Place) -> None:
    """A start that comes to its end."""
    async with place.open():
        return


async def waits(place: Place) -> None:
    """Until somebody waits for the lock of starts."""
    for _ in range(400):
        if place.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 7301002 AND NOT granted"):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("nobody came to wait")


async def test_an_orchestrator_under_which_an_instance_was_restored_drops_its_keys_and_ends(
    copy: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with copy.open(long_lived=True) as app:
        told: list[int] = []
        monkeypatch.setattr("company_agents.rotation.replica.signal.raise_signal", told.append)
        assert app.replica is not None
        copy.sql("UPDATE instance SET id = gen_random_uuid()")
        await app.replica.beat()
        assert told
        assert app.held.sealed


async def test_todays_key_by_its_first_name_alone_is_the_active_one_after_a_restore_from_before_it(
    copy: Place, fresh: Fresh, office: Office, provider: Server, tmp_path: Path
) -> None:
    async with copy.open() as app:
        old = copy.only("active")
        await exported(app, tmp_path / "then")
        new = (await rotate(app)).new_key_id
    # As the pages say: the newest key by the name of the file, older ones in the folder.
    place = fresh()
    keys = place.home / "secrets" / "keys"
    keys.mkdir(mode=0o700, parents=True)
    keys.parent.chmod(0o700)
    shutil.copy(copy.home / "secrets" / "master.key", place.home / "secrets" / "master.key")
    shutil.copy(copy.home / "secrets" / "keys" / f"{old}.key", keys / f"{old}.key")
    await restored(place, tmp_path / "then")
    assert (place.states()[new], place.states()[old]) == ("active", "archived")
    assert (keys / f"{new}.key").exists()
    await comes_back(office, place, provider)


async def test_an_old_copy_of_a_key_that_was_destroyed_is_no_hindrance(
    copy: Place, fresh: Fresh, office: Office, provider: Server, tmp_path: Path
) -> None:
    async with copy.open() as app:
        first = copy.only("active")
        shutil.copytree(copy.home / "secrets", tmp_path / "kept")
        await rotate(app)
        copy.sql("UPDATE backups SET state = 'gone'")
        copy.sql("UPDATE master_keys SET ends_at = now() - interval '1 second' WHERE state = 'archived'")
        assert (await app.pruner.prune(None, "tester")).destroyed == [first]
        await exported(app, tmp_path / "then")
        active = copy.only("active")
    place = fresh()
    shutil.copytree(tmp_path / "kept", place.home / "secrets")
    shutil.copy(copy.home / "secrets" / "keys" / f"{active}.key", place.home / "secrets" / "keys" / f"{active}.key")
    await restored(place, tmp_path / "then")
    assert place.states()[active] == "active"
    await comes_back(office, place, provider)


async def test_an_altered_backup_is_refused_also_without_its_secrets(copy: Place, fresh: Fresh, tmp_path: Path) -> None:
    async with copy.open() as app:
        await exported(app, tmp_path / "then")
    altered = remade(
        tmp_path / "then", tmp_path / "altered", signature=signature_of(tmp_path / "then"), product="somebody else's"
    )
    place = fresh()
    shutil.copytree(copy.home / "secrets", place.home / "secrets")
    error: CompanyAgentsError = await refusal(restored(place, altered, without_secrets=True, unsigned=True))
    assert error.reason == "tampered"
    shutil.rmtree(place.home / "secrets")
    error = await refusal(restored(place, altered, without_secrets=True))
    assert error.reason == "backup_unsigned"


async def test_the_same_backup_is_restored_again_where_the_database_was_moved_away(
    fresh: Fresh, copy: Place, office: Office, provider: Server, tmp_path: Path
) -> None:
    async with copy.open() as app:
        await exported(app, tmp_path / "then")
    place, other = fresh(), fresh()
    shutil.copytree(copy.home / "secrets", place.home / "secrets")
    await restored(place, tmp_path / "then")
    await comes_back(office, place, provider)
    # The keys have the mark of the instance that this was.
    shutil.rmtree(other.home / "secrets", ignore_errors=True)
    shutil.copytree(place.home / "secrets", other.home / "secrets")
    await restored(other, tmp_path / "then")
    await comes_back(office, other, provider)


async def test_what_executes_an_agent_and_when_is_as_was_said_last(copy: Place, office: Office, tmp_path: Path) -> None:
    async with copy.open() as app:
        local = await office.local(app)
        gone = await app.schedules.create(local, office.place.agent, "gone", "0 9 * * *", "work")
        off = await app.schedules.create(local, office.place.agent, "off", "0 9 * * *", "work")
        late = await app.schedules.create(local, office.place.agent, "late", "0 9 * * *", "work")
        copy.sql("UPDATE schedules SET next_at = now() - interval '1 hour' WHERE id = %(i)s", i=late.id)
        copy.sql(
            "UPDATE agents SET adapter = 'process', adapter_config = '{\"network\": \"open\"}', unsandboxed = true"
        )
        await exported(app, tmp_path / "then")
        copy.sql("UPDATE agents SET adapter_config = '{}', unsandboxed = false")
        await app.schedules.delete(local, gone.id)
        await app.schedules.pause(local, off.id)
    await restored(copy, tmp_path / "then", replace=True)
    assert copy.sql("SELECT DISTINCT adapter_config, unsandboxed FROM agents") == [
        {"adapter_config": {}, "unsandboxed": False}
    ]
    found = {row["id"]: row for row in copy.sql("SELECT id, enabled, next_at FROM schedules")}
    assert [found[each.id]["enabled"] for each in (gone, off, late)] == [False, False, True]
    async with copy.open() as app:
        local = await office.local(app)
        await app.schedules.start_due(local.scope)
        [again] = [each for each in (await app.schedules.list(local)).items if each.id == late.id]
        assert "had passed when the instance was restored" in again.skipped
    assert not copy.sql("SELECT FROM runs WHERE schedule_id = %(i)s", i=late.id)


async def test_a_file_that_claims_to_be_another_backup_takes_no_key_from_it(copy: Place, tmp_path: Path) -> None:
    async with copy.open() as app:
        made = await exported(app, tmp_path / "then")
        folder = copy.home / "data" / "backups"
        folder.mkdir(parents=True, exist_ok=True)
        remade(tmp_path / "then", folder / "company-agents-20260301T031705Z-0123456789ab.tar.zst", keys=())
        [row] = [row for row in await app.backups.current() if row.id == made.id]
        assert (list(row.key_ids), row.file, row.place) == (made.key_ids, "then", str(tmp_path))
