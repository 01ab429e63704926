"""
What arrives is not let loose: nothing goes into a private network, is revoked or started because a file says so. And the way out
says of a chain what everybody says of it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from company_agents.backup.company_file import whole_file
from company_agents.backup.company_tables import TRAVELS
from company_agents.backup.files import new_file
from company_agents.db.moving import tables
from company_agents.integrations.credential import CredentialLost
from company_agents.sensitive import Sensitive
from tests.backup.company.moved import (
    PASSPHRASE,
    Change,
    Source,
    a_company,
    bring_in,
    copy_of,
    remade,
    rows_of,
    with_fields,
    with_rows,
)
from tests.conftest import LOCAL
from tests.outgoing.servers import Server
from tests.rotation.place import Place

# — private networks —


async def test_what_goes_into_a_private_network_comes_without_its_credential_and_is_neither_used_nor_tried(
    source: Source, target: Place, provider: Server
) -> None:
    async with target.open() as app:
        done = await bring_in(app, source.light)
        assert sorted(done.held_back) == ["generic", "used again"]
        here = rows_of(target, source.mine)
        assert {row["status"] for row in here["integrations"]} == {"needs attention"}
        assert all("private network" in row["status_reason"] for row in here["integrations"])
        agent, before = await app.identity.agent(source.token), len(provider.requests)
        with pytest.raises(CredentialLost):
            await app.requests.request(agent, str(source.integration), "GET", "/again")
        target.sql("UPDATE integrations SET probe_due_at = now() - interval '1 minute'")
        await app.upkeep.look_after()
        await asyncio.gather(*app.upkeep._probing)
        local = await app.identity.in_company(LOCAL, source.mine)
        with pytest.raises(CredentialLost):
            await app.integrations.check(local, source.integration)
        assert len(provider.requests) == before
        assert not [row for row in here["secrets"] if row["name"].startswith("integration/")]
        # Deleted, nothing is left of it.
        await app.revocation.delete(local, source.integration)


async def test_whoever_brings_it_in_may_say_so_at_once(source: Source, target: Place) -> None:
    async with target.open() as app:
        done = await bring_in(app, source.light, allow_private_network=True)
        assert (done.held_back, done.private_adapters) == ([], [])
        agent = await app.identity.agent(source.token)
        assert (await app.requests.request(agent, str(source.integration), "GET", "/again")).status == 200


async def test_an_agent_that_is_handed_its_work_in_a_private_network_arrives_without_its_adapter(
    other: Place, target: Place, tmp_path: Path
) -> None:
    place = copy_of(other, tmp_path / "from" / "home")
    async with place.open() as app:
        tenant = await a_company(app, "handed")
        for name, url in (("near", "http://127.0.0.1:9/work?token=x"), ("far", "https://agents.example.com/x?token=x")):
            agent, _ = await app.agents.create(tenant.local, name)
            config = {"url": url, "allow_private_network": name == "near"}
            await app.adapters.set(tenant.local, agent.id, "http", config)
        await app.mover.export(LOCAL, "handed", tmp_path / "file", PASSPHRASE)
    place.drop()
    async with target.open() as app:
        done = await bring_in(app, tmp_path / "file")
        assert (done.private_adapters, done.without_adapter) == (["near"], [])
        here = {row["name"]: row for row in rows_of(target, tenant.company.id)["agents"]}
        assert (here["near"]["adapter"], here["near"]["adapter_config"]) == (None, {})
        assert here["far"]["adapter"] == "http"
        said = {each.name: each.origins for each in done.goes if each.what == "adapter"}
        assert said == {"near": ("http://127.0.0.1:9",), "far": ("https://agents.example.com",)}
        secrets = {row["name"] for row in rows_of(target, tenant.company.id)["secrets"]}
        assert f"agent_adapter/{here['far']['id']}" in secrets and f"agent_adapter/{here['near']['id']}" not in secrets


# — what the other instance does —


def drained(file: Path) -> Change:
    """Each current version has one before it that drains there, and one that has retired and waits to be revoked."""

    def more(row: dict[str, str | None]) -> list[dict[str, str | None]]:
        gone = {"consent": "t", "revoke_after": "2026-01-01 00:00:00+00"}
        return [
            row | {"state": "draining", "consent": "t", "version": "1"},
            row | {"state": "retired", "retired_at": "2026-01-01 00:00:00+00", "version": "2"} | gone,
        ]

    return with_rows(file, "credential_versions", more)


async def test_what_drains_or_retires_there_is_not_revoked_from_here(
    source: Source, target: Place, tmp_path: Path
) -> None:
    file = remade(source.light, tmp_path / "file", drained(source.light))
    async with target.open() as app:
        await bring_in(app, file)
        versions = rows_of(target, source.mine)["credential_versions"]
        assert {row["state"] for row in versions} == {"retired"} and len(versions) == 4
        assert all(row["retired_at"] for row in versions)
        assert {(row["secret_id"], row["revoke_after"], row["refresh_due_at"]) for row in versions} == {(None,) * 3}
        names = {row["name"] for row in rows_of(target, source.mine)["secrets"]}
        assert not any(name.startswith("integration/") for name in names)
        await app.sweeper.sweep()
        actions = {event["action"] for event in await app.events.newest(source.mine, limit=1000)}
        assert not actions & {"credential.revoked", "credential.not_revoked"}


async def test_a_moment_that_was_served_there_is_not_served_here(source: Source, target: Place, tmp_path: Path) -> None:
    for served, at in ((True, "2026-01-01 00:00:00+00"), (False, "2099-01-01 00:00:00.5+00")):
        change = with_fields(source.light, "schedules", None, next_at=at, enabled="t")
        place = copy_of(target, tmp_path / at[:4] / "home")
        async with place.open() as app:
            await bring_in(app, remade(source.light, tmp_path / f"file {at}", change), enable_schedules=True)
            [schedule] = rows_of(place, source.mine)["schedules"]
            assert (schedule["enabled"], schedule["missed"]) == (True, served)
        place.drop()


# — the way out, and the reading —


async def test_an_export_says_of_a_chain_what_its_proof_says(source: Source, target: Place, tmp_path: Path) -> None:
    async with target.open() as app:
        await bring_in(app, source.light)
    # As after a restore without secrets.
    target.sql("UPDATE instance SET audit_keys_lost = 1")
    target.sql("DELETE FROM secrets WHERE name = 'audit_key/1' AND company_id IS NULL")
    async with target.open() as app:
        proved = await app.events.verify(source.mine)
        assert (proved.faults, proved.unproved > 0) == ((), True)
        assert (await app.mover.export(LOCAL, str(source.mine), tmp_path / "file", PASSPHRASE)).chain_faults == 0


async def test_an_audit_key_that_is_new_while_an_export_begins_spoils_no_proof(other: Place, tmp_path: Path) -> None:
    place = copy_of(other, tmp_path / "from" / "home")
    async with place.open() as app:
        company = (await a_company(app, "renewed")).company.id
        keys = app.mover.audit_keys
        read = keys.all

        async def renewed() -> dict[int, Sensitive]:
            # Another process renews it in the moment after the export has read the keys.
            found = await read()
            keys.all = read  # type: ignore[method-assign]
            await keys.renew()
            await app.audit.append(company, "test.looked")
            return found

        keys.all = renewed  # type: ignore[method-assign]
        assert (await app.mover.export(LOCAL, "renewed", tmp_path / "file", PASSPHRASE)).chain_faults == 0
        assert max(row["audit_key"] for row in rows_of(place, company)["audit_events"]) == 2
    place.drop()


def test_where_there_are_no_hard_links_the_file_gets_its_name_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*names: object, **options: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", none)
    with new_file(tmp_path / "file") as file:
        file.write(b"a company")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"a company")]


async def test_a_reading_that_nobody_waits_for_ends(source: Source, target: Place) -> None:
    async with target.open() as app, app.store.db.transaction(None) as tx:
        found = await tables(tx, [each.table for each in TRAVELS])
    reached, goes_on = threading.Event(), threading.Event()
    steps: list[str] = []

    def say(step: str, done: int, total: int) -> None:
        steps.append(step)
        reached.set()
        goes_on.wait()

    async def read() -> None:
        async with whole_file(source.light, PASSPHRASE, found, say):
            raise AssertionError("it was read")

    reading = asyncio.create_task(read())
    await asyncio.to_thread(reached.wait)
    reading.cancel()
    try:
        for _ in range(10):
            await asyncio.sleep(0)
        # The file is not closed while the thread reads it.
        assert not reading.done()
    finally:
        goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert len(steps) == 1
