"""
The audit key is renewed with each rotation of the master key: whoever got hold of the old ones appends nothing unseen.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from company_agents.app import App, open_app
from company_agents.audit.chain import canonical, link
from company_agents.settings import Settings, read_settings
from tests.conftest import LOCAL, remove
from tests.promises.evidence import connect_past, sql


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[App, App]]:
    """Two orchestrators of one instance, both of which have linked events."""
    settings: Settings = read_settings(home=tmp_path / "home")
    async with open_app(settings) as one, open_app(settings) as other:
        for app in (one, other):
            await app.companies.create(LOCAL, f"company {uuid.uuid4().hex[:8]}")
            await app.audit.append(None, "something.happened")
        yield one, other
    if (settings.home / "db").is_symlink():
        remove((settings.home / "db").resolve())


async def rotate(app: App, *, compromised: bool = False) -> None:
    await app.rotator.rotate(finish=False, compromised=compromised, who="tester", say=lambda step, done, total: None)


async def numbers(app: App) -> list[int]:
    """Under which audit key each event of the instance's chain is linked."""
    async with await connect_past(app, "postgres") as past:
        query = "SELECT audit_key FROM audit_events WHERE chain = %(chain)s ORDER BY seq"
        return [row["audit_key"] for row in await sql(past, query, chain=app.instance.id)]


async def test_every_orchestrator_goes_on_with_the_new_key_and_no_event_fails(two: tuple[App, App]) -> None:
    one, other = two
    await rotate(one)
    await asyncio.gather(*(app.audit.append(None, "something.else", n=n) for n in range(20) for app in two))
    found = await numbers(one)
    assert found == sorted(found)
    assert set(found) == {1, 2}
    assert found.count(2) >= 40
    await rotate(other)
    await one.audit.append(None, "something.else")
    assert (await numbers(one))[-1] == 3
    assert [chain.faults for chain in await one.events.verify_all()] == [(), (), ()]


async def test_a_master_key_that_got_out_takes_the_audit_key_with_it_and_its_rotation_is_on_record(
    two: tuple[App, App],
) -> None:
    one, other = two
    before = one.keys.held.ring.keys[0].key_id
    await rotate(one, compromised=True)
    await other.audit.append(None, "something.else")
    assert (await numbers(one))[-1] == 2
    events = await one.events.newest(None, limit=20)
    told = [event["action"] for event in reversed(events) if event.get("key") == before]
    assert told == ["key.created", "key.rotated", "key.destroyed"]
    rotated = next(event for event in events if event["action"] == "key.rotated")
    assert rotated["compromised"] is True and rotated["rows_left"] == 0
    assert rotated["new_key"] == (await one.keys.status()).active_key_id
    assert [chain.faults for chain in await one.events.verify_all()] == [(), (), ()]


async def test_an_event_that_is_linked_with_a_replaced_key_is_found(two: tuple[App, App]) -> None:
    one, _ = two
    _, old_key = await one.audit.key()
    await rotate(one)
    chain = one.instance.id
    record = canonical({"action": "nothing.happened", "at": "2026-01-01T00:00:00+00:00"})
    async with await connect_past(one, "postgres") as past:
        head = (await sql(past, "SELECT seq, mac FROM audit_heads WHERE chain = %(chain)s", chain=chain))[0]
        forged = {"chain": chain, "seq": head["seq"] + 1, "record": record}
        mac = link(old_key, chain, forged["seq"], head["mac"], record)
        await sql(
            past, "INSERT INTO audit_events VALUES (%(chain)s, %(seq)s, %(record)s, 1, %(mac)s)", **forged, mac=mac
        )
        await sql(
            past, "UPDATE audit_heads SET seq = %(seq)s, mac = %(mac)s WHERE chain = %(chain)s", **forged, mac=mac
        )
    faults = [fault for found in await one.events.verify_all() for fault in found.faults]
    assert [(fault.chain, fault.seq, fault.what) for fault in faults] == [
        (chain, forged["seq"], "it is linked with an audit key that was replaced before")
    ]


async def test_what_companies_did_before_cannot_be_written_anew_with_a_replaced_key(two: tuple[App, App]) -> None:
    one, _ = two
    _, old_key = await one.audit.key()
    company = await one.companies.create(LOCAL, "rewritten")
    await one.audit.append(company.id, "something.happened")
    await rotate(one)
    # Its whole history as somebody else would have it, every link made with the key that was replaced.
    async with await connect_past(one, "postgres") as past:
        query = "SELECT seq, record, audit_key FROM audit_events WHERE chain = %(chain)s ORDER BY seq"
        events = await sql(past, query, chain=company.id)
        assert [event["audit_key"] for event in events] == [1, 1, 2]
        mac = b""
        for event in events[:2]:
            record = event["record"].replace("happened", "forged")
            mac = link(old_key, company.id, event["seq"], mac, record)
            query = (
                "UPDATE audit_events SET record = %(record)s, mac = %(mac)s WHERE chain = %(chain)s AND seq = %(seq)s"
            )
            await sql(past, query, record=record, mac=mac, chain=company.id, seq=event["seq"])
    faults = [fault for found in await one.events.verify_all() for fault in found.faults]
    assert [(fault.chain, fault.seq) for fault in faults] == [(company.id, 3)]
